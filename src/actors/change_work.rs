//! The work on one change of a job: it goes on until it is known what was committed, and then gives
//! the job back to the scheduler of its app.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::app::RegisteredApp;
use super::changing::PendingChange;
use super::instance::Instance;
use super::messages::{CollectEnded, JobChanged, OutcomesWritten, PublishOutbox};
use crate::admission::{AskedChange, ChangeReply, RowNow, change_until_known};
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
            (Found::Waiting, RowNow::Is(job)) => written.put_back.push(Arc::from(job)),
            (Found::Waiting, RowNow::Gone) => written.finished.push(self.job),
            (Found::Waiting, RowNow::Unknown) => written.unknown.push(self.job),
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
