//! The start of an attempt that must be marked first: its job or another one may have ended the
//! process of an instance, or it must not be repeated.

use std::sync::Arc;

use super::super::in_flight::{Attempt, Ended, Ruling};
use super::super::instance::Instance;
use super::super::messages::MarkFirst;
use crate::model::interruption::{Company, Interruption};
use crate::model::job::{Changes, Job, Mark};
use crate::model::letter::ErrorKind;
use crate::model::verdict::rfc3339;
use crate::recovery::Backoff;

/// Whether the attempt may have to be marked before it starts.
pub(super) fn needs_care(instance: &Instance, attempt: &Attempt) -> bool {
    attempt.app.config.is_at_most_once() || is_suspect(instance, attempt)
}

/// Whether its job may have ended an instance.
fn is_suspect(instance: &Instance, attempt: &Attempt) -> bool {
    let Job { due_ms, changes: Changes { mark, interruptions, .. }, .. } = &*attempt.job;
    mark.is_some()
        || !interruptions.is_empty()
        || instance.crash_guard.watches(attempt.fence, *due_ms)
}

/// Counts an interruption if the last attempt ended with its instance, waits for the attempt's
/// turn, and marks it.
///
/// # Errors
/// How the attempt ends, if it is not to start.
pub(super) async fn prepare(instance: &Instance, attempt: &mut Attempt) -> Result<(), Ended> {
    let id = attempt.job.id;
    instance.in_flight.waits(id);
    let cancelled = attempt.cancelled.clone();
    let prepared = async {
        let (before, is_suspect) = (attempt.job.changes.mark, is_suspect(instance, attempt));
        let is_new = find_interruption(instance, attempt).await;
        if attempt.app.config.is_at_most_once()
            && let Some(ruling) = after_an_attempt(&attempt.job, before)
        {
            count(instance, is_new);
            return Err(Ended::Ruled(Box::new(ruling)));
        }
        let interruptions = &attempt.job.changes.interruptions;
        let Some(company) = Company::after(interruptions) else {
            count(instance, is_new);
            let (kind, why) = (ErrorKind::Interrupted, sentence(interruptions));
            return Err(Ended::Ruled(Box::new(Ruling { kind, why, counts: false })));
        };
        if is_suspect {
            let turn = instance.crash_guard.turn(company).await.ok_or(Ended::NotStarted)?;
            attempt.turn = Some(Arc::new(turn));
        }
        attempt.fired_ms = instance.now_ms();
        let marked = instance.in_flight.mark_first(attempt).ok_or(Ended::NotStarted)?;
        // The table has it until the outcome is written, also if the handler hangs for longer.
        attempt.turn = None;
        instance.registry.notify(MarkFirst);
        Ok((marked, is_new))
    };
    let (marked, is_new) = tokio::select! {
        biased;
        () = cancelled.cancelled() => return Err(Ended::NotStarted),
        prepared = prepared => prepared?,
    };
    // Not given up when it is cancelled: the mark is being written.
    match marked.await {
        Ok(true) => {
            count(instance, is_new);
            Ok(())
        }
        Ok(false) => Err(Ended::OtherRow),
        // The writer was replaced.
        Err(_) => Err(Ended::NotStarted),
    }
}

/// What becomes of a job that must not be sent a second time, if it was before: `mark` is that of
/// an attempt whose outcome nobody has written.
fn after_an_attempt(job: &Job, mark: Option<Mark>) -> Option<Ruling> {
    if let Some(Mark { started_ms, .. }) = mark {
        let on = match job.changes.interruptions.last() {
            Some(Interruption { instance, .. }) => format!(" on {instance}, which ended"),
            None => String::new(),
        };
        let why = format!(
            "it may have arrived, and is not tried again: nothing is known of its attempt since \
             {}{on}",
            rfc3339(started_ms)
        );
        return Some(Ruling { kind: ErrorKind::Interrupted, why, counts: true });
    }
    (job.attempts > 0).then(|| Ruling {
        kind: ErrorKind::AttemptsExhausted,
        why: format!(
            "its app delivers a job at most once since it was tried {} times, at last: {}",
            job.attempts,
            job.last_error.as_deref().unwrap_or("no error is known")
        ),
        counts: false,
    })
}

/// Adds the interruption of the attempt that the job's row names, if its instance has died.
async fn find_interruption(instance: &Instance, attempt: &mut Attempt) -> bool {
    let Some(mark) = attempt.job.changes.mark.filter(|mark| mark.by != attempt.fence.owner) else {
        return false;
    };
    let mut backoff = Backoff::default();
    let died = loop {
        let ask = instance.bounded(instance.store.instance_end(mark.by));
        match instance.crash_guard.name_of_dead(mark.by, ask).await {
            Ok(died) => break died,
            Err(error) => {
                tracing::debug!(%error, "it is not known yet how {} ended", mark.by);
                let recovery = instance.database.recovery();
                recovery.wait(backoff.failed(recovery.recoveries())).await;
            }
        }
    };
    let Some(name) = died else { return false };
    let job = &attempt.job;
    let named = format!("{} {} ({})", attempt.app.name, job.request_id, job.id);
    instance.crash_guard.suspect(mark.by, &name, named).await;
    let mut job = Job::clone(job);
    job.changes.mark = None;
    let interruption = Interruption { instance: name, started_ms: mark.started_ms };
    job.changes.interruptions.push(interruption);
    attempt.job = Arc::new(job);
    true
}

/// Why a job with these interruptions is a dead letter.
fn sentence(interruptions: &[Interruption]) -> String {
    let attempts = interruptions.iter().map(|Interruption { instance, started_ms }| {
        format!("on {instance} since {}", rfc3339(*started_ms))
    });
    let attempts: Vec<String> = attempts.collect();
    format!(
        "its instance ended each time that it ran, at last when it ran alone ({}): see why the \
         process ended, then correct the handler or the job and replay it",
        attempts.join(", ")
    )
}

fn count(instance: &Instance, is_new: bool) {
    instance.counters.add(&instance.counters.interrupted, is_new.into());
}
