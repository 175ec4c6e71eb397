# Apache Kafka, one node that is broker and controller, from the jars on Maven Central (pom.xml).

kafka_jars() { echo "$root/target/test-services/kafka"; }

kafka_version() { sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$root/tests/services/pom.xml"; }

kafka_fetched() { [ -e "$(kafka_jars)/kafka-server-$(kafka_version).jar" ]; }

# Kafka 4 needs Java 17. Maven is needed for the first run only.
kafka_packages() {
    java_is_recent || echo default-jre-headless
    kafka_fetched || command -v mvn >/dev/null || echo maven
}

java_is_recent() {
    local major
    major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 17 ]
}

kafka_after_install() { java_is_recent || die "Kafka needs Java 17 or later; this is: $(java -version 2>&1 | head -n 1)"; }

# Into a temporary folder that is then renamed, so that an interrupted download is not used.
kafka_fetch() {
    kafka_fetched && return 0
    say "fetching Apache Kafka $(kafka_version) from Maven Central"
    local jars partial attempt
    jars=$(kafka_jars)
    partial=$(mktemp -d "$jars.XXXXXX")
    for attempt in 1 2 3; do
        if mvn --batch-mode --no-transfer-progress -f "$root/tests/services/pom.xml" \
            org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
            -DincludeScope=runtime -DoutputDirectory="$partial" >"$run_dir/maven.log" 2>&1; then
            rm -rf "$jars"
            mv "$partial" "$jars"
            return 0
        fi
        say "fetching failed ($attempt of 3)"
    done
    rm -rf "$partial"
    tail -n 30 "$run_dir/maven.log" >&2
    die "Apache Kafka could not be fetched"
}

kafka_prepare() {
    mkdir -p "$run_dir/kafka"
    ports[kafka]=$(free_port)
    kafka_properties PLAINTEXT "${ports[kafka]}" "$run_dir/kafka" >"$run_dir/kafka/server.properties"
    kafka_format kafka
}

# kafka_format NAME ARGUMENT...: creates a broker's empty log.
kafka_format() {
    local name=$1 cluster command
    shift
    # 22 characters of base64; the first must not look like an option.
    cluster=A$(head -c 32 /dev/urandom | base64 -w 0 | tr '+/' 'ab' | cut -c 1-21)
    kafka_command -Xmx256m kafka.tools.StorageTool format -t "$cluster" \
        -c "$run_dir/$name/server.properties" "$@"
    "${command[@]}" >>"$run_dir/$name.log" 2>&1
}

kafka_launch() { kafka_launch_as kafka; }

# kafka_launch_as NAME: a broker that was formatted under that name.
kafka_launch_as() {
    local started command
    started=$(kafka_starts "$1")
    kafka_command -Xms256m -Xmx1g kafka.Kafka "$run_dir/$1/server.properties"
    launch "$1" "$(id -un)" KILL "${command[@]}"
    # The line is in this run's own log: the port could be that of another broker.
    await "$1" 60 kafka_ready "$1" "$started"
}

kafka_ready() { [ "$(kafka_starts "$1")" -gt "$2" ] && (exec 3<>"/dev/tcp/127.0.0.1/${ports[$1]}"); }

kafka_starts() { grep -c 'Kafka Server started' "$run_dir/$1.log" || true; }

kafka_stop() { stop kafka KILL; }

kafka_export() { export INFINITE_SCHEDULER_TEST_KAFKA="127.0.0.1:${ports[kafka]}"; }

# kafka_command ARGUMENT...: sets `command` to java with Kafka's jars, quiet but for the line that says
# that the broker has started.
kafka_command() {
    command=(java -cp "$(kafka_jars)/*" -Dorg.slf4j.simpleLogger.defaultLogLevel=warn
        -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info "$@")
}

# kafka_properties PROTOCOL PORT FOLDER: of a broker that clients reach by that security protocol.
kafka_properties() {
    local controller
    controller=$(free_port)
    cat <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=$1://127.0.0.1:$2,CONTROLLER://127.0.0.1:$controller
advertised.listeners=$1://127.0.0.1:$2
inter.broker.listener.name=$1
controller.listener.names=CONTROLLER
listener.security.protocol.map=$1:$1,CONTROLLER:PLAINTEXT
log.dirs=$3/data

# There is only one node.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

auto.create.topics.enable=false
delete.topic.enable=true

# Groups form at once. The minimum of a session timeout is the default.
group.initial.rebalance.delay.ms=0

# Retention and compaction run within seconds; by default within minutes.
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.cleaner.backoff.ms=200
log.cleaner.min.cleanable.ratio=0.01
log.segment.delete.delay.ms=500

# Needed by one test.
${INFINITE_SCHEDULER_TEST_KAFKA_PROPERTIES:-}
EOF
}
