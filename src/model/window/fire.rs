//! Takes jobs out of memory to be fired, and applies the outcomes of their attempts.

use std::sync::Arc;

use super::Window;
use super::list::List;
use super::outstanding::ReadId;
use super::places::{Flight, Place};
use super::turns::{TURNS, Turns};
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
    /// A job with a concurrency key is only taken if `takes_key` says so, which counts it then;
    /// else it waits, without keeping others from their turn, until [`Self::key_freed`].
    ///
    /// Within a list they go strictly by due time, ties by id. Between lists the first jobs are
    /// compared: by priority, then by due time and id. One of `TURNS` turns goes to the earliest
    /// due of those that have waited for `aging_ms` since they were due and created, whatever their
    /// priority. Jobs of shards on hold are not taken.
    pub fn take_due(
        &mut self,
        now_ms: i64,
        room: Room,
        mut takes_key: impl FnMut(&str) -> bool,
    ) -> Vec<Arc<Job>> {
        let (most_of_key, mut free_for_blocked) =
            (self.most_blocked_of_key(), self.free_for_blocked());
        let mut passed = Vec::new();
        let Self { shards, places, outstanding, turn, .. } = self;
        let since = outstanding.last();
        let lists = shards.values_mut().filter(|shard| !shard.held);
        let lists = lists.flat_map(|shard| &mut shard.lists).collect();
        let mut turns = Turns::new(lists, now_ms, self.limits.aging_ms);
        let (mut taken, mut bytes, mut starts) = (Vec::new(), 0, 0);
        while taken.len() < room.jobs
            && bytes < room.bytes
            && let Some(list) = turns.next(*turn % TURNS == TURNS - 1)
            && let Some(head) = list.head()
        {
            let starts_nothing = head.is_expired(now_ms);
            if starts == room.starts && !starts_nothing {
                turns.leave_out();
                continue;
            }
            if let Some(name) = &head.concurrency_key {
                if starts_nothing {
                    passed.push((head.shard, name.clone()));
                } else if !takes_key(name) {
                    let most = if free_for_blocked > 0 { most_of_key } else { 1 };
                    match list.block_head(most) {
                        Some(dropped) => drop(places.remove(&dropped.id)),
                        None => free_for_blocked = free_for_blocked.saturating_sub(1),
                    }
                    turns.head_changed();
                    continue;
                }
            }
            let Some(job) = list.take_head() else { break };
            turns.head_changed();
            starts += usize::from(!starts_nothing);
            *turn = turn.wrapping_add(u32::from(!starts_nothing));
            let flight = Flight { shard: job.shard, since, seen_again: false };
            places.insert(job.id, Place::InFlight(flight));
            bytes += job.size();
            taken.push(job);
        }
        for (shard, name) in passed {
            self.key_freed(shard, &name);
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
