//! The outstanding reads of a window, and the tombstones of ids for which they may return an
//! outdated row.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use super::id_map::IdMap;
use crate::model::ids::JobId;

/// Ids are unique in the process, so that a ticket of an earlier window is never taken for one of
/// this window.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Identifies an outstanding read; later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ReadId(u64);

impl ReadId {
    fn fresh() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The rows that an outstanding read returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadKind {
    /// The rows that an admission inserts.
    Ticket,
    /// Rows of one list, beyond its mark.
    Page,
    /// Rows by id.
    LookUp,
    /// Rows of one list, up to its mark.
    Audit,
}

/// The outstanding reads, and the ids whose rows changed since they began.
#[derive(Debug)]
pub(super) struct OutstandingReads {
    last: ReadId,
    out: BTreeMap<ReadId, ReadKind>,
    /// By id, the last read that began before the row changed.
    tombstones: IdMap<ReadId>,
    /// The tombstones in the order in which they were added, which is the order in which they are
    /// removed.
    order: VecDeque<(ReadId, JobId)>,
}

impl OutstandingReads {
    pub(super) fn new() -> Self {
        Self {
            last: ReadId::fresh(),
            out: BTreeMap::new(),
            tombstones: IdMap::default(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn issue(&mut self, kind: ReadKind) -> ReadId {
        let read = self.advance();
        self.out.insert(read, kind);
        read
    }

    /// Takes an id that separates earlier reads from later ones.
    pub(super) fn advance(&mut self) -> ReadId {
        self.last = ReadId::fresh();
        self.last
    }

    /// The last id taken.
    pub(super) fn last(&self) -> ReadId {
        self.last
    }

    pub(super) fn is_outstanding(&self, read: ReadId, kind: ReadKind) -> bool {
        self.out.get(&read) == Some(&kind)
    }

    /// Whether a ticket or a look-up is outstanding, which may return any row.
    pub(super) fn may_return_any(&self) -> bool {
        self.out.values().any(|kind| matches!(kind, ReadKind::Ticket | ReadKind::LookUp))
    }

    /// Ends a read. Compare its rows with the tombstones before: those that only this read needed
    /// are removed.
    pub(super) fn close(&mut self, read: ReadId) {
        self.out.remove(&read);
        let oldest = self.out.first_key_value().map(|(oldest, _)| *oldest);
        while let Some(&(stamp, id)) = self.order.front() {
            if oldest.is_some_and(|oldest| oldest <= stamp) {
                break;
            }
            self.order.pop_front();
            if self.tombstones.get(&id) == Some(&stamp) {
                self.tombstones.remove(&id);
            }
        }
    }

    /// Notes that the id's row has changed: the reads that are outstanding now may return its old
    /// version.
    pub(super) fn add_tombstone(&mut self, id: JobId) {
        if !self.out.is_empty() && self.tombstones.insert(id, self.last) != Some(self.last) {
            self.order.push_back((self.last, id));
        }
    }

    /// Whether the id's row has changed since this read began.
    pub(super) fn is_outdated(&self, id: JobId, read: ReadId) -> bool {
        self.tombstones.get(&id).is_some_and(|stamp| read <= *stamp)
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn tombstones(&self) -> usize {
        self.tombstones.len()
    }
}
