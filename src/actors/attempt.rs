//! One attempt: a task that gives a job to its handler and always says how that ended.

use std::sync::Arc;
use std::time::Duration;

use super::in_flight::{Ended, Flight};
use super::instance::Instance;
use super::messages::Collect;
use crate::dispatch::JobContext;

/// How long an attempt that was told to stop may still take, before it is dropped.
const GRACE: Duration = Duration::from_secs(1);

/// Starts an attempt on the runtime's workers.
pub(super) fn spawn(instance: &Arc<Instance>, flight: Flight) {
    let ending = Ending { instance: instance.clone(), flight, how: None };
    // The handle is not kept: the drop guard reports the end whatever happens.
    drop(tokio::spawn(run(ending)));
}

/// Reports the end when it is dropped, also by a panic of the handler.
struct Ending {
    instance: Arc<Instance>,
    flight: Flight,
    how: Option<Ended>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let how = self.how.take().unwrap_or(Ended::Broke);
        if self.instance.in_flight.end(self.flight.job.id, how) {
            self.instance.registry.hint(Collect);
        }
    }
}

async fn run(mut ending: Ending) {
    let how = attempt(&ending.instance, &ending.flight).await;
    ending.how = Some(how);
}

async fn attempt(instance: &Instance, flight: &Flight) -> Ended {
    let Flight { job, app, fence, fired_ms, cancelled, .. } = flight;
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
    let timeout = match app.handler.ends_by_itself() {
        true => Duration::MAX,
        false => job.timeout(app.config.timeout),
    };
    let context =
        JobContext::new(app.name.clone(), job.clone(), flight.shown, *fired_ms, cancelled.clone());
    // Whoever admitted it may not have had the handler; and "not yet" may be yes by now.
    if let Err(rejection) = app.handler.validate(&job.data) {
        return Ended::Answered(Err(rejection.into()));
    }
    let stop = async {
        cancelled.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        answer = tokio::time::timeout(timeout, app.handler.execute(&context)) => match answer {
            Ok(Ok(())) => Ended::Answered(Ok(())),
            // What a handler says that was told to stop is no failure of its job.
            _ if cancelled.is_cancelled() => Ended::Cancelled,
            Ok(answer) => Ended::Answered(answer),
            Err(_) => Ended::TimedOut(timeout),
        },
        () = stop => Ended::Cancelled,
    }
}
