//! The work on changes of jobs: it goes on until it is known what was committed, and then gives the
//! jobs back to the scheduler of their app.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::app::RegisteredApp;
use super::changing::PendingChange;
use super::instance::Instance;
use super::messages::{CollectEnded, JobChanged, OutcomesWritten, PublishOutbox};
use crate::admission::{
    AskedBatch, AskedChange, ChangeReply, RowNow, change_batch_until_known, change_until_known,
};
use crate::model::change::{ChangeResult, JobChange};
use crate::model::ids::{AppId, JobId};
use crate::store::{ChangeAnswer, Claim, OrderingKey, ShardFence};

/// Where the job is that is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It does not run: it was taken out of the window.
    Waiting,
    /// An attempt at it runs.
    Running,
    /// An attempt at it runs, whose outcome waits for this change: it is a cancellation.
    Cancelling,
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
        stops: matches!(request.change, JobChange::Cancel { stop: true }),
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
            max_attempts: app.limits().max_attempts.get(),
            window_ms: instance.window_ms(),
            publishes_verdicts: instance.publishes_verdicts(),
            is_running: found != Found::Waiting,
        };
        let (answer, row) = change_until_known(&instance.database, &*instance.clock, asked).await;
        ending.is_written = has_changed(&answer);
        ending.row = row;
        // The scheduler hears of it first, so that who asks again meets what is true now.
        drop(ending);
        if is_cancelled_now(&answer) {
            app.figures.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        if instance.publishes_verdicts() {
            instance.registry.notify(PublishOutbox(OrderingKey::Shard(fence.shard)));
        }
        // The caller may have stopped waiting.
        drop(reply.send(answer));
    }));
}

/// Begins to work on changes by a bulk action of jobs that were taken out of the window, in one
/// shard of ours.
pub(super) fn spawn_batch(
    instance: &Arc<Instance>,
    app: &Arc<RegisteredApp>,
    fence: ShardFence,
    changes: Vec<PendingChange>,
    bulk: i64,
) {
    let rows = changes.iter().map(|change| (change.request.job, RowNow::Unknown)).collect();
    for change in &changes {
        instance.changing.begin(app.id, change);
    }
    let mut ending = BatchEnding { instance: instance.clone(), app: app.id, rows };
    let (instance, app) = (instance.clone(), app.clone());
    drop(tokio::spawn(async move {
        let (requests, callers): (Vec<_>, Vec<_>) =
            changes.into_iter().map(|change| (change.request, change.reply)).unzip();
        let asked = AskedBatch {
            bulk,
            requests: &requests,
            claim: Claim::Owned(fence),
            app: &app.name,
            max_attempts: app.limits().max_attempts.get(),
            window_ms: instance.window_ms(),
            publishes_verdicts: instance.publishes_verdicts(),
        };
        let done = change_batch_until_known(&instance.database, &*instance.clock, asked).await;
        let mut answers = Vec::with_capacity(done.len());
        for ((answer, now), (_, row)) in done.into_iter().zip(&mut ending.rows) {
            *row = now;
            answers.push(answer);
        }
        drop(ending);
        let cancelled = answers.iter().filter(|answer| is_cancelled_now(answer)).count();
        app.figures.cancelled.fetch_add(cancelled as u64, Ordering::Relaxed);
        if instance.publishes_verdicts() {
            instance.registry.notify(PublishOutbox(OrderingKey::Shard(fence.shard)));
        }
        for (caller, answer) in callers.into_iter().zip(answers) {
            // The caller may have stopped waiting.
            drop(caller.send(answer));
        }
    }));
}

/// Whether the job was changed.
fn has_changed(reply: &ChangeReply) -> bool {
    matches!(reply, ChangeReply::Answered(ChangeAnswer::Answered(answer)) if answer.changed)
}

/// Whether this change is what ended the job.
fn is_cancelled_now(reply: &ChangeReply) -> bool {
    let ChangeReply::Answered(ChangeAnswer::Answered(answer)) = reply else { return false };
    answer.changed && answer.result == ChangeResult::Cancelled
}

/// Gives the job back when it is dropped, also by a panic.
struct Ending {
    instance: Arc<Instance>,
    app: AppId,
    job: JobId,
    found: Found,
    /// Its attempt is asked to stop.
    stops: bool,
    /// A cancellation of a job that runs is in its row.
    is_written: bool,
    row: RowNow,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut written = OutcomesWritten::default();
        match (self.found, std::mem::replace(&mut self.row, RowNow::Unknown)) {
            (Found::Waiting, row) => give_back(&mut written, self.job, row),
            (Found::Cancelling, _) => {
                if self.instance.in_flight.cancel_written(self.job, self.is_written, self.stops) {
                    self.instance.registry.notify(CollectEnded);
                }
            }
            (Found::Running, _) => {}
        }
        let next = self.instance.changing.end(self.job);
        self.instance.registry.notify_scope(self.app, JobChanged { written, next });
    }
}

/// What the window is to do with a job that was taken out of it.
fn give_back(written: &mut OutcomesWritten, job: JobId, row: RowNow) {
    match row {
        RowNow::Is(job) => written.put_back.push(Arc::from(job)),
        RowNow::Gone => written.finished.push(job),
        RowNow::Unknown => written.unknown.push(job),
    }
}

/// Gives the jobs of a bulk action back when it is dropped, also by a panic.
struct BatchEnding {
    instance: Arc<Instance>,
    app: AppId,
    rows: Vec<(JobId, RowNow)>,
}

impl Drop for BatchEnding {
    fn drop(&mut self) {
        let (mut written, mut next) = (OutcomesWritten::default(), VecDeque::new());
        for (job, row) in std::mem::take(&mut self.rows) {
            give_back(&mut written, job, row);
            next.extend(self.instance.changing.end(job));
        }
        self.instance.registry.notify_scope(self.app, JobChanged { written, next });
    }
}
