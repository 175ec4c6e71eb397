//! From memory into flight, and what becomes of a flight.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use super::Window;
use super::carriers::CarrierId;
use super::list::{Key, List};
use super::places::{Flight, Place};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Job;

/// What a command finds of the job that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Withdrawn {
    /// It was in memory and is now in flight, the caller's to settle.
    Taken(Arc<Job>),
    /// It is not in memory; the table may have it. It counts as in flight all the same, so
    /// that nothing fires it meanwhile, and is the caller's to settle.
    Absent,
    /// It is in flight already, and remains whose it was.
    InFlight,
}

impl Window {
    /// Takes up to `limit` jobs that are due at `now_ms`, in the order of firing, until they
    /// have `max_bytes` by [`Job::size`] or more; they are in flight until [`Self::finished`], [`Self::put_back`] or [`Self::outcome_unknown`].
    ///
    /// Within a list they go strictly by due time, ties by id. Between lists the first of
    /// each are compared: by priority class, one higher for each `aging_ms` since it was due
    /// and created; then by due time and id. Jobs of shards on hold are not chosen.
    pub fn take_due(&mut self, now_ms: i64, limit: usize, max_bytes: usize) -> Vec<Arc<Job>> {
        let Self { shards, places, carriers, .. } = self;
        let aging_ms = self.limits.aging_ms;
        let since = carriers.last();
        let mut turns: BinaryHeap<Turn<'_>> = shards
            .values_mut()
            .filter(|shard| !shard.held)
            .flat_map(|shard| &mut shard.lists)
            .filter_map(|list| Some(Turn { at: list.turn(now_ms, aging_ms)?, list }))
            .collect();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < limit
            && bytes < max_bytes
            && let Some(mut first) = turns.peek_mut()
            && let Some(job) = first.list.take_head()
        {
            let flight = Flight { shard: job.shard, since, seen_again: false };
            places.insert(job.id, Place::InFlight(flight));
            bytes += job.size();
            taken.push(job);
            match first.list.turn(now_ms, aging_ms) {
                Some(at) => first.at = at,
                None => drop(PeekMut::pop(first)),
            }
        }
        taken
    }

    /// When the next job that may be chosen is due, epoch milliseconds; past if one is due.
    pub fn next_due(&self) -> Option<i64> {
        let chosen_from = self.shards.values().filter(|shard| !shard.held);
        chosen_from
            .flat_map(|shard| &shard.lists)
            .filter_map(List::head)
            .map(|job| job.due_ms)
            .min()
    }

    /// Takes a job out before it fires, for a command that changes or cancels it.
    pub fn withdraw(&mut self, shard: ShardId, id: JobId) -> Withdrawn {
        if let Some(Place::InFlight(_)) = self.places.get(&id) {
            return Withdrawn::InFlight;
        }
        let job = self.unlist(id);
        let flight = Flight { shard, since: self.carriers.last(), seen_again: false };
        self.places.insert(id, Place::InFlight(flight));
        job.map_or(Withdrawn::Absent, Withdrawn::Taken)
    }

    /// These are in flight already, started under a predecessor. To be called before the
    /// first page is wanted.
    pub fn adopt_in_flight(&mut self, running: impl IntoIterator<Item = (JobId, ShardId)>) {
        for (id, shard) in running {
            self.unlist(id);
            // Since before all: nobody here knows whether the shard has been away meanwhile.
            let flight = Flight { shard, since: CarrierId::default(), seen_again: false };
            self.places.insert(id, Place::InFlight(flight));
        }
    }

    /// The job's row is gone; to be called once that is committed.
    pub fn finished(&mut self, id: JobId) {
        let Some(flight) = self.land(id) else { return self.outcome_unknown(id) };
        self.carriers.bury(id);
        if flight.seen_again {
            self.look_up(id);
        }
    }

    /// The job is not in flight any more and its row reads `job` now: a retry at its new due
    /// time, to be called once that is committed; or an attempt that never ran, unchanged.
    pub fn put_back(&mut self, job: impl Into<Arc<Job>>) {
        let job = job.into();
        let Some(flight) = self.land(job.id) else { return self.outcome_unknown(job.id) };
        self.carriers.bury(job.id);
        if self.is_of_this_tenure(flight) {
            self.place(job);
            self.shrink();
        } else {
            self.look_up(job.id);
        }
    }

    /// The job is not in flight any more, and nobody knows whether its row is still there or
    /// what it says (an outcome without an answer, or fenced): it is looked up.
    ///
    /// Only when the transaction that was to write it has surely ended.
    pub fn outcome_unknown(&mut self, id: JobId) {
        self.land(id);
        self.unlist(id);
        self.carriers.bury(id);
        self.look_up(id);
    }
}

/// A list that has a due job; the greatest is the one whose turn it is.
struct Turn<'a> {
    at: Reverse<(i64, Key)>,
    list: &'a mut List,
}

impl Ord for Turn<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Turn<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Turn<'_> {}
