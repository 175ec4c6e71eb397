//! What is done, and in which order, when the group assigns partitions to this member or revokes
//! them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use tracing::{debug, error, info, warn};

use super::connectivity::Connectivity;
use super::memory::RecordMemory;
use super::partition::keep_end;
use super::slot::Slot;
use super::{Error, PartitionQueue, TopicPartition, client_log};
use crate::model::ids::{Offset, Partition};

/// The rebalance listener: it starts and stops the readers of the partitions that the group
/// assigns to this process.
pub trait Assignments: Send + Sync + 'static {
    /// These partitions were assigned, in addition to those before; none, if the group has more
    /// members than partitions. A queue yields no record before
    /// [`Intake::seek`](super::Intake::seek). Called on the poll thread, inside the rebalance:
    /// must not block.
    fn assigned(&self, queues: Vec<PartitionQueue>);

    /// These partitions are being revoked: stop their readers, and return the next durable offset
    /// of each, where known. Called on the poll thread, for which the whole group waits: may
    /// block, for a bounded time. The queues already return [`Error::Revoked`]. `lost` means that
    /// another member may have the partitions already.
    fn revoked(&self, partitions: Vec<TopicPartition>, lost: bool)
    -> Vec<(TopicPartition, Offset)>;
}

/// The consumer with these callbacks.
pub(super) type Consumer = BaseConsumer<Rebalancer>;

/// librdkafka's callbacks, and the partitions that are assigned.
pub(super) struct Rebalancer {
    assignments: Arc<dyn Assignments>,
    pub(super) connectivity: Arc<Connectivity>,
    /// The memory that the readers of all partitions share.
    pub(super) memory: Arc<RecordMemory>,
    /// Splitting a queue needs the consumer's `Arc`, but callbacks get a plain reference.
    consumer: OnceLock<Weak<Consumer>>,
    slots: Mutex<HashMap<TopicPartition, Arc<Slot>>>,
    /// Held while the client's assignment changes: a restart and a rebalance exclude each other.
    assignment_lock: Mutex<()>,
    /// A rebalance has revoked partitions and has not assigned any yet.
    rebalancing: AtomicBool,
    /// The client is closing: partitions that are still assigned to it are not read.
    closing: AtomicBool,
    /// The client's state in the group, from its statistics.
    join_state: Mutex<JoinState>,
}

/// The `join_state` of librdkafka's STATISTICS.md.
#[derive(Debug, Default)]
struct JoinState {
    name: String,
    /// The number of reports so far.
    reports: u64,
}

/// What librdkafka's statistics say about the membership in the group.
pub(super) struct Membership {
    /// The number of reports so far.
    pub(super) reports: u64,
    /// The latest report says that the client is in no group.
    pub(super) has_left: bool,
}

/// The part of librdkafka's statistics that is used here.
#[derive(Deserialize)]
struct Statistics {
    cgrp: Option<GroupStatistics>,
}

#[derive(Deserialize)]
struct GroupStatistics {
    join_state: String,
}

impl Rebalancer {
    pub(super) fn new(
        assignments: Arc<dyn Assignments>,
        connectivity: Arc<Connectivity>,
        memory: Arc<RecordMemory>,
    ) -> Self {
        Self {
            assignments,
            connectivity,
            memory,
            consumer: OnceLock::new(),
            slots: Mutex::default(),
            assignment_lock: Mutex::default(),
            rebalancing: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            join_state: Mutex::default(),
        }
    }

    /// Must be called before `consumer` subscribes.
    pub(super) fn set_consumer(&self, consumer: &Arc<Consumer>) {
        self.consumer.get_or_init(|| Arc::downgrade(consumer));
    }

    /// The partition's current assignment.
    pub(super) fn slot(&self, partition: &TopicPartition) -> Result<Arc<Slot>, Error> {
        let slot = self.slots().get(partition).cloned();
        slot.ok_or_else(|| Error::Revoked { partition: partition.clone() })
    }

    /// Whether no partition is assigned.
    pub(super) fn is_idle(&self) -> bool {
        self.slots().is_empty()
    }

    /// Whether a rebalance has revoked partitions and is not over yet.
    pub(super) fn is_rebalancing(&self) -> bool {
        self.rebalancing.load(Ordering::Acquire)
    }

    /// From now on no partition is read that is assigned later.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// The client's membership in the group, by its latest report.
    pub(super) fn membership(&self) -> Membership {
        let state = lock(&self.join_state);
        Membership { reports: state.reports, has_left: state.name == "init" }
    }

    /// The client had a fatal error: its partitions count as lost.
    pub(super) fn give_up(&self) {
        let partitions: Vec<_> = self.slots().keys().cloned().collect();
        self.end(partitions, true);
    }

    /// Restarts, at `offset`, the fetcher of a partition on which librdkafka has given up.
    ///
    /// Without a committed offset, and after one that the log does not have, the fetcher has
    /// ended and refuses to seek; only a new assignment starts it again.
    pub(super) fn restart(
        &self,
        consumer: &Consumer,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<(), Error> {
        let _guard = lock(&self.assignment_lock);
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

    /// Discards what the queue still holds: unlike records, errors in it survive a new
    /// assignment.
    fn forget_queued(&self, partition: &TopicPartition) {
        let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) else { return };
        let queue = consumer.split_partition_queue(&partition.topic, partition.partition.0);
        let Some(queue) = queue else { return };
        while queue.poll(Duration::ZERO).is_some() {}
    }

    fn assign(&self, consumer: &Consumer, list: &TopicPartitionList) {
        let _guard = lock(&self.assignment_lock);
        // The queues are split before the partitions are assigned; afterwards librdkafka would
        // already have put records on the main queue, out of order with ours.
        let queues = self.split(&partitions_of(list));
        if let Err(error) = apply_assignment(consumer, list) {
            error!("the assigned partitions could not be applied: {error}");
            return;
        }
        self.rebalancing.store(false, Ordering::Release);
        if self.closing.load(Ordering::Acquire) {
            return;
        }
        self.connectivity.served();
        let count = queues.len();
        info!(partitions = count, "the group assigned {count} partitions");
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
            match PartitionQueue::split(&consumer, slot.clone(), self.memory.clone()) {
                Ok(queue) => queues.push((slot, queue)),
                Err(error) => error!(partition = %partition, "{partition} is not read: {error}"),
            }
        }
        queues
    }

    fn revoke(&self, consumer: &Consumer, list: &TopicPartitionList) {
        let _guard = lock(&self.assignment_lock);
        let lost = consumer.assignment_lost();
        let durable = self.end(partitions_of(list), lost);
        // Another member may already read a lost partition and have committed more.
        if !lost {
            commit(consumer, &durable);
        }
        self.rebalancing.store(!lost, Ordering::Release);
        if let Err(error) = apply_revocation(consumer, list) {
            warn!("revoked partitions could not be unassigned: {error}");
        }
    }

    /// Ends the reading of partitions, and returns the next offset of each that is durable.
    fn end(
        &self,
        mut partitions: Vec<TopicPartition>,
        lost: bool,
    ) -> Vec<(TopicPartition, Offset)> {
        partitions.retain(|partition| match self.slots().remove(partition) {
            Some(slot) => {
                slot.revoke();
                true
            }
            // It was assigned while the client was closing, and has no reader.
            None => false,
        });
        if partitions.is_empty() {
            return Vec::new();
        }
        let count = partitions.len();
        info!(partitions = count, lost, "the group revoked {count} partitions");
        self.assignments.revoked(partitions, lost)
    }

    fn note_recreation(&self, topic: &str) {
        let slots = self.slots();
        let partitions = slots.values().filter(|slot| *slot.partition.topic == *topic);
        partitions.for_each(|slot| slot.note_recreation());
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TopicPartition, Arc<Slot>>> {
        lock(&self.slots)
    }
}

impl ClientContext for Rebalancer {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(topic) = client_log::recreated_topic(message) {
            self.note_recreation(topic);
        }
        client_log::log(&self.connectivity, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(Code::PartitionEOF) => keep_end(reason),
            Some(code) => self.connectivity.failed(code, reason),
            None => {}
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(Statistics { cgrp: Some(group) }) = serde_json::from_slice(statistics) else {
            return;
        };
        let mut state = lock(&self.join_state);
        state.name = group.join_state;
        state.reports += 1;
    }
}

impl ConsumerContext for Rebalancer {
    /// Replaces rdkafka's own implementation, which ignores a failed assignment.
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
pub(super) fn commit(consumer: &Consumer, offsets: &[(TopicPartition, Offset)]) {
    if offsets.is_empty() {
        return;
    }
    let sent = list_of(offsets)
        .and_then(|list| consumer.commit(&list, CommitMode::Async).map_err(Error::from));
    if let Err(error) = sent {
        debug!("lag tools will see old offsets: {error}");
    }
}

/// A list for one call only: keeping it can prevent the client from closing.
pub(super) fn list_of(offsets: &[(TopicPartition, Offset)]) -> Result<TopicPartitionList, Error> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, offset) in offsets {
        let offset = rdkafka::Offset::Offset(offset.0);
        list.add_partition_offset(&partition.topic, partition.partition.0, offset)?;
    }
    Ok(list)
}

// Assigned without offsets: librdkafka then starts where the group last committed, and a seek
// changes that. A logical offset (end, beginning) must not be used here: the answer to its lookup
// can come after a seek, and librdkafka 2.12 then looks it up again and goes there.
fn apply_assignment(consumer: &Consumer, list: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
        _ => consumer.assign(list),
    }
}

fn apply_revocation(consumer: &Consumer, list: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
        _ => consumer.unassign(),
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<TopicPartition> {
    let elements = list.elements();
    elements
        .iter()
        .map(|element| TopicPartition::new(element.topic(), Partition(element.partition())))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
