//! Building a [`KafkaIngestConfig`] in code.

use std::num::NonZeroU32;

use super::{KafkaConfigError, KafkaIngestConfig, OnOffsetLost};

/// Builds a [`KafkaIngestConfig`], starting from the defaults.
#[derive(Clone, Debug)]
#[must_use = "nothing is checked or created before `build`"]
pub struct KafkaIngestConfigBuilder {
    config: KafkaIngestConfig,
    /// The field, if any, that was set to zero and must not be.
    zero: Option<&'static str>,
}

/// One method for each field without a check of its own.
macro_rules! setters {
    ($($name:ident: $type:ty),+ $(,)?) => {$(
        #[doc = concat!("Sets [`", stringify!($name), "`](KafkaIngestConfig::", stringify!($name), ").")]
        pub fn $name(mut self, value: impl Into<$type>) -> Self {
            self.config.$name = value.into();
            self
        }
    )+};
}

impl KafkaIngestConfigBuilder {
    /// Starts from the defaults.
    pub(super) fn new() -> Self {
        Self { config: KafkaIngestConfig::default(), zero: None }
    }

    setters! {
        bootstrap_servers: String,
        dlq_topic: String,
        group_id: String,
        poll_timeout_ms: u64,
        enable_auto_commit: bool,
        max_retries: u32,
        enabled: bool,
        ensure_topics: bool,
        on_offset_lost: OnOffsetLost,
    }

    /// Publishes verdicts to this topic.
    pub fn events_topic(mut self, topic: impl Into<String>) -> Self {
        self.config.events_topic = Some(topic.into());
        self
    }

    /// Reads requests from this one topic.
    pub fn topic(self, topic: impl Into<String>) -> Self {
        self.topics([topic])
    }

    /// Reads requests from these topics.
    pub fn topics<S: Into<String>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        self.config.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`max_poll_records`](KafkaIngestConfig::max_poll_records); not zero.
    pub fn max_poll_records(mut self, records: u32) -> Self {
        self.config.max_poll_records = self.above_zero("max_poll_records", records);
        self
    }

    /// Sets [`topic_partitions`](KafkaIngestConfig::topic_partitions); not zero.
    pub fn topic_partitions(mut self, partitions: u32) -> Self {
        self.config.topic_partitions = self.above_zero("topic_partitions", partitions);
        self
    }

    /// Passes a further property on to librdkafka.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.properties.insert(name.into(), value.into());
        self
    }

    /// Checks everything that was set.
    ///
    /// # Errors
    /// As [`KafkaIngestConfig::validate`].
    pub fn build(self) -> Result<KafkaIngestConfig, KafkaConfigError> {
        if let Some(field) = self.zero {
            let problem = "is 0, but must be at least 1".into();
            return Err(KafkaConfigError::Field { field, problem });
        }
        self.config.validate()?;
        Ok(self.config)
    }

    fn above_zero(&mut self, field: &'static str, number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap_or_else(|| {
            self.zero = Some(field);
            NonZeroU32::MIN
        })
    }
}
