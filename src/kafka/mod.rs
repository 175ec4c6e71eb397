//! The Kafka client: a consumer with one queue per partition, a producer, topics, and a broker
//! inside this process for demonstrations.
//!
//! Nothing here interprets a record's value. The position of each partition is kept in the
//! database: a reader sets it with [`Intake::seek`], and offsets are committed to Kafka only for
//! lag tools.

mod client_log;
mod config;
mod cluster;
mod error;
mod intake;
mod member;
mod memory;
mod rebalance;
mod slot;
mod partition;
mod producer;
mod connectivity;
mod reason;
mod listener;
mod inspector;
mod uncommitted;
mod topics;
mod broker;
#[cfg(test)]
mod tests;

use crate::model::ids::Partition;
use std::fmt;
use std::sync::Arc;

pub use broker::EmbeddedBroker;
pub use cluster::KafkaCluster;
pub use config::*;
pub use connectivity::{BrokerState, TroubleKind};
pub use error::Error;
pub use inspector::{ClusterInspector, LogRange, Offsets};
pub use intake::Intake;
pub use partition::{BatchLimits, LogEnd, PartitionQueue};
pub use producer::{Outgoing, Producer};
pub use rebalance::Assignments;
pub use topics::{compacted_topics, count_partitions, ensure_topics};

/// One partition of a topic, written `topic/3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: Partition,
}

impl TopicPartition {
    /// The partition with this number of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: Partition) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}
