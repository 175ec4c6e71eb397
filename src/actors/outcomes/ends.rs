//! Computes the outcome that follows from the end of an attempt, and the verdicts for the producer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::in_flight::{Attempt, Ended, MarkState, Ruling};
use super::super::instance::Instance;
use crate::dispatch::{Failure, FiredJob, JobError};
use crate::model::change::remembered_until;
use crate::model::job::{Cancellation, Job};
use crate::model::letter::{DeadLetter, ErrorKind};
use crate::model::retry::{due_after, longer, snoozed_until};
use crate::model::verdict::{Event, Firing, Subject, Verdict, about_attempt, about_job};
use crate::store::{Outcome, Tombstone};

/// How many characters of an error message the job's row stores.
const LONGEST_ERROR: usize = 4096;

/// The outcome of an attempt; `None` if it did not start or does not count, and its row is as it
/// was.
pub(super) fn outcome_of(instance: &Instance, attempt: &Attempt, how: &Ended) -> Option<Outcome> {
    if let Some(first) = attempt.cancellation.as_ref().or(attempt.job.changes.cancelled.as_deref())
    {
        return Some(after_cancellation(instance, attempt, how, first));
    }
    let is_once = attempt.app.config.is_at_most_once();
    let error = match how {
        Ended::Cancelled if is_once => {
            let why = "the attempt was stopped with its instance".to_owned();
            return Some(may_have_arrived(instance, attempt, why));
        }
        Ended::Panicked if is_once => {
            return Some(may_have_arrived(instance, attempt, "the handler panicked".to_owned()));
        }
        Ended::TimedOut(limit) if is_once => {
            return Some(may_have_arrived(instance, attempt, too_long(*limit)));
        }
        Ended::NotStarted | Ended::Cancelled => {
            return (attempt.mark == MarkState::Marked).then(|| handed_back(attempt));
        }
        Ended::OtherRow => return None,
        Ended::Returned(Ok(())) => return Some(Outcome::Succeeded),
        Ended::Expired => {
            let why = "expiresTime had passed before the job could be fired".to_owned();
            return Some(bury(instance, attempt, ErrorKind::Expired, why, 0));
        }
        Ended::Ruled(ruling) => {
            let Ruling { kind, why, counts } = &**ruling;
            return Some(bury(instance, attempt, *kind, why.clone(), u32::from(*counts)));
        }
        Ended::Returned(Err(error)) => error.clone(),
        Ended::TimedOut(limit) => JobError::Retry(too_long(*limit)).into(),
        Ended::Panicked => JobError::Retry("the handler panicked".into()).into(),
    };
    Some(after_failure(instance, attempt, error))
}

/// The row is as it was before the attempt was marked.
fn handed_back(attempt: &Attempt) -> Outcome {
    let Job { due_ms, attempts, .. } = *attempt.job;
    Outcome::Retry { due_ms, attempts, error: None }
}

/// A cancelled job has no further attempt: the one that ran may have been the good one.
fn after_cancellation(
    instance: &Instance,
    attempt: &Attempt,
    how: &Ended,
    first: &Cancellation,
) -> Outcome {
    match how {
        Ended::Returned(Ok(())) => return Outcome::Succeeded,
        Ended::Returned(Err(failure)) if !failure.is_attempt() => {}
        Ended::NotStarted
        | Ended::Expired
        | Ended::Ruled(_)
        | Ended::OtherRow
        | Ended::Cancelled => {}
        Ended::Returned(Err(_)) | Ended::TimedOut(_) | Ended::Panicked => {
            attempt.app.figures.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    let until_ms = remembered_until(&attempt.job, instance.window_ms());
    let fired = match how {
        Ended::NotStarted | Ended::Expired | Ended::Ruled(_) | Ended::OtherRow => false,
        Ended::Returned(_) | Ended::TimedOut(_) | Ended::Panicked | Ended::Cancelled => true,
    };
    Outcome::Cancelled(Arc::new(Tombstone { first: first.clone(), until_ms, fired }))
}

fn after_failure(instance: &Instance, attempt: &Attempt, failure: Failure) -> Outcome {
    let Attempt { job, app, .. } = attempt;
    let is_once = app.config.is_at_most_once();
    if is_once && failure.may_have_arrived() {
        return may_have_arrived(instance, attempt, failure.why());
    }
    // The target has had the job in its hands.
    let is_final = is_once && matches!(failure, Failure::TooMany { .. });
    if !failure.is_attempt() && !is_final {
        return postponed(instance, attempt, failure);
    }
    app.figures.failed.fetch_add(1, Ordering::Relaxed);
    let failed = job.attempts + 1;
    let why = kept(&failure.why());
    let most = match is_once {
        true => 1,
        false => job.max_attempts.unwrap_or(app.limits().max_attempts.get()),
    };
    let is_refused =
        matches!(failure, Failure::Refused { .. } | Failure::Handler(JobError::Refused(_)));
    if is_refused {
        return bury(instance, attempt, ErrorKind::RefusedByTarget, why, 1);
    }
    if matches!(failure, Failure::Handler(JobError::Fail(_))) || failed >= most {
        return bury(instance, attempt, ErrorKind::AttemptsExhausted, why, 1);
    }
    let backoff = app.config.backoff.delay(failed, fastrand::f64());
    let wait = match failure {
        Failure::Handler(JobError::RetryAfter(wanted, _)) => {
            longer(Some(wanted), backoff, 0.0).min(longest_wait(instance))
        }
        Failure::Again { retry_after, .. } => longer(retry_after, backoff, fastrand::f64()),
        _ => backoff,
    };
    let due_ms = due_after(instance.clock.now_ms(), wait);
    Outcome::Retry { due_ms, attempts: failed, error: Some(why) }
}

/// The outcome of an attempt that must not be repeated, and of which it is not known whether it has
/// reached its receiver.
fn may_have_arrived(instance: &Instance, attempt: &Attempt, why: String) -> Outcome {
    attempt.app.figures.failed.fetch_add(1, Ordering::Relaxed);
    let why = kept(&format!("it may have arrived, and is not tried again: {why}"));
    bury(instance, attempt, ErrorKind::Interrupted, why, 1)
}

fn too_long(limit: Duration) -> String {
    format!("the attempt took longer than {} ms", limit.as_millis())
}

/// The outcome of what was no attempt. Where the target has not taken the job, it waits as after a
/// first failure.
fn postponed(instance: &Instance, attempt: &Attempt, failure: Failure) -> Outcome {
    let Attempt { job, app, .. } = attempt;
    let now_ms = instance.clock.now_ms();
    let backoff = app.config.backoff.delay(1, fastrand::f64());
    let due_ms = match failure {
        Failure::Handler(JobError::Snooze(until)) => {
            app.figures.snoozed.fetch_add(1, Ordering::Relaxed);
            snoozed_until(now_ms, until, longest_wait(instance))
        }
        Failure::TooMany { retry_after, .. } => {
            due_after(now_ms, longer(retry_after, backoff, fastrand::f64()))
        }
        _ => due_after(now_ms, backoff),
    };
    Outcome::Retry { due_ms, attempts: job.attempts, error: None }
}

/// No handler postpones a job beyond the time for which requests are accepted.
fn longest_wait(instance: &Instance) -> Duration {
    instance.settings.admission.requests.max_schedule_ahead
}

/// Truncates a handler's message, and replaces NUL characters, which PostgreSQL cannot store.
fn kept(why: &str) -> String {
    why.chars().take(LONGEST_ERROR).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
}

/// `counts` is 1 if this attempt counts, else 0.
fn bury(
    instance: &Instance,
    attempt: &Attempt,
    kind: ErrorKind,
    message: String,
    counts: u32,
) -> Outcome {
    let Attempt { job, app, receiver_fence, fired_ms, .. } = attempt;
    let attempts = job.attempts + counts;
    let trace = |name: &str, value: &String| (name.to_owned(), Some(value.clone().into_bytes()));
    let headers = job.trace.iter().flat_map(|context| {
        let parent = trace("traceparent", &context.parent);
        [Some(parent), context.state.as_ref().map(|state| trace("tracestate", state))]
    });
    Outcome::Buried(Arc::new(DeadLetter {
        kind,
        message,
        app: Some(app.name.to_string()),
        request_id: Some(job.request_id.clone()),
        job_id: Some(job.id),
        source: None,
        key: Some(job.request_id.clone().into_bytes()),
        value: Some(FiredJob::new(&app.name, job, *receiver_fence, *fired_ms).to_json()),
        headers: headers.flatten().collect(),
        attempts,
        at_ms: instance.clock.now_ms(),
    }))
}

/// The verdicts about an attempt, in order. An attempt that was snoozed has none: during an outage
/// of the target there would be one per second.
pub(super) fn verdicts(attempt: &Attempt, outcome: &Outcome, now_ms: i64) -> Vec<Event> {
    let Attempt { job, app, fired_ms, receiver_fence, .. } = attempt;
    let subject = Subject {
        request_id: Some(job.request_id.as_str().into()),
        app: Some(&app.name),
        job_id: Some(job.id),
        source: None,
    };
    let number = job.attempts.saturating_add(1);
    let firing = Firing { attempt: number, fence: *receiver_fence, fired_ms: *fired_ms };
    let about = match outcome {
        Outcome::Cancelled(_) => about_job(job),
        _ => about_attempt(job, firing.fence),
    };
    let end = match outcome {
        Outcome::Succeeded => Verdict::Succeeded(firing),
        Outcome::Retry { due_ms, error: Some(message), .. } => {
            Verdict::Retrying { firing, due_ms: *due_ms, message }
        }
        Outcome::Retry { error: None, .. } => return Vec::new(),
        Outcome::Cancelled(_) => Verdict::Cancelled,
        Outcome::Buried(letter) => Verdict::Dead {
            firing: (letter.attempts > job.attempts).then_some(firing),
            kind: letter.kind,
            message: &letter.message,
        },
    };
    let has_fired = match outcome {
        Outcome::Cancelled(stone) => stone.fired,
        _ => !matches!(end, Verdict::Dead { firing: None, .. }),
    };
    let attempt = about_attempt(job, firing.fence);
    let fired = has_fired.then(|| Verdict::Fired(firing).event(&subject, &attempt, *fired_ms));
    fired.into_iter().chain([end.event(&subject, &about, now_ms)]).collect()
}
