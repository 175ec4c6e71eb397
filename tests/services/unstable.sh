# Database servers of Debian's unstable suite, which has versions that older Debian releases do not,
# run from folders below target/test-services. The system's packages, lists and caches are not touched.

# unstable_root NAME: the folder into which the packages of a service are unpacked.
unstable_root() { echo "$root/target/test-services/unstable/$1"; }

unstable_fetched() { [ -e "$(unstable_root "$1")/complete" ]; }

# unstable_fetch NAME PACKAGE...: the packages and everything that they depend on, the C library included,
# so that nothing depends on the age of the system. A folder that is complete is kept.
unstable_fetch() {
    local name=$1 folder partial mirror
    shift
    unstable_fetched "$name" && return 0
    command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
        die "$name comes from Debian's unstable suite, which needs apt-get and dpkg; name a running server (tests/run --help)"
    folder=$(unstable_root "$name")
    mkdir -p "$(dirname "$folder")"
    # Renamed when it is complete, so that an interrupted download is not used.
    partial=$(mktemp -d "$folder.XXXXXX")
    chmod 755 "$partial"
    for mirror in $(unstable_mirrors); do
        say "fetching $* of Debian's unstable suite"
        if unstable_unpack "$partial" "$mirror" "$@" >>"$run_dir/apt-unstable.log" 2>&1; then
            unstable_wrap "$partial"
            touch "$partial/complete"
            rm -rf "$folder"
            mv "$partial" "$folder"
            return 0
        fi
    done
    rm -rf "$partial"
    tail -n 30 "$run_dir/apt-unstable.log" >&2 || true
    die "$* of Debian's unstable suite could not be fetched from the mirrors of /etc/apt/sources.list(.d)"
}

# The archives that the system itself is installed from; those of security updates have no such suite.
unstable_mirrors() {
    apt-get update --print-uris 2>/dev/null |
        sed -n "s:^'\([^']*\)/dists/.*:\1:p" | grep -v security | sort -u
}

# unstable_unpack FOLDER MIRROR PACKAGE...
unstable_unpack() {
    local folder=$1 apt=$1/apt mirror=$2 keys=/usr/share/keyrings/debian-archive-keyring.gpg signed= deb
    shift 2
    rm -rf "$apt"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    # An empty list of installed packages: nothing is taken from the system.
    : >"$apt/status"
    [ ! -e "$keys" ] || signed="[signed-by=$keys]"
    echo "deb $signed $mirror unstable main" >"$apt/sources.list"
    unstable_apt_conf "$apt" >"$apt/apt.conf"
    APT_CONFIG=$apt/apt.conf apt-get update || return 1
    APT_CONFIG=$apt/apt.conf apt-get install -y --no-install-recommends --download-only "$@" || return 1
    for deb in "$apt"/cache/archives/*.deb; do dpkg -x "$deb" "$folder" || return 1; done
    rm -rf "$apt"
}

# unstable_apt_conf FOLDER: the system's settings (a proxy, say) with all files in FOLDER, and without the
# hooks that tidy the system's own.
unstable_apt_conf() {
    apt-config dump | grep -Ev '^(Dir|APT::Update|APT::Default-Release|DPkg)'
    cat <<CONF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$1/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$1/state";
Dir::State::status "$1/status";
Dir::Cache "$1/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
CONF
}

# unstable_wrap FOLDER: each program becomes a script that starts it through the folder's own dynamic
# loader, with the folder's libraries. A program that starts another one starts such a script as well.
unstable_wrap() {
    local program depth
    for program in "$1"/usr/bin/* "$1"/usr/sbin/* "$1"/usr/lib/postgresql/*/bin/*; do
        [ -f "$program" ] && [ ! -L "$program" ] && unstable_is_binary "$program" || continue
        mv "$program" "$program.binary"
        # The way from the program's folder up to FOLDER.
        depth=$(dirname "${program#"$1"/}" | sed 's:[^/][^/]*:..:g')
        cat >"$program" <<SCRIPT
#!/bin/sh
program=\$(readlink -f "\$0")
folder=\$(dirname "\$program")/$depth
libraries=\$(echo "\$folder"/usr/lib/*-linux-gnu*)
export LOCPATH="\$folder/usr/lib/locale" GCONV_PATH="\$libraries/gconv"
exec "\$folder"/usr/lib*/ld-linux*.so.? --library-path "\$libraries" --argv0 "\$program" \
    "\$program.binary" "\$@"
SCRIPT
        chmod 755 "$program"
    done
}

unstable_is_binary() { [ "$(head -c 4 "$1" | tail -c 3)" = ELF ]; }

# The user that runs such a server if the tests run as root: every Debian has it.
unstable_user=daemon

# unstable_folder NAME: where the server's user can read the programs: the checkout may be private to root.
unstable_folder() {
    local folder=$run_dir/$1.programs
    if [ ! -e "$folder" ]; then
        folder=$(unstable_root "$1")
        if ! as_user "$unstable_user" test -r "$folder/complete"; then
            cp -al "$folder" "$run_dir/$1.programs" 2>/dev/null ||
                { rm -rf "$run_dir/$1.programs" && cp -a "$folder" "$run_dir/$1.programs"; } || return 1
            folder=$run_dir/$1.programs
        fi
    fi
    echo "$folder"
}

# Whether MariaDB and PostgreSQL shall be those of the unstable suite, too.
unstable_wanted() { [ -n "${INFINITE_SCHEDULER_TEST_UNSTABLE:-}" ]; }
