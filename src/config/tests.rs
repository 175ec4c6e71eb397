//! What a file and the environment mean, and which of them are refused.

mod secrets;
mod targets;
mod values;

use std::num::NonZeroU32;

use secrecy::ExposeSecret;

use super::*;
use crate::model::rate::Rate;
use crate::model::retry::Backoff;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let env =
        env.iter().map(|(key, value)| (format!("INFINITE_SCHEDULER__{key}"), (*value).into()));
    Config::from_toml(text, env).map_err(|error| error.to_string())
}

/// Each text is refused with exactly this sentence.
fn check_refusals(cases: &[(&str, &str)]) {
    for (text, sentence) in cases {
        assert_eq!(load(text, &[]).expect_err(text), *sentence, "{text}");
    }
}

fn app(config: &Config, name: &str) -> AppSettings {
    config.apps[&AppName::new(name).unwrap()].clone()
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = load("", &[]).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    assert_eq!(config.default_time_zone, TimeZone::UTC);
    assert_eq!(config.database.url.expose_secret(), "sqlite://infinite-scheduler.db?mode=rwc");
    assert!(config.kafka.is_none() && config.apps.is_empty());
    assert_eq!(config.ingest.max_schedule_ahead, s(3650 * 86_400));
    assert_eq!(config.ingest.max_record_bytes, 1_048_576);
    assert_eq!(config.ingest.max_batch_bytes, 8_388_608);
    assert_eq!(config.idempotency.window, s(24 * 3600));
    assert_eq!(config.audit.keep, s(365 * 86_400));
    assert_eq!((config.instance.lease, config.instance.drain_timeout), (s(10), s(25)));
    assert!(!config.instance.id.is_empty());
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(config.log.metrics_interval, s(10));
}

#[test]
fn an_app_that_is_only_named_has_the_default_policy() {
    let config = load("[apps.x]\n[kafka]", &[]).unwrap();
    assert_eq!(config.kafka, Some(KafkaIngestConfig::default()));
    let AppSettings { app, dispatch, mask } = app(&config, "x");
    assert_eq!((app, mask), (AppConfig::new("x"), Vec::new()));
    assert!(matches!(dispatch, Dispatch::Log));
}

#[test]
fn the_documented_file_is_read_but_for_what_comes_later() {
    let config = load(
        r#"
        default_time_zone = "Asia/Dhaka"
        [database]
        url = "postgres://user:pass@host/db"
        max_connections = 4
        [kafka]
        bootstrap_servers = "k:9092"
        topic = "in"
        on_offset_lost = "stop"
        properties = { "security.protocol" = "SASL_SSL", "sasl.password" = "hush" }
        [audit]
        keep_days = 30
        [instance]
        id = "scheduler-1"
        [log]
        format = "json"
        [apps.sms]
        dispatch = "kafka"
        topic = "sms.due"
        required_fields = ["phoneNumber", "message"]
        max_in_flight = 5
        max_attempts = 4
        backoff = { initial_ms = 500, factor = 3, max_ms = 9000 }
        timeout_ms = 7000
        delivery = "at-least-once"
        rate_per_second = 0.5
        burst = 7
        max_concurrent = 9
        max_concurrent_per_key = 2
        priority_aging_ms = 1000
        history_hours = 0
        objective_ms = 250
        shards = 2
        window = 20
        [apps.mail]
        dispatch = "discard"
        backoff = { delays_ms = [1000, 5000] }
        "#,
        &[],
    )
    .unwrap();
    assert_eq!(config.default_time_zone.iana_name(), Some("Asia/Dhaka"));
    assert_eq!(config.audit.keep, s(30 * 86_400));
    assert_eq!(config.instance.id, "scheduler-1");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.kafka.as_ref().unwrap().topics, ["in"]);
    let sms = app(&config, "sms");
    assert!(matches!(sms.dispatch, Dispatch::Kafka(target) if target.topic == "sms.due"));
    assert_eq!(sms.app.required_fields, ["phoneNumber", "message"]);
    assert_eq!((sms.app.timeout, sms.app.priority_aging), (s(7), s(1)));
    assert_eq!(sms.app.history, s(0));
    assert_eq!(sms.app.objective, Some(Duration::from_millis(250)));
    assert_eq!(sms.app.rate, Some(Rate::new(0.5, NonZeroU32::new(7)).unwrap()));
    assert_eq!(app(&config, "mail").app.rate, None);
    assert_eq!(sms.app.max_concurrent, NonZeroU32::new(9));
    assert_eq!(sms.app.max_concurrent_per_key.get(), 2);
    assert_eq!((sms.app.shards.get(), sms.app.window.get()), (2, 20));
    assert_eq!((sms.app.max_in_flight.get(), sms.app.max_attempts.get()), (5, 4));
    let initial = Duration::from_millis(500);
    assert_eq!(sms.app.backoff, Backoff::Exponential { initial, factor: 3.0, max: s(9) });
    assert_eq!(app(&config, "mail").app.backoff, Backoff::Delays(vec![s(1), s(5)]));
    let shown = format!("{config:?}");
    assert!(!shown.contains("pass@") && !shown.contains("hush"), "{shown}");
}

#[test]
fn the_environment_wins_and_the_keys_type_decides_what_a_number_is() {
    let config = load(
        "[kafka]\ntopic = 'file'\ngroup_id = 'file'",
        &[
            ("KAFKA__TOPIC", "env"),
            ("KAFKA__GROUP_ID", "123"),
            ("KAFKA__DLQ_TOPIC", "1_000"),
            ("KAFKA__MAX_POLL_RECORDS", "50"),
            ("KAFKA__PROPERTIES__SASL__PASSWORD", "0x10"),
            ("INSTANCE__ID", "true"),
            ("DATABASE__URL", "mysql://u:pw@h/db"),
            ("APPS__SMS__REQUIRED_FIELDS", "['a']"),
            ("APPS__SMS__BACKOFF__INITIAL_MS", "5"),
        ],
    )
    .unwrap();
    let kafka = config.kafka.as_ref().unwrap();
    assert_eq!((&*kafka.topics, kafka.group_id.as_str()), (&["env".to_owned()][..], "123"));
    assert_eq!((kafka.dlq_topic.as_str(), kafka.max_poll_records.get()), ("1_000", 50));
    assert_eq!(kafka.properties["sasl.password"], "0x10");
    assert_eq!(config.instance.id, "true");
    assert_eq!(config.database.url.expose_secret(), "mysql://u:pw@h/db");
    assert_eq!(app(&config, "sms").app.required_fields, ["a"]);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    check_refusals(&[
        ("kafka.topik = 'x'", "kafka.topik is not a known key: did you mean kafka.topic?"),
        ("kafak = 1", "kafak is not a known key: did you mean kafka?"),
        (
            "apps.sms.max_inflight = 1",
            "apps.sms.max_inflight is not a known key: did you mean apps.sms.max_in_flight?",
        ),
        (
            "apps.sms.backoff = { delays = [1] }",
            "apps.sms.backoff.delays is not a known key: did you mean apps.sms.backoff.delays_ms?",
        ),
    ]);
    assert_eq!(
        load("", &[("INGEST__MAX_RECORD_BYTE", "1")]).unwrap_err(),
        "ingest.max_record_byte (by INFINITE_SCHEDULER__INGEST__MAX_RECORD_BYTE) is not a known \
         key: did you mean ingest.max_record_bytes?"
    );
}

#[test]
fn wrong_types_name_the_key_the_value_and_what_is_expected() {
    check_refusals(&[
        (
            "kafka.max_poll_records = 'many'",
            "kafka.max_poll_records is \"many\", but must be a whole number from 1 to 4294967295",
        ),
        (
            "apps.sms.shards = 0",
            "apps.sms.shards is 0, but must be a whole number from 1 to 4294967295",
        ),
        ("kafka.enabled = 'yes'", "kafka.enabled is \"yes\", but must be true or false"),
        ("instance.id = 7", "instance.id is 7, but must be a string"),
        ("kafka = 'x'", "kafka is \"x\", but must be a table"),
        ("apps.sms.required_fields = 'a'", "apps.sms.required_fields is \"a\", but must be a list"),
        (
            "instance.lease_ms = -1",
            "instance.lease_ms is -1, but must be a whole number from 0 to 4294967295",
        ),
        (
            "kafka.topic = 5",
            "kafka.topic cannot be used: a topic's name or a list of names is expected",
        ),
        (
            "kafka = { topic = 'a', topics = ['b'] }",
            "kafka names its topics twice, as topic and as topics: leave one out",
        ),
        (
            "log.format = 'jsn'",
            "log.format is \"jsn\", but must be one of \"text\", \"json\": did you mean \"json\"?",
        ),
        (
            "apps.sms.dispatch = 'kafak'",
            "apps.sms.dispatch is \"kafak\", but must be one of \"log\", \"kafka\", \"discard\", \
             \"http\", \"redis\": did you mean \"kafka\"?",
        ),
    ]);
    assert_eq!(
        load("", &[("KAFKA__MAX_RETRIES", "few")]).unwrap_err(),
        "kafka.max_retries (by INFINITE_SCHEDULER__KAFKA__MAX_RETRIES) is \"few\", but must be a \
         whole number from 0 to 4294967295"
    );
    let short = load("", &[("INSTANCE__LEASE_MS", "10")]).unwrap_err();
    assert!(
        short.starts_with(
            "instance.lease_ms (by INFINITE_SCHEDULER__INSTANCE__LEASE_MS) is 10, but"
        ),
        "{short}"
    );
}

#[test]
fn relations_name_both_sides() {
    check_refusals(&[
        (
            "ingest.max_batch_bytes = 9",
            "ingest.max_batch_bytes (9) must be at least ingest.max_record_bytes (1048576), or \
             the largest record fits no batch",
        ),
        (
            "instance.lease_ms = 500",
            "instance.lease_ms is 500, but must be at least 1000, the time between heartbeats",
        ),
        (
            "instance = { lease_ms = 2000, max_clock_skew_ms = 5000 }",
            "instance.max_clock_skew_ms (5000) must be less than instance.lease_ms (2000), or a \
             lease could seem over when it is not: lower it or raise the lease",
        ),
        (
            "apps.x.backoff = { initial_ms = 9, max_ms = 8 }",
            "apps.x.backoff has initial_ms (9) above max_ms (8): lower the one or raise the other",
        ),
        (
            "apps.x.backoff.factor = 0.5",
            "apps.x.backoff has factor = 0.5, but must be a number of at least 1, or waits get \
             shorter",
        ),
        (
            "apps.x.backoff = { delays_ms = [1], factor = 2 }",
            "apps.x.backoff has delays_ms together with initial_ms, factor or max_ms: keep one kind",
        ),
        (
            "apps.x.backoff.delays_ms = []",
            "apps.x.backoff has an empty delays_ms: name at least one delay",
        ),
        ("apps.x.shards = 8000", "apps.x.shards is 8000, but must be at most 1024"),
    ]);
}

#[test]
fn a_short_lease_alone_brings_the_clock_skew_down_with_it() {
    for (lease_ms, skew_ms) in [(10_000, 5000), (60_000, 5000), (2000, 1000)] {
        let instance = load(&format!("instance.lease_ms = {lease_ms}"), &[]).unwrap().instance;
        assert_eq!(instance.max_clock_skew, Duration::from_millis(skew_ms), "{lease_ms}");
    }
}

#[test]
fn files_are_named_when_they_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.toml");
    let load = || Config::load(Some(&path), []).map_err(|error| error.to_string());
    assert!(load().unwrap_err().starts_with(&format!("{} cannot be read: ", path.display())));
    std::fs::write(&path, "x = 1\ny = ").unwrap();
    assert!(
        load().unwrap_err().starts_with(&format!("{} is not TOML at line 2: ", path.display()))
    );
    std::fs::write(&path, "apps.x.dispatch = 'discard'").unwrap();
    assert!(matches!(app(&load().unwrap(), "x").dispatch, Dispatch::Discard));
}
