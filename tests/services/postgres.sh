# PostgreSQL of the distribution, any version from 13, or of Debian's unstable suite. Trusts every user on 127.0.0.1.

postgres_installed() { [ -n "$(postgres_bin)" ]; }

# The newest version's folder: Debian keeps the server's programs off the PATH.
postgres_bin() {
    local newest system=
    ! unstable_wanted || system=$(unstable_folder postgres)
    newest=$(ls -d "$system"/usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -V | tail -n 1)
    if [ -n "$newest" ]; then
        dirname "$newest"
    elif command -v initdb >/dev/null; then
        dirname "$(command -v initdb)"
    fi
}

postgres_packages() { unstable_wanted || postgres_installed || echo postgresql; }

postgres_after_install() { unstable_wanted || disable_unit postgresql.service; }

postgres_fetch() { ! unstable_wanted || unstable_fetch postgres postgresql-18 postgresql-client-18; }

# The user that runs the server.
postgres_user() { if unstable_wanted; then echo "$unstable_user"; else echo postgres; fi; }

postgres_prepare() {
    local dir=$run_dir/postgres user
    user=$(postgres_user)
    make_folder "$dir" "$user"
    # It refuses to run as root, hence the other user; --no-sync spares only the empty cluster's fsync.
    as_user "$user" "$(postgres_bin)/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 \
        --no-sync >"$run_dir/postgres.log" 2>&1 || return 1
    ports[postgres]=$(free_port)
}

postgres_launch() {
    local dir=$run_dir/postgres
    launch postgres "$(postgres_user)" QUIT "$(postgres_bin)/postgres" -D "$dir/data" -p "${ports[postgres]}" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories="$dir" -c max_connections=300 \
        -c shared_buffers=256MB
    # Through the socket in this run's own folder: the port could be that of another server.
    await postgres 30 "$(postgres_bin)/psql" -X -h "$dir" -p "${ports[postgres]}" -U postgres -d postgres -c 'SELECT 1'
}

# QUIT is its immediate shutdown, which is enough because the data is deleted.
postgres_stop() { stop postgres QUIT; }

postgres_export() {
    export INFINITE_SCHEDULER_TEST_POSTGRES_URL="postgres://postgres@127.0.0.1:${ports[postgres]}/postgres"
}
