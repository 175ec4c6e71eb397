# MariaDB of the distribution. root has no password, on 127.0.0.1 only.

mariadb_installed() { command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null; }

mariadb_packages() { mariadb_installed || echo mariadb-server; }

mariadb_after_install() { disable_unit mariadb.service; }

mariadb_fetch() { :; }

mariadb_prepare() {
    local dir=$run_dir/mariadb
    make_folder "$dir" mysql
    make_folder "$dir/data" mysql
    as_user mysql mariadb-install-db --no-defaults --datadir="$dir/data" --skip-test-db \
        --auth-root-authentication-method=normal >"$run_dir/mariadb.log" 2>&1 || return 1
    ports[mariadb]=$(free_port)
}

mariadb_launch() {
    local dir=$run_dir/mariadb
    launch mariadb mysql KILL mariadbd --no-defaults --datadir="$dir/data" --port="${ports[mariadb]}" \
        --bind-address=127.0.0.1 --socket="$dir/socket" --pid-file="$dir/pid" --max-connections=300 \
        --innodb-buffer-pool-size=256M
    # Through the socket in this run's own folder: a port could be somebody else's server.
    await mariadb 60 mariadb --no-defaults --socket="$dir/socket" --user=root -e 'SELECT 1'
}

mariadb_stop() { stop mariadb KILL; }

mariadb_export() {
    export INFINITE_SCHEDULER_TEST_MYSQL_URL="mysql://root:@127.0.0.1:${ports[mariadb]}"
}
