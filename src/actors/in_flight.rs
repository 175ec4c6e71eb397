//! What has been started and not yet written: the one memory that survives the actors.
//!
//! A job is in attempt from before its attempt starts until its outcome's commit is
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
use crate::model::job::Job;
use crate::store::{Outcome, ShardFence};

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The handler answered.
    Returned(Result<(), JobError>),
    /// It took longer than it may.
    TimedOut(Duration),
    /// It panicked, or was aborted, before it answered.
    Panicked,
    /// Its time to be of use had passed.
    Expired,
    /// The lease was over, or we are leaving: it never ran.
    NotStarted,
    /// It was told to stop, and stopped or was stopped: it does not count.
    Cancelled,
}

/// A job in attempt.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
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
    /// How it ended, once it has.
    pub(super) ended: Option<Arc<Ended>>,
    /// What that means, where judging it again could say something else.
    pub(super) outcome: Option<Outcome>,
}

/// Every job in attempt on this instance.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    table: Mutex<Table>,
    running: AtomicUsize,
    fences: FenceClock,
}

#[derive(Debug, Default)]
struct Table {
    attempts: HashMap<JobId, Attempt>,
    /// Those that ended since the last collection, in order.
    ended: Vec<JobId>,
}

impl InFlight {
    /// Notes jobs that are about to start, and gives each its fence. `now_us` is the database's
    /// clock.
    pub(super) fn start(&self, attempts: Vec<Attempt>, now_us: i64) -> Vec<Attempt> {
        let mut table = self.table();
        self.running.fetch_add(attempts.len(), Ordering::Relaxed);
        attempts
            .into_iter()
            .map(|mut attempt| {
                let id = attempt.job.id;
                attempt.app.running.fetch_add(1, Ordering::Relaxed);
                attempt.app.unwritten.fetch_add(1, Ordering::Relaxed);
                attempt.bytes = attempt.job.size();
                attempt.app.memory.add_in_flight(attempt.bytes);
                attempt.shown = self.fences.next(attempt.fence.epoch, now_us);
                table.attempts.insert(id, attempt.clone());
                attempt
            })
            .collect()
    }

    /// An attempt has ended. True if it is the first since the last collection.
    pub(super) fn end(&self, id: JobId, how: Ended) -> bool {
        let mut table = self.table();
        let Some(attempt) = table.attempts.get_mut(&id) else { return false };
        attempt.ended = Some(Arc::new(how));
        attempt.app.running.fetch_sub(1, Ordering::Relaxed);
        self.running.fetch_sub(1, Ordering::Relaxed);
        table.ended.push(id);
        table.ended.len() == 1
    }

    /// Those that ended since the last call.
    pub(super) fn collect(&self) -> Vec<Attempt> {
        let mut table = self.table();
        let ended = std::mem::take(&mut table.ended);
        ended.iter().filter_map(|id| table.attempts.get(id).cloned()).collect()
    }

    /// All that ended and is not settled, for an outcomes actor that begins anew.
    pub(super) fn collect_all(&self) {
        let mut table = self.table();
        let Table { attempts, ended, .. } = &mut *table;
        let all = attempts.iter().filter(|(_, attempt)| attempt.ended.is_some());
        *ended = all.map(|(id, _)| *id).collect();
    }

    /// Keeps judgements, so that an outcome that is written twice is the same both times.
    pub(super) fn keep_outcomes(&self, outcomes: Vec<(JobId, Outcome)>) {
        let mut table = self.table();
        for (id, outcome) in outcomes {
            if let Some(attempt) = table.attempts.get_mut(&id) {
                // A dead letter has a body of its own until it is written.
                let more = if attempt.outcome.is_none() { outcome.size() } else { 0 };
                attempt.bytes += more;
                attempt.app.memory.add_in_flight(more);
                attempt.outcome = Some(outcome);
            }
        }
    }

    /// These are written, nobody's any more, or will start again.
    pub(super) fn remove(&self, gone: impl IntoIterator<Item = JobId>) {
        let mut table = self.table();
        for id in gone {
            if let Some(attempt) = table.attempts.remove(&id) {
                attempt.app.unwritten.fetch_sub(1, Ordering::Relaxed);
                attempt.app.memory.remove_in_flight(attempt.bytes);
            }
        }
    }

    /// What of `app` is in attempt, for a scheduler that begins anew.
    pub(super) fn of(&self, app: AppId) -> Vec<(JobId, ShardId)> {
        let table = self.table();
        let of_app = table.attempts.values().filter(|attempt| attempt.app.id == app);
        of_app.map(|attempt| (attempt.job.id, attempt.job.shard)).collect()
    }

    /// Whether anything of `shard` is in attempt.
    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.table().attempts.values().any(|attempt| attempt.job.shard == shard)
    }

    /// Tells running attempts of these shards that they are not wanted any more.
    pub(super) fn cancel(&self, shards: &HashSet<ShardId>) {
        for attempt in self.table().attempts.values() {
            if shards.contains(&attempt.job.shard) {
                attempt.cancelled.cancel();
            }
        }
    }

    /// Tells all running attempts the same.
    pub(super) fn cancel_all(&self) {
        for attempt in self.table().attempts.values() {
            attempt.cancelled.cancel();
        }
    }

    /// Attempts that run.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Attempts that run or are not written yet.
    pub(super) fn len(&self) -> usize {
        self.table().attempts.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
