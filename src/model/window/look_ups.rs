//! Rows read by id because nobody here can know them, and the audit of what is known.

use super::Window;
use super::carriers::{CarrierId, Kind};
use super::places::Place;
use crate::model::ids::{JobId, ShardId};
use crate::model::job::{Job, Priority};

/// Rows to read by id.
///
/// It must come back, by [`Window::apply_look_up`] or [`Window::look_up_failed`]: until then
/// these rows may be missing from memory.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct LookUp {
    /// The ids to read, in no order; some may occur twice.
    pub ids: Vec<JobId>,
    carrier: CarrierId,
}

/// Rows to read to compare table and memory: those of one list up to `up_to`.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Audit {
    /// The shard to read.
    pub shard: ShardId,
    /// The class to read.
    pub priority: Priority,
    /// The last place to read: due, epoch milliseconds, and id.
    pub up_to: (i64, JobId),
    carrier: CarrierId,
}

impl Window {
    /// Up to `limit` rows that are to be read by id now, if there are any.
    pub fn wanted_look_up(&mut self, limit: usize) -> Option<LookUp> {
        let mut ids = Vec::new();
        while ids.len() < limit
            && let Some(id) = self.doubtful.pop()
        {
            match self.places.get_mut(&id) {
                Some(Place::Listed { .. }) => {}
                Some(Place::InFlight(flight)) => flight.seen_again = true,
                None => ids.push(id),
            }
        }
        (!ids.is_empty()).then(|| LookUp { ids, carrier: self.carriers.issue(Kind::LookUp) })
    }

    /// Takes the rows that were found; the others do not exist.
    pub fn apply_look_up(&mut self, look_up: LookUp, rows: Vec<Job>) {
        if self.carriers.is_out(look_up.carrier, Kind::LookUp) {
            for row in rows {
                self.arrive(look_up.carrier, row);
            }
            self.carriers.close(look_up.carrier);
            self.shrink();
        }
    }

    /// The rows could not be read: they are wanted again.
    pub fn look_up_failed(&mut self, look_up: LookUp) {
        if self.carriers.is_out(look_up.carrier, Kind::LookUp) {
            self.doubtful.extend(look_up.ids);
            self.carriers.close(look_up.carrier);
        }
    }

    /// Begins to compare a list with its table; `None` for a list that is not here.
    ///
    /// It must come back, by [`Self::apply_audit`], without rows if they could not be read.
    pub fn audit(&mut self, shard: ShardId, priority: Priority) -> Option<Audit> {
        let up_to = self.list_mut(shard, priority)?.mark();
        let carrier = self.carriers.issue(Kind::Audit);
        Some(Audit { shard, priority, up_to, carrier })
    }

    /// Takes rows that should all be known, and returns how many were not: should be zero.
    ///
    /// Rows which a ticket or a look-up that is out may still bring are taken in as well,
    /// but not counted: so an audit finds most when little is going on. A predecessor's
    /// tickets are not known here: its successor is not audited until they are back.
    pub fn apply_audit(&mut self, audit: Audit, rows: Vec<Job>) -> usize {
        let current = |shard: &super::Shard| audit.carrier > shard.since;
        let mut rescued = 0;
        if self.shards.get(&audit.shard).is_some_and(current) {
            for row in rows {
                rescued += usize::from(self.rescue(&audit, row));
            }
        }
        let covered = self.carriers.may_bring_any() || !self.doubtful.is_empty();
        self.carriers.close(audit.carrier);
        self.shrink();
        if covered { 0 } else { rescued }
    }

    fn rescue(&mut self, audit: &Audit, row: Job) -> bool {
        let at_or_before_mark = self
            .list_mut(audit.shard, audit.priority)
            .is_some_and(|list| row.key() <= list.mark() && row.priority == list.priority);
        let missing = at_or_before_mark
            && row.shard == audit.shard
            && !self.places.contains_key(&row.id)
            && !self.carriers.is_outdated(row.id, audit.carrier);
        if missing {
            self.place(row);
        }
        missing
    }
}
