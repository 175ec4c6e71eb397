//! Look-ups, which read rows by id because their state is unknown, and audits, which compare memory
//! and table.

use super::Window;
use super::outstanding::{ReadId, ReadKind};
use super::places::Place;
use crate::model::ids::{JobId, ShardId};
use crate::model::job::{Job, Priority};

/// Rows to read by id.
///
/// Must be passed to [`Window::apply_look_up`] or [`Window::look_up_failed`]: until then these
/// rows may be missing from memory.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct LookUp {
    /// The ids to read, in no order; some may occur twice.
    pub ids: Vec<JobId>,
    read: ReadId,
}

/// The rows of one list up to `up_to`, to compare table and memory.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Audit {
    /// The shard to read.
    pub shard: ShardId,
    /// The priority to read.
    pub priority: Priority,
    /// The last key to read: due, epoch milliseconds, and id.
    pub up_to: (i64, JobId),
    read: ReadId,
}

impl Window {
    /// Up to `limit` ids to look up now, if there are any.
    pub fn wanted_look_up(&mut self, limit: usize) -> Option<LookUp> {
        let mut ids = Vec::new();
        while ids.len() < limit
            && let Some(id) = self.to_look_up.pop()
        {
            match self.places.get_mut(&id) {
                Some(Place::Listed { .. }) => {}
                Some(Place::InFlight(flight)) => flight.seen_again = true,
                None => ids.push(id),
            }
        }
        (!ids.is_empty()).then(|| LookUp { ids, read: self.outstanding.issue(ReadKind::LookUp) })
    }

    /// Applies the rows that were found; the others do not exist.
    pub fn apply_look_up(&mut self, look_up: LookUp, rows: Vec<Job>) {
        if self.outstanding.is_outstanding(look_up.read, ReadKind::LookUp) {
            for row in rows {
                self.apply_row(look_up.read, row);
            }
            self.outstanding.close(look_up.read);
            self.shrink();
        }
    }

    /// The rows could not be read: the next look-up has them again.
    pub fn look_up_failed(&mut self, look_up: LookUp) {
        if self.outstanding.is_outstanding(look_up.read, ReadKind::LookUp) {
            self.to_look_up.extend(look_up.ids);
            self.outstanding.close(look_up.read);
        }
    }

    /// Begins to compare a list with the table; `None` for a shard that this instance does not own.
    ///
    /// Must be passed to [`Self::apply_audit`], without rows if they could not be read.
    pub fn audit(&mut self, shard: ShardId, priority: Priority) -> Option<Audit> {
        let up_to = self.list_mut(shard, priority)?.mark();
        let read = self.outstanding.issue(ReadKind::Audit);
        Some(Audit { shard, priority, up_to, read })
    }

    /// Adds rows that are missing in memory, and returns their number, which should be zero.
    ///
    /// While a ticket or look-up is outstanding, missing rows are added but not counted, since
    /// that could still return them: so an audit finds most when the window is quiet. Tickets of
    /// an earlier window are unknown here: do not audit before they have been returned.
    pub fn apply_audit(&mut self, audit: Audit, rows: Vec<Job>) -> usize {
        let current = |shard: &super::Shard| audit.read > shard.since;
        let mut missing = 0;
        if self.shards.get(&audit.shard).is_some_and(current) {
            for row in rows {
                missing += usize::from(self.add_missing(&audit, row));
            }
        }
        let covered = self.outstanding.may_return_any() || !self.to_look_up.is_empty();
        self.outstanding.close(audit.read);
        self.shrink();
        if covered { 0 } else { missing }
    }

    fn add_missing(&mut self, audit: &Audit, row: Job) -> bool {
        let at_or_before_mark = self.list_mut(audit.shard, audit.priority).is_some_and(|list| {
            let is_known = row.key() <= list.mark() && row.priority == list.priority;
            is_known && !list.blocked().is_dropped(&row)
        });
        let missing = at_or_before_mark
            && row.shard == audit.shard
            && !self.places.contains_key(&row.id)
            && !self.outstanding.is_outdated(row.id, audit.read);
        if missing {
            self.place(row);
        }
        missing
    }
}
