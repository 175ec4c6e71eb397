//! The Kafka side of an instance: its clients.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use crate::kafka::{Intake, KafkaIngestConfig, Producer};

/// The clients of an instance that reads from Kafka, or fires onto it.
#[derive(Debug)]
pub(super) struct KafkaClients {
    pub(super) config: KafkaIngestConfig,
    pub(super) producer: Producer,
    /// Sends verdicts, if they are told.
    pub(super) events: Option<Producer>,
    pub(super) intake: OnceLock<Intake>,
    /// The group has told the consumer which partitions are its own.
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
