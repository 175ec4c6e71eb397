//! One attempt: a task that runs the handler on a job and always reports how that ended.

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
    let how = execute(&report.instance, &report.attempt).await;
    report.how = Some(how);
}

async fn execute(instance: &Instance, attempt: &Attempt) -> Ended {
    let Attempt { job, app, fence, fired_ms, cancelled, .. } = attempt;
    // The process may have been suspended since the job was chosen.
    let ours = instance.lease.is_valid() && fence.owner == instance.me();
    // It was cancelled while an attempt ran that ended with its instance.
    let is_over = cancelled.is_cancelled() || job.changes.cancelled.is_some();
    if !ours || is_over {
        return Ended::NotStarted;
    }
    if job.is_expired(*fired_ms) {
        return Ended::Expired;
    }
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
