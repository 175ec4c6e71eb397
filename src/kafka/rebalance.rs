//! What happens, in which order, when the group gives us partitions or takes them away.

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
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use tracing::{debug, error, info, warn};

use super::memory::RecordMemory;
use super::partition::keep_end;
use super::reach::Reach;
use super::slot::Slot;
use super::{Error, PartitionQueue, TopicPartition};

/// Who reads the partitions that the group gives to this process.
pub trait Assignments: Send + Sync + 'static {
    /// These partitions are ours, in addition to those before; none, if the group has more
    /// members than partitions. Each waits for [`Intake::seek`](super::Intake::seek) before
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
    pub(super) reach: Arc<Reach>,
    /// What the readers of all partitions share.
    pub(super) memory: Arc<RecordMemory>,
    /// Splitting needs the consumer's `Arc`, callbacks get a plain reference.
    consumer: OnceLock<Weak<Consumer>>,
    slots: Mutex<HashMap<TopicPartition, Arc<Slot>>>,
    /// Held while the client's assignment changes: a restart must not meet a rebalance.
    turn: Mutex<()>,
    /// Partitions were taken in a rebalance that has not given us any yet.
    half_done: AtomicBool,
    /// The client closes: what it is still given is not read.
    closing: AtomicBool,
    /// Where the client stands in the group, by its statistics.
    join_state: Mutex<JoinState>,
}

/// A state of librdkafka's membership, by its name in STATISTICS.md.
#[derive(Debug, Default)]
struct JoinState {
    name: String,
    /// How often it was reported.
    reports: u64,
}

/// What is read of librdkafka's statistics.
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
        reach: Arc<Reach>,
        memory: Arc<RecordMemory>,
    ) -> Self {
        Self {
            assignments,
            reach,
            memory,
            consumer: OnceLock::new(),
            slots: Mutex::default(),
            turn: Mutex::default(),
            half_done: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            join_state: Mutex::default(),
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

    /// Whether a rebalance has taken partitions from us and is not over yet.
    pub(super) fn is_half_done(&self) -> bool {
        self.half_done.load(Ordering::Acquire)
    }

    /// From now on partitions only go.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// How often the client has reported its place in the group, and whether it was in none the
    /// last time.
    pub(super) fn membership(&self) -> (u64, bool) {
        let state = lock(&self.join_state);
        (state.reports, state.name == "init")
    }

    /// The client is of no use any more, and its partitions are for others.
    pub(super) fn give_up(&self) {
        let partitions: Vec<_> = self.slots().keys().cloned().collect();
        self.end(partitions, true);
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
        self.half_done.store(false, Ordering::Release);
        if self.closing.load(Ordering::Acquire) {
            return;
        }
        self.reach.served();
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
            match PartitionQueue::split(&consumer, slot.clone(), self.memory.clone()) {
                Ok(queue) => queues.push((slot, queue)),
                Err(error) => error!(partition = %partition, "{partition} is not read: {error}"),
            }
        }
        queues
    }

    fn revoke(&self, consumer: &Consumer, list: &TopicPartitionList) {
        let _turn = lock(&self.turn);
        let lost = consumer.assignment_lost();
        let durable = self.end(partitions_of(list), lost);
        // What is lost may already be read by somebody who has committed more.
        if !lost {
            commit(consumer, &durable);
        }
        self.half_done.store(!lost, Ordering::Release);
        if let Err(error) = let_go(consumer, list) {
            warn!("partitions could not be let go: {error}");
        }
    }

    /// Ends the reading of partitions, and returns the next offset of each that is durable.
    fn end(&self, mut partitions: Vec<TopicPartition>, lost: bool) -> Vec<(TopicPartition, i64)> {
        partitions.retain(|partition| match self.slots().remove(partition) {
            Some(slot) => {
                slot.revoke();
                true
            }
            // Given while we were closing, so that nobody reads it.
            None => false,
        });
        if partitions.is_empty() {
            return Vec::new();
        }
        let count = partitions.len();
        info!(partitions = count, lost, "the group took {count} partitions from us");
        self.assignments.revoked(partitions, lost)
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
        match error.rdkafka_error_code() {
            Some(Code::PartitionEOF) => keep_end(reason),
            Some(code) => self.reach.failed(code, reason),
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
/// and what they keep from being done, commits among it, which serve lag tools only.
pub(super) fn log(reach: &Reach, level: RDKafkaLogLevel, facility: &str, message: &str) {
    if facility == "FAIL" {
        reach.disconnected(message);
    }
    match level {
        _ if matches!(facility, "COMMITFAIL" | "FAIL" | "FATAL" | "GETPID") => {
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
