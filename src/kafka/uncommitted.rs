//! Queries about records behind the last stable offset, which readers of committed records cannot
//! see before a transaction ends.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;

use super::connectivity::Connectivity;
use super::listener::Listener;
use super::rebalance::list_of;
use super::{Error, KafkaIngestConfig, TopicPartition};
use crate::model::ids::Offset;

/// The longest wait for a record that is known to exist.
const RECORD_PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);

type Client = BaseConsumer<Listener>;

/// A client that reads uncommitted records. It joins no group, and its methods block.
pub(super) struct Uncommitted {
    client: Client,
    /// It reads one partition at a time.
    assignment_lock: Mutex<()>,
}

impl Uncommitted {
    pub(super) fn start(config: &KafkaIngestConfig) -> Result<Self, Error> {
        let mut client = config.to_client_config();
        client
            .set("isolation.level", "read_uncommitted")
            // One record is enough; a batch is always sent whole.
            .set("fetch.message.max.bytes", "1024")
            .set("queued.min.messages", "1");
        let listener = Listener { connectivity: Connectivity::unreported() };
        Ok(Self {
            client: client.create_with_context(listener)?,
            assignment_lock: Mutex::default(),
        })
    }

    /// The high watermark of `partition`: the offset after its last record, committed or not.
    pub(super) fn end(
        &self,
        partition: &TopicPartition,
        patience: Duration,
    ) -> Result<Offset, Error> {
        let (topic, number) = (&partition.topic, partition.partition.0);
        let asked = self.client.fetch_watermarks(topic, number, patience);
        asked
            .map(|(_, end)| Offset(end))
            .map_err(|error| self.client.context().connectivity.explain(error.into()))
    }

    /// The time of the record at `offset`, if there is one with a time.
    pub(super) fn time_at(
        &self,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<Option<i64>, Error> {
        let _guard = self.assignment_lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.client.assign(&list_of(&[(partition.clone(), offset)])?)?;
        let time = self.first_time();
        self.client.unassign()?;
        Ok(time)
    }

    fn first_time(&self) -> Option<i64> {
        let deadline = Instant::now() + RECORD_PATIENCE;
        while Instant::now() < deadline {
            match self.client.poll(POLL) {
                Some(Ok(record)) => return record.timestamp().to_millis(),
                Some(Err(KafkaError::PartitionEOF(_))) => return None,
                Some(Err(_)) | None => {}
            }
        }
        None
    }
}

impl fmt::Debug for Uncommitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uncommitted").finish_non_exhaustive()
    }
}
