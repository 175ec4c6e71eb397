//! The table of attempts that were started and whose outcome is not written yet. It survives the
//! restart of any actor.
//!
//! A job is in flight from before its attempt starts until the commit of its outcome is confirmed.
//! A restarted app scheduler takes over the running attempts, and a restarted outcomes actor finds
//! those that have ended and are not written.

mod ended;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::app::RegisteredApp;
use super::crash_guard::Turn;
use super::progress::Progress;
use crate::model::fence::{Fence, FenceClock};
use crate::model::ids::{AppId, JobId, ShardId};
use crate::model::job::{Cancellation, Job};
use crate::model::limits::Limits;
use crate::store::{Outcome, ShardFence};

pub(super) use ended::{Ended, Ruling};

/// One attempt of a job.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) job: Arc<Job>,
    pub(super) app: Arc<RegisteredApp>,
    /// The fence of the shard when the attempt started.
    pub(super) fence: ShardFence,
    pub(super) fired_ms: i64,
    /// Whether the job's row says that it runs.
    pub(super) mark: MarkState,
    /// It runs in the company that its interruptions allow, until its outcome is written.
    pub(super) turn: Option<Arc<Turn>>,
    /// Its number at the target's gate; set by the table at the start.
    pub(super) gate_number: u64,
    /// The fence that the handler's receiver gets; set by the table at the start.
    pub(super) receiver_fence: Fence,
    pub(super) cancelled: CancellationToken,
    pub(super) progress: Arc<Progress>,
    /// The bytes that count towards the app's memory; set by the table.
    pub(super) bytes: usize,
    /// That it was cancelled: no attempt follows this one.
    pub(super) cancellation: Option<Cancellation>,
    /// The cancellation is being written to the row: its outcome waits for that.
    pub(super) is_cancelling: bool,
    /// How it ended, once it has ended.
    pub(super) ended: Option<Arc<Ended>>,
    /// When that was, epoch milliseconds.
    pub(super) ended_ms: i64,
    /// The outcome that follows from its end, kept if computing it again could yield another one.
    pub(super) outcome: Option<Outcome>,
}

/// Whether the row of a job says that its attempt runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkState {
    /// It does not; it will, if the attempt runs for long.
    None,
    /// It does not, and the attempt waits for its turn to be marked and to start.
    Waits,
    /// It does, or this is being written.
    Marked,
}

/// An attempt that starts once it is marked.
#[derive(Debug)]
pub(super) struct WantedMark {
    pub(super) attempt: Attempt,
    /// True once the row has the mark; false if the row is another one.
    pub(super) written: oneshot::Sender<bool>,
}

/// What a job in flight is to a caller that wants to change it.
#[derive(Debug)]
pub(super) enum Attempting {
    /// It is not in flight.
    No,
    /// Its attempt has ended, and the outcome is being written.
    Ended,
    /// Its attempt runs.
    Running {
        /// Its outcome waits for a cancellation that has just begun.
        is_cancelling: bool,
    },
}

/// Every attempt that is in flight on this instance.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    table: Mutex<Table>,
    running: AtomicUsize,
    fences: FenceClock,
}

#[derive(Debug, Default)]
struct Table {
    attempts: HashMap<JobId, Attempt>,
    /// Attempts that ended since the last call of [`InFlight::collect`], in order.
    ended: Vec<JobId>,
    /// Attempts that are marked before they start.
    wanted: Vec<WantedMark>,
}

impl Attempt {
    /// The concurrency key that was taken for it; an attempt at a job that has expired takes none.
    fn taken_key(&self) -> Option<&str> {
        self.job.concurrency_key.as_deref().filter(|_| !self.job.is_expired(self.fired_ms))
    }

    /// When it is ended from outside, by the limits of its app. A target ends each attempt by
    /// itself.
    pub(super) fn time_limit(&self, limits: &Limits) -> Duration {
        match self.app.gate.has_target() {
            true => Duration::MAX,
            false => self.job.timeout(limits.timeout),
        }
    }

    fn state(&self) -> Attempting {
        match self.ended {
            Some(_) => Attempting::Ended,
            None => Attempting::Running { is_cancelling: false },
        }
    }
}

impl InFlight {
    /// Adds attempts that are about to start, and assigns each its fence. `now_us` is the
    /// database's time.
    pub(super) fn start(&self, attempts: Vec<Attempt>, now_us: i64) -> Vec<Attempt> {
        let mut table = self.table();
        self.running.fetch_add(attempts.len(), Ordering::Relaxed);
        attempts
            .into_iter()
            .map(|mut attempt| {
                let id = attempt.job.id;
                attempt.app.running.fetch_add(1, Ordering::Relaxed);
                attempt.app.unwritten.fetch_add(1, Ordering::Relaxed);
                attempt.gate_number = attempt.app.gate.started();
                attempt.bytes = attempt.job.size();
                attempt.app.memory.add_in_flight(attempt.bytes);
                attempt.receiver_fence = self.fences.next(attempt.fence.epoch, now_us);
                table.attempts.insert(id, attempt.clone());
                attempt
            })
            .collect()
    }

    /// Records the end of an attempt at `now_ms`. Returns true if it is the first since the last collection.
    pub(super) fn end(&self, id: JobId, how: Ended, now_ms: i64) -> bool {
        let mut table = self.table();
        let Some(attempt) = table.attempts.get_mut(&id) else { return false };
        attempt.ended = Some(Arc::new(how));
        attempt.ended_ms = now_ms;
        attempt.app.running.fetch_sub(1, Ordering::Relaxed);
        if let Some(key) = attempt.taken_key() {
            attempt.app.keys.give_back(attempt.job.shard, key);
        }
        self.running.fetch_sub(1, Ordering::Relaxed);
        if attempt.is_cancelling {
            return false;
        }
        table.ended.push(id);
        table.ended.len() == 1
    }

    /// What job `id` is doing.
    pub(super) fn attempting(&self, id: JobId) -> Attempting {
        self.table().attempts.get(&id).map_or(Attempting::No, Attempt::state)
    }

    /// Cancels the job if it is meant and its attempt runs; its outcome waits until
    /// [`Self::cancel_written`]. If it was cancelled before, its attempt is asked to stop if `stops`.
    pub(super) fn cancel_one(
        &self,
        id: JobId,
        is_meant: impl FnOnce(&Job) -> bool,
        first: Cancellation,
        stops: bool,
    ) -> Attempting {
        let mut table = self.table();
        let Some(attempt) = table.attempts.get_mut(&id) else { return Attempting::No };
        let attempting = attempt.state();
        if matches!(attempting, Attempting::Ended) || !is_meant(&attempt.job) {
            return attempting;
        }
        if attempt.cancellation.is_some() {
            if stops {
                attempt.cancelled.cancel();
            }
            return attempting;
        }
        attempt.cancellation = Some(first);
        attempt.is_cancelling = true;
        if attempt.mark == MarkState::Waits {
            // It has not started yet.
            attempt.cancelled.cancel();
        }
        Attempting::Running { is_cancelling: true }
    }

    /// The cancellation is in the job's row, and the attempt is asked to stop if `stops`; or it is
    /// not, if it could not be written. True if an outcome has waited for it.
    pub(super) fn cancel_written(&self, id: JobId, is_written: bool, stops: bool) -> bool {
        let mut table = self.table();
        let Some(attempt) = table.attempts.get_mut(&id) else { return false };
        attempt.is_cancelling = false;
        if !is_written {
            attempt.cancellation = None;
        } else if stops {
            attempt.cancelled.cancel();
        }
        let has_ended = attempt.ended.is_some();
        if has_ended {
            table.ended.push(id);
        }
        has_ended
    }

    /// The attempt of this job waits for its turn: it does not run yet.
    pub(super) fn waits(&self, id: JobId) {
        if let Some(attempt) = self.table().attempts.get_mut(&id) {
            attempt.mark = MarkState::Waits;
        }
    }

    /// The attempt is to start, as it is given, once it is marked. The receiver is told when it
    /// is. `None` if it was cancelled meanwhile.
    pub(super) fn mark_first(&self, attempt: &Attempt) -> Option<oneshot::Receiver<bool>> {
        let mut table = self.table();
        let known = table.attempts.get_mut(&attempt.job.id)?;
        if known.cancellation.is_some() || known.cancelled.is_cancelled() {
            return None;
        }
        known.job = attempt.job.clone();
        known.fired_ms = attempt.fired_ms;
        known.turn = attempt.turn.clone();
        known.mark = MarkState::Marked;
        let attempt = known.clone();
        let (written, told) = oneshot::channel();
        table.wanted.push(WantedMark { attempt, written });
        Some(told)
    }

    /// The attempts that wait for their mark, of the shards that `of_shard` selects.
    pub(super) fn take_wanted(&self, of_shard: impl Fn(ShardId) -> bool) -> Vec<WantedMark> {
        let of_queue = |wanted: &mut WantedMark| of_shard(wanted.attempt.job.shard);
        self.table().wanted.extract_if(.., of_queue).collect()
    }

    /// The attempts that have run for as long as this and are not marked, of the shards that
    /// `of_shard` selects. They count as marked from now on, so that an attempt which ends
    /// meanwhile is known to have a mark.
    pub(super) fn take_unmarked(
        &self,
        age: Duration,
        of_shard: impl Fn(ShardId) -> bool,
    ) -> Vec<Attempt> {
        let now = Instant::now();
        let mut table = self.table();
        let unmarked = table.attempts.values_mut().filter(|attempt| {
            attempt.mark == MarkState::None
                && attempt.ended.is_none()
                && of_shard(attempt.job.shard)
                && attempt.progress.age(now) >= age
        });
        unmarked
            .map(|attempt| {
                attempt.mark = MarkState::Marked;
                attempt.clone()
            })
            .collect()
    }

    /// The attempts that ended since the last call.
    pub(super) fn collect(&self) -> Vec<Attempt> {
        let mut table = self.table();
        let ended = std::mem::take(&mut table.ended);
        ended.iter().filter_map(|id| table.attempts.get(id).cloned()).collect()
    }

    /// Makes the next collection return every attempt that has ended, for a restarted outcomes
    /// actor.
    pub(super) fn collect_all(&self) {
        let mut table = self.table();
        let Table { attempts, ended, .. } = &mut *table;
        let all = attempts
            .iter()
            .filter(|(_, attempt)| attempt.ended.is_some() && !attempt.is_cancelling);
        *ended = all.map(|(id, _)| *id).collect();
    }

    /// Stores outcomes, so that writing one again writes the same.
    pub(super) fn keep_outcomes(&self, outcomes: Vec<(JobId, Outcome)>) {
        let mut table = self.table();
        for (id, outcome) in outcomes {
            if let Some(attempt) = table.attempts.get_mut(&id) {
                // The body of a dead letter occupies memory until it is written.
                let more = if attempt.outcome.is_none() { outcome.size() } else { 0 };
                attempt.bytes += more;
                attempt.app.memory.add_in_flight(more);
                attempt.outcome = Some(outcome);
            }
        }
    }

    /// Removes attempts whose outcome is written, whose shard was lost, or that never started.
    pub(super) fn remove(&self, gone: impl IntoIterator<Item = JobId>) {
        let mut table = self.table();
        for id in gone {
            if let Some(attempt) = table.attempts.remove(&id) {
                attempt.app.unwritten.fetch_sub(1, Ordering::Relaxed);
                attempt.app.memory.remove_in_flight(attempt.bytes);
            }
        }
    }

    /// The attempts in handlers of the program that run for longer than they may and `margin`, or
    /// have waited for a thread as long.
    pub(super) fn late(&self, now: Instant, margin: Duration) -> Vec<Attempt> {
        let is_late = |attempt: &&Attempt| {
            let limit = || attempt.time_limit(&attempt.app.limits()).saturating_add(margin);
            attempt.mark != MarkState::Waits
                && attempt.ended.is_none()
                && attempt.progress.is_late(limit(), now)
        };
        self.table().attempts.values().filter(is_late).cloned().collect()
    }

    /// The attempts of `app` that are in flight, for a restarted scheduler.
    pub(super) fn of(&self, app: AppId) -> Vec<(JobId, ShardId)> {
        let table = self.table();
        let of_app = table.attempts.values().filter(|attempt| attempt.app.id == app);
        of_app.map(|attempt| (attempt.job.id, attempt.job.shard)).collect()
    }

    /// Counts the concurrency keys of the app's running attempts anew.
    pub(super) fn recount_keys(&self, app: &RegisteredApp) {
        // No attempt ends meanwhile.
        let table = self.table();
        let running = table.attempts.values().filter(|attempt| attempt.ended.is_none());
        let of_app = running.filter(|attempt| attempt.app.id == app.id);
        app.keys.recount(of_app.filter_map(Attempt::taken_key));
    }

    /// Whether an attempt of `shard` is in flight.
    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.table().attempts.values().any(|attempt| attempt.job.shard == shard)
    }

    /// Cancels the attempts of these shards.
    pub(super) fn cancel(&self, shards: &HashSet<ShardId>) {
        for attempt in self.table().attempts.values() {
            if shards.contains(&attempt.job.shard) {
                attempt.cancelled.cancel();
            }
        }
    }

    /// Cancels all attempts.
    pub(super) fn cancel_all(&self) {
        for attempt in self.table().attempts.values() {
            attempt.cancelled.cancel();
        }
    }

    /// How many attempts are running.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// How many attempts are running or have an unwritten outcome.
    pub(super) fn len(&self) -> usize {
        self.table().attempts.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
