//! The window: the next jobs of one app in memory, of the shards that this instance owns.
//!
//! It decides which jobs may fire and which rows must be read from the `job` table, which is
//! authoritative. It does no I/O and has no clock: its caller reads the pages and look-ups that
//! it requests, and passes it admitted jobs, outcomes of attempts and the time.
//!
//! There is one list per shard and priority. Each has a *mark*: a key (due, id), up to which its
//! rows have been read.
//!
//! *Invariant*: every live row at or before the mark is in memory, in flight (an attempt runs),
//! or will be returned by an outstanding ticket or look-up; no row after the mark is in memory to
//! be fired.
//!
//! An *outstanding read* has yet to return rows. It is a page, a look-up, an audit, or a *ticket*,
//! which is issued before an admission and returned with the rows that it inserted. Outstanding
//! reads are numbered. A *tombstone* records that an id's row changed after the read with a certain
//! number began. Where a row of a read could be an old version or a new one, the window does not
//! guess: it requests a look-up of the row.

mod outstanding;
mod fire;
mod turns;
mod keys;
mod blocked;
mod limits;
mod list;
mod look_ups;
mod pages;
mod id_map;
mod places;
#[cfg(test)]
mod tests;
mod tickets;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use self::list::List;
use self::outstanding::{OutstandingReads, ReadId};
use self::places::{Flight, Place, Places};
use super::ids::{Epoch, JobId, ShardId};
use super::job::{Job, Priority};

pub use self::fire::{Room, Withdrawn};
pub use self::look_ups::{Audit, LookUp};
pub use self::pages::PageRequest;
pub use self::tickets::TicketId;

/// The bounds of a window, and how it is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// The maximum number of jobs in memory over all lists, without those in flight.
    pub max_jobs: usize,
    /// The maximum of their bytes by [`Job::size`]. A list may hold one job in any case.
    pub max_bytes: usize,
    /// The maximum number of rows of one page.
    pub page_size: usize,
    /// A job that has waited this long since it was due and created has a part beside jobs of a
    /// higher priority.
    pub aging_ms: i64,
}

/// The next jobs of one app, of the shards that this instance owns.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    shards: BTreeMap<ShardId, Shard>,
    places: Places,
    /// How many jobs have had their turn.
    turn: u32,
    outstanding: OutstandingReads,
    /// Ids whose rows have to be looked up.
    to_look_up: Vec<JobId>,
}

#[derive(Debug)]
struct Shard {
    epoch: Epoch,
    /// Reads that began before this one may be from a time when another instance owned the shard.
    since: ReadId,
    held: bool,
    lists: [List; Priority::ALL.len()],
}

/// The contents of a window, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowFigures {
    /// The number of lists: one per shard and priority.
    pub lists: usize,
    /// The number of jobs in memory, without those in flight.
    pub jobs: usize,
    /// Their size in bytes.
    pub bytes: usize,
    /// The number of jobs that were taken, withdrawn or adopted and have no outcome yet.
    pub in_flight: usize,
    /// The number of ids for which outstanding reads may return an outdated row.
    pub tombstones: usize,
    /// The number of outstanding tickets, pages, look-ups and audits.
    pub outstanding: usize,
    /// The number of ids that have to be looked up.
    pub to_look_up: usize,
}

impl Window {
    /// A window without shards.
    pub fn new(limits: WindowLimits) -> Self {
        Self {
            limits,
            shards: BTreeMap::new(),
            places: Places::default(),
            turn: 0,
            outstanding: OutstandingReads::new(),
            to_look_up: Vec::new(),
        }
    }

    /// Adds `shard`, which this instance owns at `epoch` from now on; nothing of it is known.
    ///
    /// At another epoch than before it starts empty again: another instance may have changed its
    /// rows in between.
    pub fn add_shard(&mut self, shard: ShardId, epoch: Epoch) {
        if self.epoch(shard) == Some(epoch) {
            return;
        }
        self.remove_shard(shard);
        let lists = Priority::ALL.map(List::new);
        let since = self.outstanding.advance();
        self.shards.insert(shard, Shard { epoch, since, held: false, lists });
    }

    /// Drops the jobs of `shard` from memory. Those in flight stay so until their attempts end,
    /// also if the shard is added again before that.
    pub fn remove_shard(&mut self, shard: ShardId) {
        self.drop_lists(shard);
        self.shards.remove(&shard);
    }

    /// Takes no more jobs of `shard` until [`Self::unhold`].
    pub fn hold(&mut self, shard: ShardId) {
        self.set_held(shard, true);
    }

    /// Takes jobs of `shard` again.
    pub fn unhold(&mut self, shard: ShardId) {
        self.set_held(shard, false);
    }

    /// Drops the jobs of `shard` from memory, to read it again from the start; those in flight
    /// stay so.
    pub fn forget(&mut self, shard: ShardId) {
        self.drop_lists(shard);
    }

    /// The shards, and the epochs at which this instance owns them.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, Epoch)> + '_ {
        self.shards.iter().map(|(id, shard)| (*id, shard.epoch))
    }

    /// The epoch at which this instance owns `shard`.
    pub fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.shards.get(&shard).map(|shard| shard.epoch)
    }

    /// Its contents, for metrics.
    pub fn figures(&self) -> WindowFigures {
        let used = self.used();
        WindowFigures {
            lists: self.shards.len() * Priority::ALL.len(),
            jobs: used.jobs,
            bytes: used.bytes,
            in_flight: self.places.len() - used.jobs,
            tombstones: self.outstanding.tombstones(),
            outstanding: self.outstanding.len(),
            to_look_up: self.to_look_up.len(),
        }
    }

    fn set_held(&mut self, shard: ShardId, held: bool) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.held = held;
        }
    }

    fn lists(&self) -> impl Iterator<Item = &List> {
        self.shards.values().flat_map(|shard| &shard.lists)
    }

    fn list_mut(&mut self, shard: ShardId, priority: Priority) -> Option<&mut List> {
        let lists = &mut self.shards.get_mut(&shard)?.lists;
        Some(&mut lists[priority as usize])
    }

    fn drop_lists(&mut self, shard: ShardId) {
        let Some(shard) = self.shards.get_mut(&shard) else { return };
        for list in &mut shard.lists {
            let (jobs, page) = list.forget();
            for job in jobs {
                self.places.remove(&job.id);
            }
            if let Some(page) = page {
                self.outstanding.close(page.read);
            }
        }
    }

    /// Adds a row that is the newest version of a job not in flight, if it is at or before its
    /// list's mark or a page of the list is outstanding; else a later page returns it.
    fn place(&mut self, job: impl Borrow<Job> + Into<Arc<Job>>) {
        let &Job { id, shard, priority, due_ms, .. } = job.borrow();
        if let Some(list) = self.list_mut(shard, priority)
            && list.accepts((due_ms, id))
        {
            list.put(job.into());
            self.places.insert(id, Place::Listed { shard, priority, due_ms });
        }
    }

    /// Takes a job out of its list.
    fn unlist(&mut self, id: JobId) -> Option<Arc<Job>> {
        let Some(&Place::Listed { shard, priority, due_ms }) = self.places.get(&id) else {
            return None;
        };
        self.places.remove(&id);
        let job = self.list_mut(shard, priority)?.remove((due_ms, id))?;
        if let Some(name) = &job.concurrency_key {
            // It may have been the one whose turn it was.
            self.key_freed(shard, name);
        }
        Some(job)
    }

    /// Notes that a job is not in flight any more; `None` if it was not.
    fn end_flight(&mut self, id: JobId) -> Option<Flight> {
        let Some(&Place::InFlight(flight)) = self.places.get(&id) else { return None };
        self.places.remove(&id);
        Some(flight)
    }

    /// Whether this instance has owned the shard since the job was taken: else another one may
    /// have changed its row since.
    fn owned_since(&self, flight: Flight) -> bool {
        self.shards.get(&flight.shard).is_some_and(|shard| flight.since >= shard.since)
    }
}
