use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::BaseProducer;

use super::*;

fn parse(toml: &str) -> Result<KafkaIngestConfig, String> {
    toml::from_str(toml).map_err(|error| error.message().to_owned())
}

fn refusal(config: &KafkaIngestConfig) -> String {
    config.validate().expect_err("is refused").to_string()
}

#[test]
fn defaults_are_as_documented_and_valid() {
    let config = parse("").unwrap();
    assert_eq!(config, KafkaIngestConfig::default());
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.topics, ["scheduler.jobs.ingest"]);
    assert_eq!((config.max_poll_records.get(), config.topic_partitions.get()), (500, 6));
    assert_eq!(KafkaIngestConfig::builder().build(), Ok(config));
}

#[test]
fn topics_are_one_or_many_but_not_both() {
    for (written, meant) in [
        ("topic = 'a'", vec!["a"]),
        ("topics = ['a', 'b']", vec!["a", "b"]),
        ("topics = 'a'", vec!["a"]),
    ] {
        assert_eq!(parse(written).unwrap().topics, meant, "{written}");
    }
    let error = parse("topic = 'a'\ntopics = ['b']").unwrap_err();
    assert!(error.contains("duplicate field"), "{error}");
}

#[test]
fn properties_are_text_however_they_are_written() {
    let config = parse(
        r#"properties = { "sasl.username" = "u", linger.ms = 7, "socket.keepalive.enable" = true }"#,
    )
    .unwrap();
    let written: Vec<_> = config.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let meant = [("linger.ms", "7"), ("sasl.username", "u"), ("socket.keepalive.enable", "true")];
    assert_eq!(written, meant);
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn what_is_written_can_be_read_again() {
    let config = KafkaIngestConfig::builder()
        .topics(["a", "b"])
        .on_offset_lost(OnOffsetLost::Stop)
        .property("sasl.password", "hush")
        .build()
        .unwrap();
    assert_eq!(parse(&toml::to_string(&config).unwrap()), Ok(config));
}

#[test]
fn what_cannot_work_is_refused_in_a_sentence() {
    let with = |change: fn(&mut KafkaIngestConfig)| {
        let mut config = KafkaIngestConfig::default();
        change(&mut config);
        config
    };
    for (config, part) in [
        (with(|c| c.enable_auto_commit = true), "offsets are kept in the database"),
        (with(|c| c.bootstrap_servers.clear()), "bootstrap_servers is empty"),
        (with(|c| c.group_id = "hush\n".into()), "group_id ends with a line feed (U+000A)"),
        (with(|c| c.bootstrap_servers += " "), "bootstrap_servers ends with a space"),
        (
            with(|c| drop(c.properties.insert("sasl.password".into(), "hush\n".into()))),
            "properties.\"sasl.password\" ends with a line feed",
        ),
        (with(|c| c.topics.clear()), "topics is empty"),
        (with(|c| c.topics = vec!["^all.*".into()]), "topics has \"^all.*\""),
        (with(|c| c.topics.push("scheduler.jobs.ingest".into())), "twice"),
        (with(|c| c.dlq_topic = "scheduler.jobs.ingest".into()), "every dead letter comes back"),
    ] {
        let sentence = refusal(&config);
        assert!(sentence.contains(part), "{sentence}");
        assert!(!sentence.contains("hush"), "{sentence}");
    }
    let zero = KafkaIngestConfig::builder().max_poll_records(0).build().unwrap_err();
    assert_eq!(zero.to_string(), "max_poll_records is 0, but must be at least 1");
}

#[test]
fn a_property_that_is_ours_or_nobodys_is_refused_by_name() {
    for (property, value, part) in [
        ("group.id", "x", "set group_id"),
        ("bootstrap.servers", "x", "set bootstrap_servers"),
        ("auto.offset.reset", "latest", "set on_offset_lost"),
        ("enable.auto.commit", "true", "offsets are kept in the database"),
        ("partition.assignment.strategy", "range", "cooperative-sticky"),
        ("acks", "1", "would be lost"),
        ("transactional.id", "t", "transactions"),
        ("sasl.user", "x", "No such configuration property"),
        ("security.protocol", "tls", "Invalid value"),
        ("session.timeout.ms", "0", "outside allowed range 1..3600000)"),
    ] {
        let mut config = KafkaIngestConfig::default();
        config.properties.insert(property.into(), value.into());
        let sentence = refusal(&config);
        assert!(
            sentence.starts_with(&format!("properties.\"{property}\" is refused")),
            "{sentence}"
        );
        assert!(sentence.contains(part), "{sentence}");
    }
}

#[test]
fn each_client_is_given_only_its_own_properties() {
    let config = KafkaIngestConfig::builder()
        .property("session.timeout.ms", "7000")
        .property("queue.buffering.max.ms", "20")
        .property("client.id", "mine")
        .build()
        .unwrap();
    let (consumer, producer) = (config.to_client_config(), config.to_producer_config());
    for (name, of_consumer, of_producer) in [
        ("client.id", Some("mine"), Some("mine")),
        ("bootstrap.servers", Some("localhost:9092"), Some("localhost:9092")),
        ("session.timeout.ms", Some("7000"), None),
        ("group.id", Some("infinite-scheduler-ingest"), None),
        ("fetch.queue.backoff.ms", Some("10"), None),
        ("partition.assignment.strategy", Some("cooperative-sticky"), None),
        ("linger.ms", None, Some("20")),
        ("queue.buffering.max.ms", None, None),
        ("acks", None, Some("all")),
    ] {
        assert_eq!(consumer.get(name), of_consumer, "{name}");
        assert_eq!(producer.get(name), of_producer, "{name}");
    }
}

#[test]
fn clients_can_be_made_and_nothing_of_ours_is_overridden() {
    let nowhere = "127.0.0.1:1".into();
    let mut config = KafkaIngestConfig { bootstrap_servers: nowhere, ..Default::default() };
    config.properties.insert("enable.auto.commit".into(), "true".into());
    assert_eq!(config.to_client_config().get("enable.auto.commit"), Some("false"));
    let _consumer: BaseConsumer = config.to_client_config().create().unwrap();
    let _producer: BaseProducer = config.to_producer_config().create().unwrap();
    for name in properties::CONSUMER_ONLY.iter().chain(properties::PRODUCER_ONLY) {
        let verdict =
            properties::validate(name, "?").map_or_else(|e| e.to_string(), |()| String::new());
        assert!(!verdict.contains("No such configuration property"), "{verdict}");
    }
}

#[test]
fn secrets_are_never_shown() {
    for name in ["sasl.password", "ssl.key.pem", "sasl.oauthbearer.client.secret", "ssl_key"] {
        let config = KafkaIngestConfig::builder().property(name, "hush");
        assert!(!format!("{config:?}").contains("hush"), "{name}");
    }
    let mut config = KafkaIngestConfig::default();
    config.properties.insert("sasl.passwords".into(), "hush".into());
    assert!(!refusal(&config).contains("hush"));
}

#[test]
fn the_groups_session_follows_the_lease_but_not_below_what_brokers_accept() {
    let with = |properties: &[(&str, &str)]| KafkaIngestConfig {
        properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..KafkaIngestConfig::default()
    };
    for (lease_s, properties, session, heartbeat) in [
        (10, &[][..], "10000", "1000"),
        (1, &[], "6000", "600"),
        (60, &[], "60000", "1000"),
        (900, &[], "300000", "1000"),
        (10, &[("session.timeout.ms", "45000")], "45000", "1000"),
        (10, &[("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "300")], "3000", "300"),
    ] {
        let lease = Duration::from_secs(lease_s);
        let config = with(properties);
        assert_eq!(config.validate_session(lease), Ok(()), "{lease_s} {properties:?}");
        let member = config.to_member_config(lease, 6);
        assert_eq!(member.get("session.timeout.ms"), Some(session), "{lease_s} {properties:?}");
        assert_eq!(
            member.get("heartbeat.interval.ms"),
            Some(heartbeat),
            "{lease_s} {properties:?}"
        );
        let _consumer: BaseConsumer = member.create().unwrap();
        let is_longer = config.session_warning(lease).is_some();
        assert_eq!(is_longer, session == "45000", "{lease_s} {properties:?}");
    }
    for (properties, parts) in [
        (&[("heartbeat.interval.ms", "9000")][..], ["heartbeat.interval.ms\" = 9000", "10000"]),
        (
            &[("session.timeout.ms", "400000")],
            ["session.timeout.ms\" = 400000", "instance.lease_ms"],
        ),
    ] {
        let refused = with(properties).validate_session(Duration::from_secs(10));
        let sentence = refused.expect_err("is refused").to_string();
        for part in parts {
            assert!(sentence.contains(part), "{part} in {sentence}");
        }
    }
}
