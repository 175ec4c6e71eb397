//! How this system talks to Kafka: what users may set, and which properties librdkafka gets.
//!
//! Exactly-once ingest depends on some properties of librdkafka: these are set here, and a
//! configuration that contains one of them is refused. All others are passed through.

mod builder;
mod error;
mod memory;
mod properties;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::flaw;

pub use builder::KafkaIngestConfigBuilder;
pub use error::KafkaConfigError;
pub(super) use properties::flat as flat_properties;
pub(crate) use properties::{is_secret, property_flaw};

/// Where requests are read from, where dead letters and verdicts are published, and how records are
/// read.
///
/// Its `Debug` form never shows a secret; its `Serialize` form does, so that it can be
/// deserialized: use [`redacted`](Self::redacted) before printing that.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaIngestConfig {
    /// The bootstrap brokers, `host:port`, separated by commas. Default `localhost:9092`.
    pub bootstrap_servers: String,
    /// The topics that requests are read from; `topic` takes one name. Default
    /// `scheduler.jobs.ingest`.
    #[serde(alias = "topic", deserialize_with = "one_or_many")]
    pub topics: Vec<String>,
    /// The topic for records that cannot become jobs. Default `scheduler.jobs.dlq`.
    pub dlq_topic: String,
    /// The topic for verdicts, which say what became of each request. Default `None`: no
    /// verdicts.
    pub events_topic: Option<String>,
    /// The consumer group that all instances join. Default `infinite-scheduler-ingest`.
    pub group_id: String,
    /// The maximum number of records in one batch of one partition. Default 500.
    pub max_poll_records: NonZeroU32,
    /// The longest wait for a batch's first record, in milliseconds; a batch that has records
    /// never waits. Default 1000.
    pub poll_timeout_ms: u64,
    /// Must stay false: the position of each partition is kept in the database, with the jobs.
    pub enable_auto_commit: bool,
    /// How many times a record is retried after a transient failure. Default 3.
    pub max_retries: u32,
    /// Whether records are read at all. Default true.
    pub enabled: bool,
    /// Whether missing topics are created at startup. Default true.
    pub ensure_topics: bool,
    /// How many partitions a topic created here gets. Default 6.
    pub topic_partitions: NonZeroU32,
    /// What to do when the log no longer has the next offset.
    pub on_offset_lost: OnOffsetLost,
    /// The memory for records of all partitions, in MiB: those that were prefetched and those
    /// that are being admitted. Default 128.
    pub memory_mb: NonZeroU32,
    /// Further librdkafka properties, by their own names, for consumer and producer.
    #[serde(deserialize_with = "properties::flat")]
    pub properties: BTreeMap<String, String>,
}

/// What to do when retention has deleted the records that come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOffsetLost {
    /// Continue with the earliest record that the log has; the lost range is logged and counted.
    #[default]
    Earliest,
    /// Stop reading the partition until an operator sets its position with `infinite-scheduler
    /// ingest seek`, or the instance restarts with `Earliest`.
    Stop,
}

impl Default for KafkaIngestConfig {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".into(),
            topics: vec!["scheduler.jobs.ingest".into()],
            dlq_topic: "scheduler.jobs.dlq".into(),
            events_topic: None,
            group_id: "infinite-scheduler-ingest".into(),
            max_poll_records: NonZeroU32::new(500).unwrap_or(NonZeroU32::MIN),
            poll_timeout_ms: 1000,
            enable_auto_commit: false,
            max_retries: 3,
            enabled: true,
            ensure_topics: true,
            topic_partitions: NonZeroU32::new(6).unwrap_or(NonZeroU32::MIN),
            on_offset_lost: OnOffsetLost::default(),
            memory_mb: NonZeroU32::new(128).unwrap_or(NonZeroU32::MIN),
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaIngestConfig {
    /// Begins with the defaults.
    pub fn builder() -> KafkaIngestConfigBuilder {
        KafkaIngestConfigBuilder::new()
    }

    /// Checks what the types cannot; librdkafka itself checks each property.
    ///
    /// # Errors
    /// Names the first invalid field or property, and the way out.
    pub fn validate(&self) -> Result<(), KafkaConfigError> {
        if self.enable_auto_commit {
            return Err(KafkaConfigError::AutoCommit);
        }
        for (field, value) in
            [("bootstrap_servers", &self.bootstrap_servers), ("group_id", &self.group_id)]
        {
            if value.is_empty() {
                let problem = "is empty: give it a value, or leave it out for the default".into();
                return Err(KafkaConfigError::Field { field, problem });
            }
            if let Some(flaw) = flaw::of_name(value) {
                return Err(KafkaConfigError::Field { field, problem: flaw.to_string() });
            }
        }
        self.validate_topics()?;
        self.properties.iter().try_for_each(|(name, value)| properties::validate(name, value))
    }

    /// Why jobs may not be fired to `topic`: the rest of a sentence that begins with the
    /// setting's name.
    pub(crate) fn check_dispatch_topic(&self, topic: &str) -> Result<(), String> {
        check_topic(topic)?;
        let other = "name another topic";
        if self.topics.iter().any(|ingest| ingest == topic) {
            let why = "or every fired job is ingested again";
            return Err(format!("({topic:?}) must not be among kafka.topics, {why}: {other}"));
        }
        if self.events_topic.as_deref() == Some(topic) {
            let why = "or jobs cannot be distinguished from verdicts";
            return Err(format!("({topic:?}) must not be kafka.events_topic, {why}: {other}"));
        }
        if self.dlq_topic == topic {
            let why = "or jobs cannot be distinguished from dead letters";
            return Err(format!("({topic:?}) must not be kafka.dlq_topic, {why}: {other}"));
        }
        Ok(())
    }

    fn validate_topics(&self) -> Result<(), KafkaConfigError> {
        let of_field = |field| move |problem| KafkaConfigError::Field { field, problem };
        if self.topics.is_empty() && self.enabled {
            return Err(of_field("topics")("is empty: name one, or set enabled = false".into()));
        }
        for (index, topic) in self.topics.iter().enumerate() {
            check_topic(topic).map_err(of_field("topics"))?;
            if self.topics[..index].contains(topic) {
                return Err(of_field("topics")(format!("has {topic:?} twice: leave one out")));
            }
        }
        check_topic(&self.dlq_topic).map_err(of_field("dlq_topic"))?;
        if self.topics.contains(&self.dlq_topic) {
            let problem = format!(
                "({:?}) must not be among the ingest topics, or every dead letter comes back: \
                 give it a topic of its own",
                self.dlq_topic
            );
            return Err(of_field("dlq_topic")(problem));
        }
        self.events_topic.as_deref().map_or(Ok(()), |events| self.validate_events_topic(events))
    }

    fn validate_events_topic(&self, events: &str) -> Result<(), KafkaConfigError> {
        let of_field = |problem| KafkaConfigError::Field { field: "events_topic", problem };
        check_topic(events).map_err(of_field)?;
        let taken = match events {
            _ if self.topics.iter().any(|topic| topic == events) => "among the ingest topics",
            _ if self.dlq_topic == events => "dlq_topic",
            _ => return Ok(()),
        };
        Err(of_field(format!(
            "({events:?}) must not be {taken}, or verdicts are taken for something else: give them \
             a topic of their own"
        )))
    }

    /// Checks what depends on the instance's lease: the group's session timeout is as long unless
    /// the properties set another.
    ///
    /// # Errors
    /// Names the property that contradicts the others, and the way out.
    pub(crate) fn validate_session(&self, lease: Duration) -> Result<(), KafkaConfigError> {
        properties::Session::of(&self.properties, lease).validate()
    }

    /// A remark for the log if the session timeout is longer than the lease.
    pub(crate) fn session_warning(&self, lease: Duration) -> Option<String> {
        properties::Session::of(&self.properties, lease).remark(lease)
    }

    /// The configuration of a member of the ingest group, if its topics have this many
    /// partitions: [`to_client_config_for`](Self::to_client_config_for) and a session timeout as
    /// long as `lease`, unless the user sets another.
    pub(crate) fn to_member_config(&self, lease: Duration, partitions: usize) -> ClientConfig {
        let mut config = self.to_client_config_for(partitions);
        let session = properties::Session::of(&self.properties, lease);
        config.set("session.timeout.ms", session.timeout_ms.to_string());
        config.set("heartbeat.interval.ms", session.heartbeat_ms.to_string());
        // Only the statistics show when the member has left its group.
        config.set("statistics.interval.ms", "1000");
        // Only the debug log shows that a topic was recreated.
        let debug =
            self.properties.get("debug").map_or("topic".into(), |own| format!("{own},topic"));
        config.set("debug", debug);
        config.set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    /// The configuration of a consumer of the ingest topics, without its session timeout, if the
    /// topics have [`topic_partitions`](Self::topic_partitions) partitions each.
    pub fn to_client_config(&self) -> ClientConfig {
        let partitions = self.topics.len().saturating_mul(self.topic_partitions.get() as usize);
        self.to_client_config_for(partitions)
    }

    /// As [`to_client_config`](Self::to_client_config), but for ingest topics that have this many
    /// partitions in all: the prefetch memory is divided among them.
    pub fn to_client_config_for(&self, partitions: usize) -> ClientConfig {
        let ahead = memory::fetched_ahead(self.memory_bytes(), partitions);
        let owned = [
            ("group.id", self.group_id.as_str()),
            // librdkafka must not skip to the log's end: `on_offset_lost` decides what happens.
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // Shows a reader that it has read everything.
            ("enable.partition.eof", "true"),
            ("group.protocol", "classic"),
            ("isolation.level", "read_committed"),
            ("partition.assignment.strategy", "cooperative-sticky"),
        ];
        let ahead = ahead.iter().map(|(name, value)| (*name, value.as_str()));
        let defaults: Vec<_> = properties::CONSUMER_DEFAULTS.iter().copied().chain(ahead).collect();
        self.client_config(&defaults, properties::PRODUCER_ONLY, &owned)
    }

    /// The part of the record memory for records that are being admitted, in bytes.
    pub(super) fn memory_for_batches(&self) -> usize {
        self.memory_bytes() / memory::BATCHES
    }

    /// The memory for records, in bytes.
    fn memory_bytes(&self) -> usize {
        (self.memory_mb.get() as usize).saturating_mul(1 << 20)
    }

    /// The configuration of a producer of dead letters and of fired jobs.
    pub fn to_producer_config(&self) -> ClientConfig {
        let owned = [("acks", "all"), ("enable.idempotence", "true")];
        self.client_config(properties::PRODUCER_DEFAULTS, properties::CONSUMER_ONLY, &owned)
    }

    /// Defaults, then the user's properties that are not `foreign` to this kind of client
    /// (librdkafka logs a warning for each), then the properties that cannot be overridden.
    fn client_config(
        &self,
        defaults: &[(&str, &str)],
        foreign: &[&str],
        owned: &[(&str, &str)],
    ) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in properties::COMMON_DEFAULTS.iter().chain(defaults) {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            if !foreign.contains(&name.as_str()) {
                config.set(properties::canonical(name), value);
            }
        }
        for (name, value) in owned {
            config.set(*name, *value);
        }
        config.set("bootstrap.servers", &self.bootstrap_servers);
        // Without this rdkafka asks the `log` crate, which has no logger here, and librdkafka
        // then logs nothing below errors.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// A copy for printing, with the value of every secret property hidden.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut copy = self.clone();
        for (name, value) in &mut copy.properties {
            if properties::is_secret(name) {
                *value = "***".into();
            }
        }
        copy
    }
}

impl fmt::Debug for KafkaIngestConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaIngestConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("topics", &self.topics)
            .field("dlq_topic", &self.dlq_topic)
            .field("events_topic", &self.events_topic)
            .field("group_id", &self.group_id)
            .field("max_poll_records", &self.max_poll_records)
            .field("poll_timeout_ms", &self.poll_timeout_ms)
            .field("enable_auto_commit", &self.enable_auto_commit)
            .field("max_retries", &self.max_retries)
            .field("enabled", &self.enabled)
            .field("ensure_topics", &self.ensure_topics)
            .field("topic_partitions", &self.topic_partitions)
            .field("on_offset_lost", &self.on_offset_lost)
            .field("memory_mb", &self.memory_mb)
            .field("properties", &self.redacted().properties)
            .finish()
    }
}

/// Deserializes a topic's name or a list of names.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a topic's name or a list of names is expected")]
    enum Written {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::One(topic) => vec![topic],
        Written::Many(topics) => topics,
    })
}

/// Whether `topic` is a legal topic name. The error continues a sentence that begins with the
/// setting's name. librdkafka would read a leading `^` as a pattern.
pub(crate) fn check_topic(name: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=249).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != ".." {
        return Ok(());
    }
    Err(format!(
        "has {name:?}, but a topic's name must be 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'"
    ))
}

#[cfg(test)]
mod tests;
