# Functions that the services' scripts share: printing progress, installing packages, starting,
# awaiting and stopping processes. Sourced by tests/run, which sets
#   root      the checkout
#   run_dir   this run's own folder, empty at first

PATH=$PATH:/usr/sbin:/sbin

say() { printf '[%4d s] %s\n' "$SECONDS" "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# ---- packages

# install_packages NAME...: installs with apt-get, without starting or enabling a server.
install_packages() {
    command -v apt-get >/dev/null ||
        die "missing: $*. There is no apt-get here: install them, or name running services (tests/run --help)"
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
        die "missing: $*. Installing them needs root or sudo"
    say "installing $*"
    local log=$run_dir/apt.log policy=/usr/sbin/policy-rc.d ours=
    if [ ! -e "$policy" ]; then
        # Debian asks this script before it starts a service; 101 means no.
        printf '#!/bin/sh\nexit 101\n' >"$run_dir/policy-rc.d"
        as_root install -m 755 "$run_dir/policy-rc.d" "$policy"
        ours=$policy
        policy_to_remove=$policy
    fi
    as_root apt-get update >"$log" 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
            -o DPkg::Lock::Timeout=600 "$@" >>"$log" 2>&1 ||
        { tail -n 30 "$log" >&2; die "apt-get could not install $*"; }
    [ -z "$ours" ] || remove_policy
}

remove_policy() {
    [ -z "${policy_to_remove:-}" ] || as_root rm -f "$policy_to_remove"
    policy_to_remove=
}

# disable_unit UNIT: prevents that a server which was installed for tests starts at the next boot.
disable_unit() {
    [ ! -d /run/systemd/system ] || as_root systemctl disable --quiet "$1" || true
}

# ---- processes

# The pids by service name: no other process is ever stopped.
declare -A pids=()

# launch NAME USER SIGNAL COMMAND...: starts a server in the background, in a session of its own, so
# that Ctrl-C reaches this script alone. As root it runs as USER. Should this script be killed
# outright, the kernel sends SIGNAL to the server.
launch() {
    local name=$1 user=$2 signal=$3
    shift 3
    local change=(--pdeathsig "$signal")
    [ "$(id -u)" -ne 0 ] || change+=(--reuid "$user" --regid "$user" --init-groups)
    setsid setpriv "${change[@]}" "$@" >>"$run_dir/$name.log" 2>&1 </dev/null &
    pids[$name]=$!
}

# as_user USER COMMAND...: for the tools that make a server's files.
as_user() {
    local user=$1
    shift
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid "$user" --regid "$user" --init-groups "$@"
    else
        "$@"
    fi
}

# make_folder PATH USER: a folder that the server's user owns.
make_folder() {
    mkdir -p "$1"
    [ "$(id -u)" -ne 0 ] || chown "$2" "$1"
}

# await NAME SECONDS COMMAND...: until COMMAND succeeds. Fails, with the end of the server's log, when
# the server ends before that or the time is up.
await() {
    local name=$1 deadline=$((SECONDS + $2)) why=
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ! kill -0 "${pids[$name]}" 2>/dev/null; then
            why="has ended"
        elif [ "$SECONDS" -ge "$deadline" ]; then
            why="was not ready in time"
        fi
        if [ -n "$why" ]; then
            say "$name $why; its log ends:"
            tail -n 30 "$run_dir/$name.log" >&2 || true
            return 1
        fi
        sleep 0.1
    done
}

# signal_all NAME SIGNAL: to a server and to the processes that it has forked.
signal_all() {
    local pid=${pids[$1]:-} child
    [ -n "$pid" ] || return 1
    kill -s "$2" "$pid" || return 1
    for child in $(cat "/proc/$pid/task/$pid/children" 2>/dev/null); do
        kill -s "$2" "$child" 2>/dev/null || true
    done
}

# stop NAME SIGNAL: ends a server and waits until it is gone.
stop() {
    local pid=${pids[$1]:-}
    [ -n "$pid" ] || return 0
    unset "pids[$1]"
    kill -s CONT "$pid" 2>/dev/null || true
    kill -s "$2" "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

# ---- ports

# free_port: prints an unused port, below the range that the kernel assigns to clients. Another run may
# use it first: start_service then tries again.
free_port() {
    local port
    while :; do
        port=$((16000 + RANDOM % 16000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# start_service NAME: NAME_prepare makes its files and takes ports, NAME_launch starts it and waits.
start_service() {
    local name=$1 attempt
    for attempt in 1 2 3; do
        rm -rf "${run_dir:?}/$name" "$run_dir/$name.log"
        "${name}_prepare" || die "$name could not be prepared: $(tail -n 30 "$run_dir/$name.log" 2>/dev/null)"
        if "${name}_launch"; then
            say "$name listens on ${ports[$name]}, process ${pids[$name]}"
            return 0
        fi
        "${name}_stop"
        # It is tried again only if another process has taken the port meanwhile.
        grep -qi 'address already in use' "$run_dir/$name.log" || break
        say "$name: somebody else took port ${ports[$name]}; trying another ($attempt of 3)"
    done
    die "$name did not start"
}

declare -A ports=()
