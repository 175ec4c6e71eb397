# PostgreSQL of the distribution, any version from 13. Trusts everybody on 127.0.0.1.

postgres_installed() { [ -n "$(postgres_bin)" ]; }

# The newest version's folder: Debian keeps the server's programs off the PATH.
postgres_bin() {
    local newest
    newest=$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -V | tail -n 1)
    if [ -n "$newest" ]; then
        dirname "$newest"
    elif command -v initdb >/dev/null; then
        dirname "$(command -v initdb)"
    fi
}

postgres_packages() { postgres_installed || echo postgresql; }

postgres_after_install() { disable_unit postgresql.service; }

postgres_fetch() { :; }

postgres_prepare() {
    local dir=$run_dir/postgres
    make_folder "$dir" postgres
    # It refuses to run as root, hence the other user; --no-sync spares only the empty cluster's fsync.
    as_user postgres "$(postgres_bin)/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 \
        --no-sync >"$run_dir/postgres.log" 2>&1 || return 1
    ports[postgres]=$(free_port)
}

postgres_launch() {
    local dir=$run_dir/postgres
    launch postgres postgres QUIT "$(postgres_bin)/postgres" -D "$dir/data" -p "${ports[postgres]}" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories="$dir" -c max_connections=300 \
        -c shared_buffers=256MB
    # Through the socket in this run's own folder: a port could be somebody else's server.
    await postgres 30 "$(postgres_bin)/psql" -X -h "$dir" -p "${ports[postgres]}" -U postgres -d postgres -c 'SELECT 1'
}

# QUIT is its immediate shutdown: the data goes away with it.
postgres_stop() { stop postgres QUIT; }

postgres_export() {
    export INFINITE_SCHEDULER_TEST_POSTGRES_URL="postgres://postgres@127.0.0.1:${ports[postgres]}/postgres"
}
