//! What happens, in which order, when the group gives us partitions or takes them away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tracing::{debug, error, info, warn};

use super::memory::RecordMemory;
use super::partition::Slot;
use super::reach::Reach;
use super::{Error, PartitionQueue, TopicPartition};

/// Who reads the partitions that the group gives to this process.
pub trait Assignments: Send + Sync + 'static {
    /// These partitions are ours. Each waits for [`Intake::seek`](super::Intake::seek) before
    /// it yields a record. Called on the poll thread, inside the rebalance: must not block.
    fn assigned(&self, queues: Vec<PartitionQueue>);

    /// These partitions leave us: stop their readers, and return the next offset of each
    /// that is durable, where known. Called on the poll thread, which the whole group waits
    /// for: may block, for a bounded time. Their queues already end with
    /// [`Error::Revoked`]. `lost` means that another member may have them already.
    fn revoked(&self, partitions: Vec<TopicPartition>, lost: bool) -> Vec<(TopicPartition, i64)>;
}

/// The consumer with our callbacks in it.
pub(super) type Consumer = BaseConsumer<Rebalancer>;

/// librdkafka's callbacks, and which partitions they have given us.
pub(super) struct Rebalancer {
    assignments: Arc<dyn Assignments>,
    pub(super) reach: Reach,
    /// What the readers of all partitions share.
    pub(super) memory: Arc<RecordMemory>,
    /// Splitting needs the consumer's `Arc`, callbacks get a plain reference.
    consumer: OnceLock<Weak<Consumer>>,
    slots: Mutex<HashMap<TopicPartition, Arc<Slot>>>,
    /// Held while the client's assignment changes: a restart must not meet a rebalance.
    turn: Mutex<()>,
}

impl Rebalancer {
    pub(super) fn new(assignments: Arc<dyn Assignments>, memory: RecordMemory) -> Self {
        Self {
            assignments,
            memory: Arc::new(memory),
            reach: Reach::new("consumer"),
            consumer: OnceLock::new(),
            slots: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// Must be called before `consumer` subscribes.
    pub(super) fn set_consumer(&self, consumer: &Arc<Consumer>) {
        self.consumer.get_or_init(|| Arc::downgrade(consumer));
    }

    /// The partition's present assignment to us.
    pub(super) fn slot(&self, partition: &TopicPartition) -> Result<Arc<Slot>, Error> {
        let slot = self.slots().get(partition).cloned();
        slot.ok_or_else(|| Error::Revoked { partition: partition.clone() })
    }

    /// Whether the group has given us nothing, or has it back.
    pub(super) fn is_idle(&self) -> bool {
        self.slots().is_empty()
    }

    /// Begins to fetch at `offset` a partition that librdkafka has given up on.
    ///
    /// Without a committed offset, and after one that the log does not have, its fetcher has
    /// ended and refuses to seek; only another assignment starts it again.
    pub(super) fn restart(
        &self,
        consumer: &Consumer,
        partition: &TopicPartition,
        offset: i64,
    ) -> Result<(), Error> {
        let _turn = lock(&self.turn);
        self.slot(partition)?;
        let list = list_of(&[(partition.clone(), offset)])?;
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => {
                if let Err(error) = consumer.incremental_unassign(&list) {
                    debug!(partition = %partition, "{partition} was not assigned: {error}");
                }
                self.forget_queued(partition);
                Ok(consumer.incremental_assign(&list)?)
            }
            _ => Err(Error::Unavailable(format!("{partition}: cannot be restarted alone"))),
        }
    }

    /// Unlike records, the errors that a queue still holds outlive an assignment.
    fn forget_queued(&self, partition: &TopicPartition) {
        let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) else { return };
        let queue = consumer.split_partition_queue(&partition.topic, partition.partition);
        let Some(queue) = queue else { return };
        while queue.poll(Duration::ZERO).is_some() {}
    }

    fn assign(&self, consumer: &Consumer, list: &TopicPartitionList) {
        let _turn = lock(&self.turn);
        // The queues are split before the partitions are assigned; afterwards librdkafka would
        // already have put records on the main queue, out of order with ours.
        let queues = self.split(&partitions_of(list));
        if let Err(error) = take_on(consumer, list) {
            error!("the group's partitions could not be taken on: {error}");
            return;
        }
        self.reach.served();
        if queues.is_empty() {
            return;
        }
        let count = queues.len();
        info!(partitions = count, "the group gave us {count} partitions");
        let mut slots = self.slots();
        for (slot, _) in &queues {
            slots.insert(slot.partition.clone(), slot.clone());
        }
        drop(slots);
        self.assignments.assigned(queues.into_iter().map(|(_, queue)| queue).collect());
    }

    fn split(&self, partitions: &[TopicPartition]) -> Vec<(Arc<Slot>, PartitionQueue)> {
        let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) else {
            return Vec::new();
        };
        let mut queues = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let slot = Arc::new(Slot::new(partition.clone()));
            match PartitionQueue::split(&consumer, slot.clone()) {
                Ok(queue) => queues.push((slot, queue)),
                Err(error) => error!(partition = %partition, "{partition} is not read: {error}"),
            }
        }
        queues
    }

    fn revoke(&self, consumer: &Consumer, list: &TopicPartitionList) {
        let _turn = lock(&self.turn);
        let partitions = partitions_of(list);
        let lost = consumer.assignment_lost();
        for partition in &partitions {
            if let Some(slot) = self.slots().remove(partition) {
                slot.revoke();
            }
        }
        if !partitions.is_empty() {
            let count = partitions.len();
            info!(partitions = count, lost, "the group took {count} partitions from us");
            let durable = self.assignments.revoked(partitions, lost);
            // What is lost may already be read by somebody who has committed more.
            if !lost {
                commit(consumer, &durable);
            }
        }
        if let Err(error) = let_go(consumer, list) {
            warn!("partitions could not be let go: {error}");
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TopicPartition, Arc<Slot>>> {
        lock(&self.slots)
    }
}

impl ClientContext for Rebalancer {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.reach, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.reach.failed(code, reason);
        }
    }
}

impl ConsumerContext for Rebalancer {
    /// Takes the place of rdkafka's own, which passes over the failure of an assignment.
    fn rebalance(&self, consumer: &Consumer, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => self.revoke(consumer, list),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            debug!("lag tools will see old offsets: {error}");
        }
    }
}

/// Sends offsets to Kafka without waiting; nothing but lag tools depends on them.
pub(super) fn commit(consumer: &Consumer, offsets: &[(TopicPartition, i64)]) {
    if offsets.is_empty() {
        return;
    }
    let sent = list_of(offsets)
        .and_then(|list| consumer.commit(&list, CommitMode::Async).map_err(Error::from));
    if let Err(error) = sent {
        debug!("lag tools will see old offsets: {error}");
    }
}

/// A list for one call only: one that lives on can keep the client from ever closing.
pub(super) fn list_of(offsets: &[(TopicPartition, i64)]) -> Result<TopicPartitionList, Error> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, offset) in offsets {
        let offset = Offset::Offset(*offset);
        list.add_partition_offset(&partition.topic, partition.partition, offset)?;
    }
    Ok(list)
}

/// librdkafka's log lines, on the targets and levels that suit ours.
///
/// Its errors come to the error callback as well, and `reach` tells them once per change;
/// here they would come again every few seconds of an outage. So would broken connections
/// and what they keep from being done.
pub(super) fn log(reach: &Reach, level: RDKafkaLogLevel, facility: &str, message: &str) {
    if facility == "FAIL" {
        reach.disconnected(message);
    }
    match level {
        _ if matches!(facility, "FAIL" | "FATAL" | "GETPID") => {
            debug!(target: "librdkafka", "{facility}: {message}");
        }
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            error!(target: "librdkafka", "{facility}: {message}");
        }
        RDKafkaLogLevel::Warning => warn!(target: "librdkafka", "{facility}: {message}"),
        _ => debug!(target: "librdkafka", "{facility}: {message}"),
    }
}

// Assigned without offsets: librdkafka then starts where the group last committed, and a seek
// moves it from there. A logical offset (end, beginning) must not stand here: the answer to
// its lookup can come after a seek, and librdkafka 2.12 then looks it up again and goes there.
fn take_on(consumer: &Consumer, list: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
        _ => consumer.assign(list),
    }
}

fn let_go(consumer: &Consumer, list: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
        _ => consumer.unassign(),
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<TopicPartition> {
    let elements = list.elements();
    elements
        .iter()
        .map(|element| TopicPartition::new(element.topic(), element.partition()))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
