//! The window: one app's next jobs in memory, of the shards that this instance owns.
//!
//! It decides what may fire and what must be read from the `job` table, which is the truth.
//! It does no I/O and has no clock: its caller reads the pages and look-ups that it wants,
//! tells it what was admitted and how attempts ended, and gives it the time.
//!
//! There is one list per shard and priority, each with a *mark*, a place in the order
//! (due, id) of its rows.
//!
//! *Invariant*: every live row at or before the mark is in memory, in flight, or covered by
//! a ticket or look-up that is out; none after it is in memory to be fired.
//!
//! What brings rows (a ticket, a page, a look-up) is a *carrier*. Carriers are numbered, so
//! that rows which changed since a carrier was issued are told by their tombstones. Where a
//! carrier's row could be an old version or a new one, the window does not guess: it wants
//! the row looked up.

mod carriers;
mod fire;
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

use self::carriers::{CarrierId, Carriers};
use self::list::List;
use self::places::{Flight, Place, Places};
use super::ids::{Epoch, JobId, ShardId};
use super::job::{Job, Priority};

pub use self::fire::Withdrawn;
pub use self::look_ups::{Audit, LookUp};
pub use self::pages::PageRequest;
pub use self::tickets::TicketId;

/// How much a window holds, and how it is filled and emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// Jobs in memory over all lists; those in flight do not count.
    pub max_jobs: usize,
    /// Their bytes by [`Job::size`]. A list may hold one job in any case.
    pub max_bytes: usize,
    /// Rows that one page may have.
    pub page_size: usize,
    /// A due job rises one priority class for each of these that it waits.
    pub aging_ms: i64,
}

/// The next jobs of one app, of the shards that this instance owns.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    shards: BTreeMap<ShardId, Shard>,
    places: Places,
    carriers: Carriers,
    /// Ids whose rows are to be looked up.
    doubtful: Vec<JobId>,
}

#[derive(Debug)]
struct Shard {
    epoch: Epoch,
    /// What was issued before may speak of a time in which the shard was somebody else's.
    since: CarrierId,
    held: bool,
    lists: [List; Priority::ALL.len()],
}

/// What a window holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowFigures {
    /// Lists: one per shard and priority.
    pub lists: usize,
    /// Jobs in memory, without those in flight.
    pub jobs: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Jobs that were taken, withdrawn or adopted and are not settled.
    pub in_flight: usize,
    /// Ids that carriers which are out must not bring back.
    pub tombstones: usize,
    /// Tickets, pages, look-ups and audits that are out.
    pub carriers: usize,
    /// Ids that wait to be looked up.
    pub doubtful: usize,
}

impl Window {
    /// A window without shards.
    pub fn new(limits: WindowLimits) -> Self {
        Self {
            limits,
            shards: BTreeMap::new(),
            places: Places::default(),
            carriers: Carriers::new(),
            doubtful: Vec::new(),
        }
    }

    /// Begins with `shard`, which is ours at `epoch` from now on; nothing of it is known.
    ///
    /// At another epoch than before it begins anew: somebody else may have changed its rows
    /// in between.
    pub fn add_shard(&mut self, shard: ShardId, epoch: Epoch) {
        if self.epoch(shard) == Some(epoch) {
            return;
        }
        self.remove_shard(shard);
        let lists = Priority::ALL.map(List::new);
        let since = self.carriers.advance();
        self.shards.insert(shard, Shard { epoch, since, held: false, lists });
    }

    /// Drops what is in memory of `shard`. What is in flight stays in flight until it is
    /// settled, also when the shard comes back before that.
    pub fn remove_shard(&mut self, shard: ShardId) {
        self.drop_lists(shard);
        self.shards.remove(&shard);
    }

    /// Chooses no more jobs of `shard` until [`Self::unhold`].
    pub fn hold(&mut self, shard: ShardId) {
        self.set_held(shard, true);
    }

    /// Chooses jobs of `shard` again.
    pub fn unhold(&mut self, shard: ShardId) {
        self.set_held(shard, false);
    }

    /// Reads `shard` again from the start: its jobs in memory are dropped, what is in flight
    /// stays so.
    pub fn forget(&mut self, shard: ShardId) {
        self.drop_lists(shard);
    }

    /// The shards and the epochs at which they are ours.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, Epoch)> + '_ {
        self.shards.iter().map(|(id, shard)| (*id, shard.epoch))
    }

    /// The epoch at which `shard` is ours.
    pub fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.shards.get(&shard).map(|shard| shard.epoch)
    }

    /// How many jobs of `shard` are in flight. It looks at everything: not for hot paths.
    pub fn in_flight_of(&self, shard: ShardId) -> usize {
        let of_shard = |place: &&Place| matches!(place, Place::InFlight(f) if f.shard == shard);
        self.places.values().filter(of_shard).count()
    }

    /// What it holds.
    pub fn figures(&self) -> WindowFigures {
        let used = self.used();
        WindowFigures {
            lists: self.shards.len() * Priority::ALL.len(),
            jobs: used.jobs,
            bytes: used.bytes,
            in_flight: self.places.len() - used.jobs,
            tombstones: self.carriers.tombstones(),
            carriers: self.carriers.len(),
            doubtful: self.doubtful.len(),
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
                self.carriers.close(page.carrier);
            }
        }
    }

    /// Holds a row, known to be the newest of a job that is not in flight, if it is at or
    /// before its list's mark or a page of the list is out; else the table keeps it.
    fn place(&mut self, job: impl Borrow<Job> + Into<Arc<Job>>) {
        let &Job { id, shard, priority, due_ms, .. } = job.borrow();
        if let Some(list) = self.list_mut(shard, priority)
            && list.takes((due_ms, id))
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
        self.list_mut(shard, priority)?.remove((due_ms, id))
    }

    /// Ends a flight.
    fn land(&mut self, id: JobId) -> Option<Flight> {
        let Some(&Place::InFlight(flight)) = self.places.get(&id) else { return None };
        self.places.remove(&id);
        Some(flight)
    }

    /// Whether the shard has not been away since the job was taken: else somebody else may
    /// have changed its row after us.
    fn is_of_this_tenure(&self, flight: Flight) -> bool {
        self.shards.get(&flight.shard).is_some_and(|shard| flight.since >= shard.since)
    }
}
