//! The Kafka clients of an instance.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use crate::kafka::{Intake, KafkaIngestConfig, Producer};

/// The clients of an instance that reads from Kafka or fires jobs to it.
#[derive(Debug)]
pub(super) struct KafkaClients {
    pub(super) config: KafkaIngestConfig,
    pub(super) producer: Producer,
    /// Sends verdicts, if they are published.
    pub(super) events: Option<Producer>,
    pub(super) intake: OnceLock<Intake>,
    /// The group has assigned partitions to the consumer.
    pub(super) joined: AtomicBool,
}

impl KafkaClients {
    pub(super) fn new(
        config: KafkaIngestConfig,
        producer: Producer,
        events: Option<Producer>,
    ) -> Self {
        let (intake, joined) = (OnceLock::new(), AtomicBool::new(false));
        Self { config, producer, events, intake, joined }
    }
}
