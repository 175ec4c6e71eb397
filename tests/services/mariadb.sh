# MariaDB of the distribution, or of Debian's unstable suite. root has no password, on 127.0.0.1 only.

mariadb_installed() { command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null; }

mariadb_packages() { unstable_wanted || mariadb_installed || echo mariadb-server; }

mariadb_after_install() { unstable_wanted || disable_unit mariadb.service; }

mariadb_fetch() { ! unstable_wanted || unstable_fetch mariadb mariadb-server-core mariadb-client-core; }

# mariadb_programs: sets `programs` to their folder, and `user` to the user that runs the server.
mariadb_programs() {
    programs=/usr user=mysql
    unstable_wanted || return 0
    programs=$(unstable_folder mariadb)/usr user=$unstable_user
}

mariadb_prepare() {
    local dir=$run_dir/mariadb programs user
    mariadb_programs || return 1
    make_folder "$dir" "$user"
    make_folder "$dir/data" "$user"
    as_user "$user" "$programs/bin/mariadb-install-db" --no-defaults --basedir="$programs" \
        --datadir="$dir/data" --skip-test-db --auth-root-authentication-method=normal \
        >"$run_dir/mariadb.log" 2>&1 || return 1
    ports[mariadb]=$(free_port)
}

mariadb_launch() {
    local dir=$run_dir/mariadb programs user
    mariadb_programs || return 1
    # Options for a server that a test starts for itself, one word each.
    local options
    read -ra options <<<"${INFINITE_SCHEDULER_TEST_MARIADB_OPTIONS:-}"
    # Without TLS, which newer versions offer by default: some tests read the protocol.
    launch mariadb "$user" KILL "$programs/sbin/mariadbd" --no-defaults --basedir="$programs" \
        --datadir="$dir/data" --port="${ports[mariadb]}" --bind-address=127.0.0.1 --socket="$dir/socket" \
        --pid-file="$dir/pid" --max-connections=300 --innodb-buffer-pool-size=256M --skip-ssl \
        "${options[@]}"
    # Through the socket in this run's own folder: the port could be that of another server.
    await mariadb 60 "$programs/bin/mariadb" --no-defaults --skip-ssl --socket="$dir/socket" --user=root -e 'SELECT 1'
}

mariadb_stop() { stop mariadb KILL; }

mariadb_export() {
    export INFINITE_SCHEDULER_TEST_MYSQL_URL="mysql://root:@127.0.0.1:${ports[mariadb]}"
}
