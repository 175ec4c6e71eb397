//! Starts jobs with care that may have ended the process of an instance.
//!
//! After taking shards of an instance that died, every job of theirs that was due by then is
//! marked before it starts, for a minute: so a handler that ends the process at once is found as
//! well as one that takes its time. A job that was interrupted is marked before each start, and
//! waits for its turn, which depends on how often that happened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::model::ids::{InstanceId, ShardId};
use crate::model::interruption::Company;
use crate::store::{InstanceEnd, ShardFence};

/// How long jobs are marked before they start. The jobs of a long outage must not each cost a
/// further write.
const WATCH: Duration = Duration::from_secs(60);
/// Jobs that ran when an instance ended are gathered for so long, to be named in one line of the
/// log.
const GATHER: Duration = Duration::from_millis(100);
/// The most jobs that one line names.
const NAMED: usize = 20;

/// What this instance knows of instances that died, and who may start.
#[derive(Debug)]
pub(super) struct CrashGuard {
    watched: Mutex<HashMap<ShardId, Watched>>,
    /// The names of dead instances, and none of those that left in order.
    ended: tokio::sync::Mutex<HashMap<InstanceId, Option<String>>>,
    suspects: Mutex<BTreeMap<InstanceId, Suspects>>,
    small: Arc<Semaphore>,
    running: Mutex<Running>,
    has_changed: Notify,
    closed: CancellationToken,
}

/// A shard that was taken from an instance that died.
#[derive(Clone, Copy, Debug)]
struct Watched {
    fence: ShardFence,
    /// Jobs that were due by then are marked before they start, epoch milliseconds.
    due_ms: i64,
    until: Instant,
}

/// Jobs that ran when an instance died.
#[derive(Debug, Default)]
struct Suspects {
    jobs: BTreeSet<String>,
    /// Cancelled when the log has named them.
    are_named: CancellationToken,
}

/// The jobs that run and are marked because an instance died.
#[derive(Debug, Default)]
struct Running {
    in_company: usize,
    is_one_alone: bool,
}

/// A job may run for as long as this lives.
#[derive(Debug)]
pub(super) struct Turn {
    guard: Arc<CrashGuard>,
    is_alone: bool,
    _small: Option<OwnedSemaphorePermit>,
}

impl CrashGuard {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            watched: Mutex::default(),
            ended: tokio::sync::Mutex::default(),
            suspects: Mutex::default(),
            small: Arc::new(Semaphore::new(Company::SMALL)),
            running: Mutex::default(),
            has_changed: Notify::new(),
            closed: CancellationToken::new(),
        })
    }

    /// These shards were taken from instances that died; what is due now is marked before it
    /// starts.
    pub(super) fn watch(&self, fences: impl IntoIterator<Item = ShardFence>, now_ms: i64) {
        let until = Instant::now() + WATCH;
        let mut watched = lock(&self.watched);
        watched.retain(|_, shard| shard.until > Instant::now());
        let shards = fences.into_iter().map(|fence| (fence.shard, fence));
        watched
            .extend(shards.map(|(shard, fence)| (shard, Watched { fence, due_ms: now_ms, until })));
    }

    /// Whether a job that is due then is marked before it starts.
    pub(super) fn watches(&self, fence: ShardFence, due_ms: i64) -> bool {
        let watched = lock(&self.watched);
        watched.get(&fence.shard).is_some_and(|shard| {
            shard.fence == fence && due_ms <= shard.due_ms && Instant::now() < shard.until
        })
    }

    /// Waits until a job may start in this company. `None` once nothing is to start any more.
    pub(super) async fn turn(self: &Arc<Self>, company: Company) -> Option<Turn> {
        let turn = async {
            let small = match company {
                // It is never closed.
                Company::Small => self.small.clone().acquire_owned().await.ok(),
                Company::Usual | Company::None => None,
            };
            let is_alone = company == Company::None;
            loop {
                // Before the look, so that no change after it is missed.
                let changed = self.has_changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if lock(&self.running).begin(is_alone) {
                    return Turn { guard: self.clone(), is_alone, _small: small };
                }
                changed.await;
            }
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            turn = turn => Some(turn),
        }
    }

    /// Nothing that waits for its turn starts any more.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// The name of an instance, if it has died; `ask` asks the database for that. `None` if it has
    /// left in order or lives.
    pub(super) async fn name_of_dead<E>(
        &self,
        instance: InstanceId,
        ask: impl Future<Output = Result<InstanceEnd, E>>,
    ) -> Result<Option<String>, E> {
        let mut ended = self.ended.lock().await;
        if let Some(name) = ended.get(&instance) {
            return Ok(name.clone());
        }
        let name = match ask.await? {
            InstanceEnd::Alive => return Ok(None),
            InstanceEnd::Left => None,
            InstanceEnd::Died(name) => Some(name),
        };
        ended.insert(instance, name.clone());
        Ok(name)
    }

    /// Notes a job that ran when an instance died, and waits until the log names it: with all of
    /// that instance in one line, and before one of them ends this process as well.
    pub(super) async fn suspect(self: &Arc<Self>, instance: InstanceId, name: &str, job: String) {
        let (is_first, are_named) = {
            let mut suspects = lock(&self.suspects);
            let of_instance = suspects.entry(instance).or_default();
            of_instance.jobs.insert(job);
            (of_instance.jobs.len() == 1, of_instance.are_named.clone())
        };
        if is_first {
            let (guard, name) = (self.clone(), name.to_owned());
            drop(tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                let suspects = lock(&guard.suspects).remove(&instance).unwrap_or_default();
                suspects.report(instance, &name);
                suspects.are_named.cancel();
            }));
        }
        are_named.cancelled().await;
    }
}

impl Suspects {
    fn report(&self, instance: InstanceId, name: &str) {
        let jobs = self.jobs.len();
        let named: Vec<&str> = self.jobs.iter().take(NAMED).map(String::as_str).collect();
        let more = match jobs.saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        tracing::error!(
            instance = %instance,
            jobs,
            "instance {name} ended while it ran jobs, one of which may have ended it: {}{more}",
            named.join(", "),
        );
    }
}

impl Running {
    /// Whether one more may run, which counts from now on.
    fn begin(&mut self, is_alone: bool) -> bool {
        let may = !self.is_one_alone && (!is_alone || self.in_company == 0);
        match (may, is_alone) {
            (true, true) => self.is_one_alone = true,
            (true, false) => self.in_company += 1,
            (false, _) => {}
        }
        may
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = lock(&self.guard.running);
        match self.is_alone {
            true => running.is_one_alone = false,
            false => running.in_company -= 1,
        }
        drop(running);
        self.guard.has_changed.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
