//! One assignment of one partition, and which of its queues may be read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::{Error, TopicPartition};

/// One assignment of one partition, shared by the rebalance callbacks and the queues.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) partition: TopicPartition,
    /// The number of the queue that may be read; older ones end. `REVOKED` ends all.
    pub(super) reader: AtomicU64,
    /// The number of seeks. Zero: the position has not been set yet.
    pub(super) seeks: AtomicU64,
    /// The topic was deleted and recreated since the position was last determined.
    recreated: AtomicBool,
    pub(super) wake: Notify,
}

const REVOKED: u64 = u64::MAX;

impl Slot {
    pub(super) fn new(partition: TopicPartition) -> Self {
        Self {
            partition,
            reader: AtomicU64::new(0),
            seeks: AtomicU64::new(0),
            recreated: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Ends every queue of this assignment and wakes its reader.
    pub(super) fn revoke(&self) {
        self.reader.store(REVOKED, Ordering::Release);
        self.wake.notify_one();
    }

    /// Notes that a seek succeeded.
    pub(super) fn note_seek(&self) {
        self.seeks.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that the offsets of the partition are those of another log from now on.
    pub(super) fn note_recreation(&self) {
        self.recreated.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether a recreation was noted and not taken yet.
    pub(super) fn is_recreated(&self) -> bool {
        self.recreated.load(Ordering::Acquire)
    }

    /// As [`is_recreated`](Self::is_recreated), and takes the note.
    pub(super) fn take_recreation(&self) -> bool {
        self.recreated.swap(false, Ordering::AcqRel)
    }

    pub(super) fn next_reader(&self) -> Result<u64, Error> {
        let next = |reader| (reader != REVOKED).then_some(reader + 1);
        match self.reader.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(before) => Ok(before + 1),
            Err(_) => Err(Error::Revoked { partition: self.partition.clone() }),
        }
    }
}
