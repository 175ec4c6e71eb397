//! What has been started and not yet written: the one memory that survives the actors.
//!
//! A job is in flight from before its attempt starts until its outcome's commit is
//! confirmed. A fresh app scheduler takes over what still runs; a fresh outcomes actor
//! finds what has ended and was not written.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::app::RegisteredApp;
use crate::dispatch::JobError;
use crate::model::fence::{Fence, FenceClock};
use crate::model::ids::{AppId, JobId, ShardId};
use crate::model::job::{Cancellation, Job};
use crate::store::{Outcome, ShardFence};

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The handler answered.
    Answered(Result<(), JobError>),
    /// It took longer than it may.
    TimedOut(Duration),
    /// It panicked, or was aborted, before it answered.
    Broke,
    /// Its time to be of use had passed.
    Expired,
    /// The lease was over, or we are leaving: it never ran.
    NotStarted,
    /// It was told to stop, and stopped or was stopped: it does not count.
    Cancelled,
}

/// A job in flight.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) job: Arc<Job>,
    pub(super) app: Arc<RegisteredApp>,
    /// The shard as it was ours when the attempt started.
    pub(super) fence: ShardFence,
    pub(super) fired_ms: i64,
    /// What the receiver is shown; set by the table when it starts.
    pub(super) shown: Fence,
    pub(super) cancelled: CancellationToken,
    /// The bytes that it counts for in its app's memory; kept by the table.
    pub(super) bytes: usize,
    /// That it was cancelled: no attempt follows this one.
    pub(super) cancellation: Option<Cancellation>,
    /// The cancellation is being written to the row: its outcome waits for that.
    pub(super) is_marking: bool,
    /// How it ended, once it has.
    pub(super) ended: Option<Arc<Ended>>,
    /// What that means, where judging it again could say something else.
    pub(super) judged: Option<Outcome>,
}

/// What a job in flight is to whoever wants to change it.
#[derive(Debug)]
pub(super) enum Attempting {
    /// It is not in flight.
    No,
    /// Its attempt has ended, and the outcome is being written.
    Ended,
    /// Its attempt runs.
    Running {
        /// Its outcome waits for a cancellation that has just begun.
        is_marking: bool,
    },
}

/// Every job in flight on this instance.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    table: Mutex<Table>,
    running: AtomicUsize,
    fences: FenceClock,
}

#[derive(Debug, Default)]
struct Table {
    flights: HashMap<JobId, Flight>,
    /// Those that ended since the last collection, in order.
    ended: Vec<JobId>,
}

impl Flight {
    fn attempting(&self) -> Attempting {
        match self.ended {
            Some(_) => Attempting::Ended,
            None => Attempting::Running { is_marking: false },
        }
    }
}

impl InFlight {
    /// Notes jobs that are about to start, and gives each its fence. `now_us` is the database's
    /// clock.
    pub(super) fn start(&self, flights: Vec<Flight>, now_us: i64) -> Vec<Flight> {
        let mut table = self.table();
        self.running.fetch_add(flights.len(), Ordering::Relaxed);
        flights
            .into_iter()
            .map(|mut flight| {
                let id = flight.job.id;
                flight.app.running.fetch_add(1, Ordering::Relaxed);
                flight.app.unsettled.fetch_add(1, Ordering::Relaxed);
                flight.bytes = flight.job.size();
                flight.app.memory.take_off(flight.bytes);
                flight.shown = self.fences.next(flight.fence.epoch, now_us);
                table.flights.insert(id, flight.clone());
                flight
            })
            .collect()
    }

    /// An attempt has ended. True if it is the first since the last collection.
    pub(super) fn end(&self, id: JobId, how: Ended) -> bool {
        let mut table = self.table();
        let Some(flight) = table.flights.get_mut(&id) else { return false };
        flight.ended = Some(Arc::new(how));
        flight.app.running.fetch_sub(1, Ordering::Relaxed);
        self.running.fetch_sub(1, Ordering::Relaxed);
        if flight.is_marking {
            return false;
        }
        table.ended.push(id);
        table.ended.len() == 1
    }

    /// What job `id` is doing.
    pub(super) fn attempting(&self, id: JobId) -> Attempting {
        self.table().flights.get(&id).map_or(Attempting::No, Flight::attempting)
    }

    /// Cancels the job that was admitted then, if its attempt runs, and tells the attempt to stop
    /// if `stops`. If that is its first cancellation, its outcome waits until [`Self::marked`].
    pub(super) fn cancel_one(
        &self,
        id: JobId,
        created_ms: i64,
        first: Cancellation,
        stops: bool,
    ) -> Attempting {
        let mut table = self.table();
        let Some(flight) = table.flights.get_mut(&id) else { return Attempting::No };
        let attempting = flight.attempting();
        if matches!(attempting, Attempting::Ended) || flight.job.created_ms != created_ms {
            return attempting;
        }
        if stops {
            flight.cancelled.cancel();
        }
        if flight.cancellation.is_some() {
            return attempting;
        }
        flight.cancellation = Some(first);
        flight.is_marking = true;
        Attempting::Running { is_marking: true }
    }

    /// The cancellation is in the job's row, or is not if it could not be written. True if an
    /// outcome has waited for it.
    pub(super) fn marked(&self, id: JobId, is_written: bool) -> bool {
        let mut table = self.table();
        let Some(flight) = table.flights.get_mut(&id) else { return false };
        flight.is_marking = false;
        if !is_written {
            flight.cancellation = None;
        }
        let has_ended = flight.ended.is_some();
        if has_ended {
            table.ended.push(id);
        }
        has_ended
    }

    /// Those that ended since the last call.
    pub(super) fn collect(&self) -> Vec<Flight> {
        let mut table = self.table();
        let ended = std::mem::take(&mut table.ended);
        ended.iter().filter_map(|id| table.flights.get(id).cloned()).collect()
    }

    /// All that ended and is not settled, for an outcomes actor that begins anew.
    pub(super) fn collect_all(&self) {
        let mut table = self.table();
        let Table { flights, ended, .. } = &mut *table;
        let all =
            flights.iter().filter(|(_, flight)| flight.ended.is_some() && !flight.is_marking);
        *ended = all.map(|(id, _)| *id).collect();
    }

    /// Keeps judgements, so that an outcome that is written twice is the same both times.
    pub(super) fn keep(&self, judged: Vec<(JobId, Outcome)>) {
        let mut table = self.table();
        for (id, outcome) in judged {
            if let Some(flight) = table.flights.get_mut(&id) {
                // A dead letter has a body of its own until it is written.
                let more = if flight.judged.is_none() { outcome.size() } else { 0 };
                flight.bytes += more;
                flight.app.memory.take_off(more);
                flight.judged = Some(outcome);
            }
        }
    }

    /// These are written, nobody's any more, or will start again.
    pub(super) fn settle(&self, gone: impl IntoIterator<Item = JobId>) {
        let mut table = self.table();
        for id in gone {
            if let Some(flight) = table.flights.remove(&id) {
                flight.app.unsettled.fetch_sub(1, Ordering::Relaxed);
                flight.app.memory.land(flight.bytes);
            }
        }
    }

    /// What of `app` is in flight, for a scheduler that begins anew.
    pub(super) fn of(&self, app: AppId) -> Vec<(JobId, ShardId)> {
        let table = self.table();
        let of_app = table.flights.values().filter(|flight| flight.app.id == app);
        of_app.map(|flight| (flight.job.id, flight.job.shard)).collect()
    }

    /// Whether anything of `shard` is in flight.
    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.table().flights.values().any(|flight| flight.job.shard == shard)
    }

    /// Tells running attempts of these shards that they are not wanted any more.
    pub(super) fn cancel(&self, shards: &HashSet<ShardId>) {
        for flight in self.table().flights.values() {
            if shards.contains(&flight.job.shard) {
                flight.cancelled.cancel();
            }
        }
    }

    /// Tells all running attempts the same.
    pub(super) fn cancel_all(&self) {
        for flight in self.table().flights.values() {
            flight.cancelled.cancel();
        }
    }

    /// Attempts that run.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Attempts that run or are not written yet.
    pub(super) fn len(&self) -> usize {
        self.table().flights.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
