//! One attempt: a task that runs the handler on a job and always reports how that ended. `careful`
//! lets it start in order after instances have died.

mod careful;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::in_flight::{Attempt, Ended};
use super::instance::Instance;
use super::messages::CollectEnded;
use crate::dispatch::JobContext;

/// How long a cancelled attempt may go on before it is dropped.
const GRACE: Duration = Duration::from_secs(1);

/// Starts an attempt on the runtime's worker threads.
pub(super) fn spawn(instance: &Arc<Instance>, attempt: Attempt) {
    let report = EndReport { instance: instance.clone(), attempt, how: None };
    // The handle is not needed: the drop guard reports the end in every case.
    drop(tokio::spawn(run(report)));
}

/// Reports the end of the attempt when it is dropped, which includes a panic of the handler.
struct EndReport {
    instance: Arc<Instance>,
    attempt: Attempt,
    how: Option<Ended>,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        let how = self.how.take().unwrap_or(Ended::Panicked);
        let running = self.attempt.app.running.load(Ordering::Relaxed);
        // Before the end frees a slot, which the next attempt would take.
        let returned = match &how {
            Ended::Returned(result) => Some(result),
            _ => None,
        };
        let Attempt { job, app, gate_number, .. } = &self.attempt;
        app.gate.ended(*gate_number, job.id, returned, running);
        let now_ms = self.instance.now_ms();
        if self.instance.in_flight.end(self.attempt.job.id, how, now_ms) {
            self.instance.registry.notify(CollectEnded);
        }
    }
}

async fn run(mut report: EndReport) {
    let how = match may_start(&report.instance, &mut report.attempt).await {
        Ok(()) => execute(&report.attempt).await,
        Err(how) => how,
    };
    report.how = Some(how);
}

/// Whether it may start, and how it ends otherwise.
async fn may_start(instance: &Instance, attempt: &mut Attempt) -> Result<(), Ended> {
    is_to_start(instance, attempt)?;
    if careful::needs_care(instance, attempt) {
        careful::prepare(instance, attempt).await?;
        // It may have waited for long.
        is_to_start(instance, attempt)?;
    }
    Ok(())
}

fn is_to_start(instance: &Instance, attempt: &Attempt) -> Result<(), Ended> {
    let Attempt { job, fence, fired_ms, cancelled, .. } = attempt;
    // The process may have been suspended since the job was chosen.
    let ours = instance.lease.is_valid() && fence.owner == instance.me();
    // It was cancelled while an attempt ran that ended with its instance.
    let is_over = cancelled.is_cancelled() || job.changes.cancelled.is_some();
    if !ours || is_over {
        return Err(Ended::NotStarted);
    }
    match job.is_expired(*fired_ms) {
        true => Err(Ended::Expired),
        false => Ok(()),
    }
}

async fn execute(attempt: &Attempt) -> Ended {
    let Attempt { job, app, fired_ms, cancelled, .. } = attempt;
    let ready_ms = job.ready_ms();
    app.figures.started(fired_ms - ready_ms, job.due_ms < ready_ms);
    let timeout = match app.gate.has_target() {
        true => Duration::MAX,
        false => job.timeout(app.config.timeout),
    };
    let context = JobContext::new(
        app.name.clone(),
        job.clone(),
        attempt.receiver_fence,
        *fired_ms,
        cancelled.clone(),
    );
    // The instance that admitted the job may not have had the handler, and a temporary objection
    // may no longer apply.
    if let Err(rejection) = app.handler.validate(&job.data) {
        return Ended::Returned(Err(rejection.into()));
    }
    let stop = async {
        cancelled.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        answer = tokio::time::timeout(timeout, app.handler.execute(&context)) => match answer {
            Ok(Ok(())) => Ended::Returned(Ok(())),
            // An error of a handler that was cancelled does not count as a failure of the job.
            _ if cancelled.is_cancelled() => Ended::Cancelled,
            Ok(answer) => Ended::Returned(answer),
            Err(_) => Ended::TimedOut(timeout),
        },
        () = stop => Ended::Cancelled,
    }
}
