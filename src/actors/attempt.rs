//! One attempt of a job: a task that runs the handler and always reports how that ended. `careful`
//! lets it start in order after instances have died.

mod careful;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::in_flight::{Attempt, Ended};
use super::instance::Instance;
use super::messages::{CollectEnded, Fire};
use super::progress::Left;
use crate::dispatch::JobContext;

/// How long an attempt may go on that was cancelled or whose time is over, before it is dropped.
const GRACE: Duration = Duration::from_secs(1);

/// Starts an attempt: at a target on the runtime's worker threads, in a handler of the program on
/// the handlers' own, which it may block.
pub(super) fn spawn(instance: &Arc<Instance>, attempt: Attempt) {
    let needs_care = careful::needs_care(instance, &attempt);
    let report = EndReport { instance: instance.clone(), attempt, how: None };
    // The handles are not needed: the drop guard reports the end in every case.
    match needs_care {
        true => drop(tokio::spawn(start_with_care(report))),
        false => start(report),
    }
}

fn start(report: EndReport) {
    let has_target = report.attempt.app.gate.has_target();
    let instance = report.instance.clone();
    match has_target {
        true => drop(tokio::spawn(run(report))),
        false => drop(instance.handlers.spawn(run(report))),
    }
}

/// Not on the threads of the handlers, which these may block.
async fn start_with_care(mut report: EndReport) {
    // It may wait for long, and is not to wait for what would not start anyway.
    let prepared = match is_to_start(&report.instance, &report.attempt) {
        Ok(()) => careful::prepare(&report.instance, &mut report.attempt).await,
        Err(how) => Err(how),
    };
    match prepared {
        Ok(()) => start(report),
        Err(how) => report.how = Some(how),
    }
}

/// The time of an attempt is over: it counts as failed from now on, whether its handler ends or
/// not. Nothing happens if its end was reported before.
pub(super) fn time_out(instance: &Instance, attempt: &Attempt, limit: Duration) {
    let hanging = &attempt.app.figures.hanging;
    hanging.fetch_add(1, Ordering::AcqRel);
    if !attempt.progress.hang() {
        hanging.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    // What was cancelled before does not count as a failure.
    let how = match attempt.cancelled.is_cancelled() {
        true => Ended::Cancelled,
        false => Ended::TimedOut(limit),
    };
    report(instance, attempt, how);
    attempt.cancelled.cancel();
}

/// Reports the end of the attempt when it is dropped, which includes a panic of the handler.
struct EndReport {
    instance: Arc<Instance>,
    attempt: Attempt,
    how: Option<Ended>,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        let Self { instance, attempt, how } = self;
        match attempt.progress.end() {
            Left::Unreported => report(instance, attempt, how.take().unwrap_or(Ended::Panicked)),
            Left::Hanging => {
                attempt.app.figures.hanging.fetch_sub(1, Ordering::AcqRel);
                instance.registry.notify_scope(attempt.app.id, Fire);
            }
        }
    }
}

fn report(instance: &Instance, attempt: &Attempt, how: Ended) {
    let Attempt { job, app, gate_number, .. } = attempt;
    let running = app.running.load(Ordering::Relaxed);
    let returned = match &how {
        Ended::Returned(result) => Some(result),
        _ => None,
    };
    // Before the end frees a slot, which the next attempt would take.
    app.gate.ended(*gate_number, job.id, returned, running);
    if instance.in_flight.end(job.id, how, instance.now_ms()) {
        instance.registry.notify(CollectEnded);
    }
}

async fn run(mut report: EndReport) {
    report.attempt.progress.begin();
    report.how = match is_to_start(&report.instance, &report.attempt) {
        Ok(()) => execute(&report.instance, &report.attempt).await,
        Err(how) => Some(how),
    };
}

/// Whether it may start, and how it ends otherwise.
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

/// How it ended; `None` if that was reported when its time was over.
async fn execute(instance: &Instance, attempt: &Attempt) -> Option<Ended> {
    let Attempt { job, app, fired_ms, cancelled, .. } = attempt;
    let ready_ms = job.ready_ms();
    app.figures.started(fired_ms - ready_ms, job.due_ms < ready_ms);
    let limits = app.limits();
    if let Some(objective) = limits.objective {
        app.figures.lateness.compare(fired_ms - ready_ms, objective, *fired_ms);
    }
    let limit = attempt.time_limit(&limits);
    let context = JobContext::new(
        app.name.clone(),
        job.clone(),
        attempt.receiver_fence,
        *fired_ms,
        job.timeout(limits.timeout),
        cancelled.clone(),
    );
    // The instance that admitted the job may not have had the handler, and a temporary objection
    // may no longer apply.
    if let Err(rejection) = app.handler.validate(&job.data) {
        return Some(Ended::Returned(Err(rejection.into())));
    }
    let mut executing = pin!(app.handler.execute(&context));
    let stop = async {
        cancelled.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        answer = tokio::time::timeout(limit, &mut executing) => match answer {
            Ok(Ok(())) => return Some(Ended::Returned(Ok(()))),
            // An error of a handler that was cancelled does not count as a failure of the job.
            _ if cancelled.is_cancelled() => return Some(Ended::Cancelled),
            Ok(answer) => return Some(Ended::Returned(answer)),
            Err(_) => {}
        },
        () = stop => return Some(Ended::Cancelled),
    }
    time_out(instance, attempt, limit);
    // What it still returns changes nothing.
    drop(tokio::time::timeout(GRACE, executing).await);
    None
}
