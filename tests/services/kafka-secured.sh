# Apache Kafka that requires TLS and SASL/SCRAM, and permits a user only what it is authorised to do.
# Only the tests of these features use this service.

kafka-secured_packages() {
    kafka_packages
    command -v openssl >/dev/null || echo openssl
}

kafka-secured_after_install() { kafka_after_install; }

kafka-secured_fetch() { kafka_fetch; }

kafka-secured_prepare() {
    local dir=$run_dir/kafka-secured
    mkdir -p "$dir"
    ports[kafka-secured]=$(free_port)
    kafka_secrets[admin]=$(random_password)
    kafka_secrets[user]=$(random_password)
    kafka-secured_certificate "$dir" >"$run_dir/kafka-secured.log" 2>&1 || return 1
    {
        kafka_properties SASL_SSL "${ports[kafka-secured]}" "$dir"
        kafka-secured_properties "$dir"
    } >"$dir/server.properties"
    kafka-secured_client >"$dir/admin.properties"
    kafka_format kafka-secured \
        --add-scram "SCRAM-SHA-512=[name=admin,password=${kafka_secrets[admin]}]" \
        --add-scram "SCRAM-SHA-512=[name=scheduler,password=${kafka_secrets[user]}]"
}

declare -A kafka_secrets=()

# Letters and digits only, because they are used in properties and in lists with commas.
random_password() { head -c 64 /dev/urandom | base64 -w 0 | tr -d '+/=' | cut -c 1-24; }

# kafka-secured_certificate FOLDER: creates the broker's self-signed certificate, which clients trust.
kafka-secured_certificate() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=infinite-scheduler-test \
        -addext subjectAltName=IP:127.0.0.1 -keyout "$1/key.pem" -out "$1/ca.pem" || return 1
    cat "$1/key.pem" "$1/ca.pem" >"$1/keystore.pem"
}

# kafka-secured_properties FOLDER
kafka-secured_properties() {
    cat <<EOF

ssl.keystore.type=PEM
ssl.keystore.location=$1/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$1/ca.pem
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$(scram_login)

authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
# The controller's own listener is only used by this broker, and has no authentication.
super.users=User:admin;User:ANONYMOUS
EOF
}

# The properties for the broker's own tools.
kafka-secured_client() {
    cat <<EOF
security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=$(scram_login)
ssl.truststore.type=PEM
ssl.truststore.location=$run_dir/kafka-secured/ca.pem
EOF
}

scram_login() {
    echo "org.apache.kafka.common.security.scram.ScramLoginModule required" \
        "username=\"admin\" password=\"${kafka_secrets[admin]}\";"
}

kafka-secured_launch() { kafka_launch_as kafka-secured; }

kafka-secured_stop() { stop kafka-secured KILL; }

# kafka-secured_tool CLASS ARGUMENT...: runs one of Kafka's tools as the admin.
kafka-secured_tool() {
    local class=$1 command
    shift
    kafka_command -Xmx128m -XX:TieredStopAtLevel=1 "$class" \
        --bootstrap-server "127.0.0.1:${ports[kafka-secured]}" \
        --command-config "$run_dir/kafka-secured/admin.properties" "$@"
    "${command[@]}"
}

kafka-secured_export() {
    export INFINITE_SCHEDULER_TEST_KAFKA_SECURED="127.0.0.1:${ports[kafka-secured]}"
    export INFINITE_SCHEDULER_TEST_KAFKA_SECURED_CA="$run_dir/kafka-secured/ca.pem"
    export INFINITE_SCHEDULER_TEST_KAFKA_SECURED_USER=scheduler
    export INFINITE_SCHEDULER_TEST_KAFKA_SECURED_PASSWORD="${kafka_secrets[user]}"
    export INFINITE_SCHEDULER_TEST_KAFKA_SECURED_ADMIN=admin
    export INFINITE_SCHEDULER_TEST_KAFKA_SECURED_ADMIN_PASSWORD="${kafka_secrets[admin]}"
}
