# MySQL of Debian's unstable suite (no stable one has it), with its binary log, as by default.
# root has no password, on 127.0.0.1 only.

mysql_packages() { :; }

mysql_after_install() { :; }

mysql_fetch() { unstable_fetch mysql mysql-server-core mysql-client-core; }

# mysql_programs: sets `programs` to their folder.
mysql_programs() { programs=$(unstable_folder mysql)/usr; }

mysql_prepare() {
    local dir=$run_dir/mysql programs
    mysql_programs || return 1
    make_folder "$dir" "$unstable_user"
    as_user "$unstable_user" "$programs/sbin/mysqld" --no-defaults --initialize-insecure \
        --basedir="$programs" --datadir="$dir/data" --secure-file-priv=NULL \
        >"$run_dir/mysql.log" 2>&1 || return 1
    ports[mysql]=$(free_port)
}

mysql_launch() {
    local dir=$run_dir/mysql programs
    mysql_programs || return 1
    launch mysql "$unstable_user" KILL "$programs/sbin/mysqld" --no-defaults --basedir="$programs" \
        --datadir="$dir/data" --secure-file-priv=NULL --port="${ports[mysql]}" --bind-address=127.0.0.1 \
        --socket="$dir/socket" --pid-file="$dir/pid" --mysqlx=OFF --max-connections=300 \
        --innodb-buffer-pool-size=256M
    # Through the socket in this run's own folder: the port could be that of another server.
    await mysql 60 "$programs/bin/mysql" --no-defaults --socket="$dir/socket" --user=root -e 'SELECT 1'
}

mysql_stop() { stop mysql KILL; }

# Without TLS, which it offers by default: some tests read the protocol.
mysql_export() {
    export INFINITE_SCHEDULER_TEST_MYSQL9_URL="mysql://root:@127.0.0.1:${ports[mysql]}?ssl-mode=DISABLED"
}
