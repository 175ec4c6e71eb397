//! Takes jobs out of memory to be fired, and applies the outcomes of their attempts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use super::Window;
use super::list::{Key, List};
use super::outstanding::ReadId;
use super::places::{Flight, Place};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Job;

/// How much [`Window::take_due`] may take.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The maximum number of jobs.
    pub jobs: usize,
    /// The maximum number of those that have not expired: of the others no attempt starts.
    pub starts: usize,
    /// Nothing is taken after the job with which they have so many bytes by [`Job::size`].
    pub bytes: usize,
}

/// What [`Window::withdraw`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Withdrawn {
    /// The job was in memory and is now in flight until the caller reports its outcome.
    Taken(Arc<Job>),
    /// The job is not in memory; the table may have it. It counts as in flight nevertheless, so
    /// that it is not fired meanwhile; the caller must end that.
    Absent,
    /// The job was in flight already; its attempt ends that.
    InFlight,
}

impl Window {
    /// Takes jobs that are due at `now_ms`, in the order of firing, as far as there is `room`. They
    /// are in flight until [`Self::finished`], [`Self::put_back`] or [`Self::outcome_unknown`].
    ///
    /// Within a list they go strictly by due time, ties by id. Between lists the first jobs are
    /// compared: by priority, one class higher for each `aging_ms` since the job was due and
    /// created; then by due time and id. Jobs of shards on hold are not taken.
    pub fn take_due(&mut self, now_ms: i64, room: Room) -> Vec<Arc<Job>> {
        let Self { shards, places, outstanding, .. } = self;
        let aging_ms = self.limits.aging_ms;
        let since = outstanding.last();
        let mut turns: BinaryHeap<Turn<'_>> = shards
            .values_mut()
            .filter(|shard| !shard.held)
            .flat_map(|shard| &mut shard.lists)
            .filter_map(|list| Some(Turn { at: list.turn(now_ms, aging_ms)?, list }))
            .collect();
        let (mut taken, mut bytes, mut starts) = (Vec::new(), 0, 0);
        while taken.len() < room.jobs
            && bytes < room.bytes
            && let Some(mut first) = turns.peek_mut()
        {
            let starts_nothing = first.list.head().is_some_and(|job| job.is_expired(now_ms));
            if starts == room.starts && !starts_nothing {
                PeekMut::pop(first);
                continue;
            }
            let Some(job) = first.list.take_head() else { break };
            starts += usize::from(!starts_nothing);
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

    /// How many jobs that may be taken are due by `until_ms` and have not expired by then, counted
    /// up to `most`.
    pub fn count_due(&self, until_ms: i64, most: usize) -> usize {
        let lists = self.shards.values().filter(|shard| !shard.held).flat_map(|shard| &shard.lists);
        lists.flat_map(|list| list.due(until_ms)).take(most).count()
    }

    /// When the next job that may be taken is due, epoch milliseconds; in the past if one is due.
    pub fn next_due(&self) -> Option<i64> {
        let chosen_from = self.shards.values().filter(|shard| !shard.held);
        chosen_from
            .flat_map(|shard| &shard.lists)
            .filter_map(List::head)
            .map(|job| job.due_ms)
            .min()
    }

    /// Takes a job out of memory before it fires, for an operation that changes or cancels it.
    pub fn withdraw(&mut self, shard: ShardId, id: JobId) -> Withdrawn {
        if let Some(Place::InFlight(_)) = self.places.get(&id) {
            return Withdrawn::InFlight;
        }
        let job = self.unlist(id);
        let flight = Flight { shard, since: self.outstanding.last(), seen_again: false };
        self.places.insert(id, Place::InFlight(flight));
        job.map_or(Withdrawn::Absent, Withdrawn::Taken)
    }

    /// Marks jobs as in flight whose attempts were started before this window existed. To be
    /// called before [`Self::wanted_pages`].
    pub fn adopt_in_flight(&mut self, running: impl IntoIterator<Item = (JobId, ShardId)>) {
        for (id, shard) in running {
            self.unlist(id);
            // They count as taken before every read: it is unknown whether another instance owned
            // the shard meanwhile.
            let flight = Flight { shard, since: ReadId::default(), seen_again: false };
            self.places.insert(id, Place::InFlight(flight));
        }
    }

    /// The job's row was deleted; to be called once that is committed.
    pub fn finished(&mut self, id: JobId) {
        let Some(flight) = self.end_flight(id) else { return self.outcome_unknown(id) };
        self.outstanding.add_tombstone(id);
        if flight.seen_again {
            self.look_up(id);
        }
    }

    /// The job is not in flight any more, and its row is `job` now: after a retry, with its new
    /// due time, to be called once that is committed; after an attempt that never ran, unchanged.
    pub fn put_back(&mut self, job: impl Into<Arc<Job>>) {
        let job = job.into();
        let Some(flight) = self.end_flight(job.id) else { return self.outcome_unknown(job.id) };
        self.outstanding.add_tombstone(job.id);
        if self.owned_since(flight) {
            self.place(job);
            self.shrink();
        } else {
            self.look_up(job.id);
        }
    }

    /// The job is not in flight any more, and its row is unknown, because the write of its
    /// outcome was fenced or had no answer: it is looked up.
    ///
    /// To be called only when that transaction has certainly ended.
    pub fn outcome_unknown(&mut self, id: JobId) {
        self.end_flight(id);
        self.unlist(id);
        self.outstanding.add_tombstone(id);
        self.look_up(id);
    }
}

/// A list that has a due job; the greatest is the next to fire.
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
