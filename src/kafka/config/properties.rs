//! librdkafka's properties: which ones users may not set, which defaults are set here, and which
//! ones a producer or a consumer would warn about.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use serde::{Deserialize, Deserializer};

use super::KafkaConfigError;
use crate::model::flaw::{self, Flaw};

/// Defaults of both kinds of client, unless the user sets another value.
pub(super) const COMMON_DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "infinite-scheduler"),
    ("socket.keepalive.enable", "true"),
    // The longest wait before reconnecting; librdkafka's default is ten seconds.
    ("reconnect.backoff.max.ms", "1000"),
    // How soon new partitions of a topic are noticed.
    ("topic.metadata.refresh.interval.ms", "60000"),
];

/// Defaults of a consumer, unless the user sets another value.
pub(super) const CONSUMER_DEFAULTS: &[(&str, &str)] = &[
    // With librdkafka's default of a second, a queue that was full stays empty for that long:
    // measured 5,500 records/s against 240,000.
    ("fetch.queue.backoff.ms", "10"),
];

/// Defaults of a producer, unless the user sets another value.
pub(super) const PRODUCER_DEFAULTS: &[(&str, &str)] = &[
    ("linger.ms", "1"),
    // The broker limits the size of a record, not the client: a dead letter has the ingested
    // record, of whatever size, and headers on top. This is librdkafka's maximum; its batches are
    // bounded by batch.size.
    ("message.max.bytes", "1000000000"),
    // Half of an attempt's default timeout: a send that hangs fails before its attempt does, and
    // is not delivered after the next attempt has begun.
    ("message.timeout.ms", "30000"),
];

/// Properties of consumers, by librdkafka's CONFIGURATION.md; a producer warns about them.
pub(super) const CONSUMER_ONLY: &[&str] = &[
    "auto.commit.interval.ms",
    "check.crcs",
    "consume.callback.max.messages",
    "coordinator.query.interval.ms",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.instance.id",
    "heartbeat.interval.ms",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "session.timeout.ms",
];

/// Properties of producers, by librdkafka's CONFIGURATION.md; a consumer warns about them.
pub(super) const PRODUCER_ONLY: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "delivery.timeout.ms",
    "enable.gapless.guarantee",
    "linger.ms",
    "message.send.max.retries",
    "message.timeout.ms",
    "partitioner",
    "produce.offset.report",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queuing.strategy",
    "request.timeout.ms",
    "retries",
    "sticky.partitioning.linger.ms",
    "transaction.timeout.ms",
];

/// Properties that users may not set, each with the reason and the way out.
const OWNED: &[(&[&str], &str)] = &[
    (
        &["bootstrap.servers", "metadata.broker.list"],
        "it has a field of its own: set bootstrap_servers",
    ),
    (&["group.id"], "it has a field of its own: set group_id"),
    (&["auto.offset.reset"], "a lost offset must be noticed: set on_offset_lost"),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "enable.auto.offset.store",
            "offset.store.method",
            "offset.store.path",
            "offset.store.sync.interval.ms",
        ],
        "offsets are kept in the database with the jobs and follow it: leave it out",
    ),
    (
        &["partition.assignment.strategy"],
        "all instances must share cooperative-sticky, which reassigns partitions without \
         interrupting the others: leave it out",
    ),
    (
        &["group.protocol", "group.protocol.type", "group.remote.assignor"],
        "partitions are assigned by the classic protocol: leave it out",
    ),
    (&["isolation.level"], "requests of an aborted transaction must not become jobs: leave it out"),
    (&["enable.partition.eof"], "it shows a reader that it has read everything: leave it out"),
    (
        &["enable.idempotence", "acks", "request.required.acks"],
        "a dead letter or a fired job that the broker loses would be lost: leave it out",
    ),
    (
        &["transactional.id"],
        "records are fenced by the database instead of by transactions: leave it out",
    ),
    (
        &["statistics.interval.ms"],
        "statistics show a member that it has left its group: leave it out",
    ),
    (
        &["delivery.report.only.error"],
        "a send is complete only with its delivery report: leave it out",
    ),
];

/// The shortest session that brokers accept by default (`group.min.session.timeout.ms`).
const MIN_SESSION_MS: u64 = 6000;
/// Heartbeats per session timeout. Their answers announce rebalances, so they are as frequent as
/// the instance's own heartbeats.
const HEARTBEATS: u64 = 10;
const MAX_HEARTBEAT_MS: u64 = 1000;
/// librdkafka's default of `max.poll.interval.ms`.
const MAX_POLL_MS: u64 = 300_000;

/// How long the group waits for a member that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) timeout_ms: u64,
    pub(super) heartbeat_ms: u64,
    max_poll_ms: u64,
}

impl Session {
    /// As long as the lease, so that a dead instance's partitions are reassigned together with
    /// its shards, unless the user's properties set another value.
    pub(super) fn of(properties: &BTreeMap<String, String>, lease: Duration) -> Self {
        let set = |name| properties.get(name).and_then(|value: &String| value.parse().ok());
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let max_poll_ms = set("max.poll.interval.ms").unwrap_or(MAX_POLL_MS);
        let timeout_ms = set("session.timeout.ms")
            .unwrap_or_else(|| lease_ms.max(MIN_SESSION_MS).min(max_poll_ms));
        let heartbeat_ms = set("heartbeat.interval.ms")
            .unwrap_or_else(|| (timeout_ms / HEARTBEATS).clamp(1, MAX_HEARTBEAT_MS));
        Self { timeout_ms, heartbeat_ms, max_poll_ms }
    }

    /// A remark for the log if the session timeout is longer than the lease.
    pub(super) fn remark(self, lease: Duration) -> Option<String> {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let timeout_ms = self.timeout_ms;
        (timeout_ms > lease_ms.max(MIN_SESSION_MS)).then(|| {
            format!(
                "properties.\"session.timeout.ms\" = {timeout_ms} is longer than the lease \
                 ({lease_ms} ms): after a crash an instance's partitions stay unread for that long"
            )
        })
    }

    pub(super) fn validate(self) -> Result<(), KafkaConfigError> {
        let Self { timeout_ms, heartbeat_ms, max_poll_ms } = self;
        let refused = |property: &str, problem| {
            Err(KafkaConfigError::Unfit { property: property.to_owned(), problem })
        };
        if heartbeat_ms.saturating_mul(2) > timeout_ms {
            return refused(
                "heartbeat.interval.ms",
                format!(
                    "{heartbeat_ms} must be at most half of session.timeout.ms ({timeout_ms}, by \
                     default the lease and at least {MIN_SESSION_MS}), or a live member seems \
                     dead: leave it out, or lower it"
                ),
            );
        }
        if timeout_ms > max_poll_ms {
            return refused(
                "session.timeout.ms",
                format!(
                    "{timeout_ms} must be at most max.poll.interval.ms ({max_poll_ms}): leave it \
                     out, so that it follows instance.lease_ms, or lower it"
                ),
            );
        }
        Ok(())
    }
}

/// The current name of a property that has a default here, so that no client gets a value by both
/// names.
pub(super) fn canonical(name: &str) -> &str {
    match name {
        "max.partition.fetch.bytes" => "fetch.message.max.bytes",
        "queue.buffering.max.ms" => "linger.ms",
        "delivery.timeout.ms" => "message.timeout.ms",
        other => other,
    }
}

/// Whether the value of the property `name` must not be shown.
pub(crate) fn is_secret(name: &str) -> bool {
    const MARKERS: [&str; 8] = [
        "password",
        "passphrase",
        "secret",
        "key.pem",
        "ssl_key",
        "token",
        "sasl.jaas",
        "oauthbearer.config",
    ];
    let name = name.to_ascii_lowercase();
    MARKERS.iter().any(|sign| name.contains(sign))
}

/// The character in the value of the property `name` that can only be a mistake, if there is one. A
/// certificate or key in PEM may have line feeds.
pub(crate) fn property_flaw(name: &str, value: &str) -> Option<Flaw> {
    match name {
        _ if name.ends_with(".pem") => None,
        _ if is_secret(name) => flaw::of_secret(value),
        _ => flaw::of_name(value),
    }
}

/// Refuses a property that users may not set, or that librdkafka refuses.
pub(super) fn validate(name: &str, value: &str) -> Result<(), KafkaConfigError> {
    let property = name.to_owned();
    if let Some(flaw) = property_flaw(name, value) {
        return Err(KafkaConfigError::PropertyValue { property, problem: flaw.to_string() });
    }
    if let Some((_, reason)) = OWNED.iter().find(|(names, _)| names.contains(&name)) {
        return Err(KafkaConfigError::OwnedProperty { property, reason });
    }
    let mut alone = ClientConfig::new();
    alone.set(name, value);
    let problem = match alone.create_native_config() {
        Ok(_) => return Ok(()),
        Err(_) if is_secret(name) => "its value is not shown here".to_owned(),
        Err(KafkaError::ClientConfig(_, description, ..)) => description.trim().to_owned(),
        Err(other) => other.to_string(),
    };
    Err(KafkaConfigError::Property { property, problem })
}

/// Deserializes properties whose values are strings, numbers or booleans. Names may be quoted
/// (`"sasl.password" = ..`) or not (`sasl.password = ..`, which in TOML is a table of tables).
pub(in crate::kafka) fn flat<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let mut properties = BTreeMap::new();
    flatten("", BTreeMap::deserialize(deserializer)?, &mut properties);
    Ok(properties)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string, a number, true or false is expected")]
enum Written {
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    Table(BTreeMap<String, Self>),
}

fn flatten(prefix: &str, from: BTreeMap<String, Written>, into: &mut BTreeMap<String, String>) {
    for (key, value) in from {
        let name = format!("{prefix}{key}");
        let text = match value {
            Written::Table(inner) => {
                flatten(&format!("{name}."), inner, into);
                continue;
            }
            Written::Bool(value) => value.to_string(),
            Written::Integer(value) => value.to_string(),
            Written::Number(value) => value.to_string(),
            Written::Text(value) => value,
        };
        into.insert(name, text);
    }
}
