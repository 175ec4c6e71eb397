# Redis of the distribution, without authentication on 127.0.0.1; nothing is kept on disk.

redis_installed() { command -v redis-server >/dev/null && command -v redis-cli >/dev/null; }

redis_packages() { redis_installed || echo redis-server; }

redis_after_install() { disable_unit redis-server.service; }

redis_fetch() { :; }

redis_prepare() {
    make_folder "$run_dir/redis" redis
    ports[redis]=$(free_port)
}

redis_launch() {
    local dir=$run_dir/redis
    launch redis redis KILL redis-server --port "${ports[redis]}" --bind 127.0.0.1 \
        --dir "$dir" --unixsocket "$dir/socket" --save '' --appendonly no
    # Through the socket in this run's own folder: the port could be that of another server.
    await redis 15 redis-cli -s "$dir/socket" ping
}

redis_stop() { stop redis KILL; }

redis_export() { export INFINITE_SCHEDULER_TEST_REDIS="redis://127.0.0.1:${ports[redis]}"; }
