//! How records come in and go out: the consumer with one queue per partition, the
//! producer, topics, and a broker in this process for trying things out.
//!
//! Nothing here knows what a record means. Offsets follow the database: a reader says
//! where to begin with [`Intake::seek`], and what is committed to Kafka serves lag tools only.

mod config;
mod error;
mod intake;
mod member;
mod memory;
mod rebalance;
mod slot;
mod partition;
mod producer;
mod reach;
mod reason;
mod listener;
mod survey;
mod uncommitted;
mod topics;
mod broker;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use broker::EmbeddedBroker;
pub use config::*;
pub use error::Error;
pub use intake::Intake;
pub use partition::{BatchLimits, LogEnd, PartitionQueue};
pub use producer::{Outgoing, Producer};
pub use reach::{BrokerState, TroubleKind};
pub use rebalance::Assignments;
pub use survey::{LogRange, Offsets, Survey};
pub use topics::{compacted_topics, count_partitions, ensure_topics};

/// One partition of a topic, written `topic/3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition with this number of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}
