# PgBouncer of the distribution, for a PostgreSQL that the environment names as host:port:
#   INFINITE_SCHEDULER_TEST_PGBOUNCER_SERVER   its address
#   INFINITE_SCHEDULER_TEST_PGBOUNCER_MODE     session or transaction
# It ignores unknown startup parameters, as many installations do.

pgbouncer_installed() { command -v pgbouncer >/dev/null && command -v psql >/dev/null; }

pgbouncer_packages() { pgbouncer_installed || printf '%s\n' pgbouncer postgresql-client; }

pgbouncer_after_install() { disable_unit pgbouncer.service; }

pgbouncer_fetch() { :; }

pgbouncer_prepare() {
    local dir=$run_dir/pgbouncer server=${INFINITE_SCHEDULER_TEST_PGBOUNCER_SERVER:?}
    make_folder "$dir" daemon
    ports[pgbouncer]=$(free_port)
    echo '"postgres" ""' >"$dir/users.txt"
    cat >"$dir/pgbouncer.ini" <<INI
[databases]
* = host=${server%:*} port=${server##*:}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${ports[pgbouncer]}
unix_socket_dir = $dir
auth_type = trust
auth_file = $dir/users.txt
pool_mode = ${INFINITE_SCHEDULER_TEST_PGBOUNCER_MODE:?}
default_pool_size = 30
ignore_startup_parameters = extra_float_digits,options
INI
}

pgbouncer_launch() {
    local dir=$run_dir/pgbouncer
    # It refuses to run as root.
    launch pgbouncer daemon KILL pgbouncer "$dir/pgbouncer.ini"
    # Through the socket in this run's own folder: the port could be that of another server.
    await pgbouncer 15 psql -X -h "$dir" -p "${ports[pgbouncer]}" -U postgres -d postgres -c 'SELECT 1'
}

pgbouncer_stop() { stop pgbouncer KILL; }

pgbouncer_export() {
    export INFINITE_SCHEDULER_TEST_PGBOUNCER="127.0.0.1:${ports[pgbouncer]}"
}
