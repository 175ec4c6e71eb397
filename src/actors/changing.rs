//! Which jobs are being changed at somebody's request: they do not fire meanwhile. The table
//! survives the actors, as that of the jobs in flight does.
//!
//! One change of a job is worked on at a time, by a task that goes on until it is known what was
//! committed; further ones wait behind it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::app::RegisteredApp;
use super::instance::Instance;
use super::messages::{Collect, JobChanged, PublishLane, Settled};
use crate::admission::{AskedChange, ChangeReply, RowNow, change_until_known};
use crate::model::change::{ChangeResult, JobChange};
use crate::model::ids::{AppId, JobId, ShardId};
use crate::store::{ChangeAnswer, ChangeRequest, Claim, Lane, ShardFence};

/// Every job of this instance that is being changed.
#[derive(Debug, Default)]
pub(super) struct Changing(Mutex<HashMap<JobId, Entry>>);

#[derive(Debug)]
struct Entry {
    app: AppId,
    shard: ShardId,
    next: VecDeque<PendingChange>,
}

/// A change that somebody waits for.
#[derive(Debug)]
pub(super) struct PendingChange {
    pub(super) shard: ShardId,
    pub(super) request: ChangeRequest,
    /// The command that brought it.
    pub(super) command: Option<i64>,
    pub(super) reply: oneshot::Sender<ChangeReply>,
}

/// Where the job is that is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It does not run: it was taken out of the window.
    Waiting,
    /// An attempt at it runs.
    Running,
    /// An attempt at it runs, whose outcome waits for this change: it is a cancellation.
    Marking,
}

impl Changing {
    /// Puts a change behind those of the same job that are under way; returns it if there are
    /// none.
    pub(super) fn queue(&self, change: PendingChange) -> Option<PendingChange> {
        match self.table().get_mut(&change.request.job) {
            Some(entry) => {
                entry.next.push_back(change);
                None
            }
            None => Some(change),
        }
    }

    /// What of `app` is being changed, for a scheduler that begins anew.
    pub(super) fn of(&self, app: AppId) -> Vec<(JobId, ShardId)> {
        let table = self.table();
        let of_app = table.iter().filter(|(_, entry)| entry.app == app);
        of_app.map(|(id, entry)| (*id, entry.shard)).collect()
    }

    /// Whether anything of `shard` is being changed.
    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.table().values().any(|entry| entry.shard == shard)
    }

    fn begin(&self, app: AppId, change: &PendingChange) {
        let entry = Entry { app, shard: change.shard, next: VecDeque::new() };
        self.table().insert(change.request.job, entry);
    }

    /// The changes that have waited.
    fn end(&self, id: JobId) -> VecDeque<PendingChange> {
        self.table().remove(&id).map(|entry| entry.next).unwrap_or_default()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins to work on a change of a job in a shard of ours that is not being changed.
pub(super) fn spawn(
    instance: &Arc<Instance>,
    app: &Arc<RegisteredApp>,
    fence: ShardFence,
    change: PendingChange,
    found: Found,
) {
    instance.changing.begin(app.id, &change);
    let PendingChange { request, command, reply, .. } = change;
    let mut ending = Ending {
        instance: instance.clone(),
        app: app.id,
        job: request.job,
        found,
        is_written: false,
        row: RowNow::Unknown,
    };
    let (instance, app) = (instance.clone(), app.clone());
    drop(tokio::spawn(async move {
        let asked = AskedChange {
            request: &request,
            command,
            claim: Claim::Owned(fence),
            app: &app.name,
            max_attempts: app.config.max_attempts.get(),
            window_ms: instance.window_ms(),
            tells_verdicts: instance.tells_verdicts(),
            is_running: found != Found::Waiting,
        };
        let (answer, row) = change_until_known(&instance.database, &*instance.clock, asked).await;
        ending.is_written = matches!(answer, ChangeReply::Answered(_));
        ending.row = row;
        // The scheduler hears of it first, so that who asks again meets what is true now.
        drop(ending);
        if is_cancelled_now(&answer, &request) {
            app.figures.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        if instance.tells_verdicts() {
            instance.registry.hint(PublishLane(Lane::Shard(fence.shard)));
        }
        // Whoever asked may have stopped waiting.
        drop(reply.send(answer));
    }));
}

/// Whether this change is what ended the job.
fn is_cancelled_now(reply: &ChangeReply, request: &ChangeRequest) -> bool {
    let ChangeReply::Answered(ChangeAnswer::Answered(answer)) = reply else { return false };
    answer.result == ChangeResult::Cancelled
        && answer.changed
        && matches!(request.change, JobChange::Cancel { .. })
}

/// Gives the job back when it is dropped, also by a panic.
struct Ending {
    instance: Arc<Instance>,
    app: AppId,
    job: JobId,
    found: Found,
    /// A cancellation of a job that runs is in its row.
    is_written: bool,
    row: RowNow,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut settled = Settled::default();
        match (self.found, std::mem::replace(&mut self.row, RowNow::Unknown)) {
            (Found::Waiting, RowNow::Is(job)) => settled.put_back.push(Arc::from(job)),
            (Found::Waiting, RowNow::Gone) => settled.finished.push(self.job),
            (Found::Waiting, RowNow::Unknown) => settled.unknown.push(self.job),
            (Found::Marking, _) => {
                if self.instance.in_flight.marked(self.job, self.is_written) {
                    self.instance.registry.hint(Collect);
                }
            }
            (Found::Running, _) => {}
        }
        let next = self.instance.changing.end(self.job);
        self.instance.registry.hint_to(self.app, JobChanged { settled, next });
    }
}
