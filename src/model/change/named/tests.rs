//! What a change by name comes to in each state of the job, and what is told of it.

use serde_json::Value;

use super::super::tests::{HOUR, NOW, job as waiting_job, waits};
use super::*;
use crate::model::ids::{Offset, Partition};
use crate::model::job::Cancellation;

fn job(version: Option<i64>) -> Job {
    Job { version, ..waiting_job() }
}

fn cancelled(version: Option<i64>) -> Job {
    let mut job = job(version);
    job.changes.cancelled = Some(Box::new(Cancellation { at_ms: 5, by: "bob".into() }));
    job
}

fn runs() -> Circumstances<'static> {
    Circumstances { running: true, ..waits() }
}

fn named(change: Named, version: Option<i64>) -> NamedChange {
    let source = Source {
        topic: "in".into(),
        partition: Partition(3),
        offset: Offset(41),
        timestamp_ms: None,
    };
    let message =
        Message { request_id: "op".into(), about: "1.41.-1".into(), source: Some(source) };
    NamedChange { change, version, by_key: false, message }
}

fn replace(data: &str) -> Named {
    let data = Some(JobData::from_trusted(data));
    let new = Job { created_ms: NOW, scheduled_ms: NOW + 2 * HOUR, ..job(None) };
    Named::Replace(Box::new(Replacement { data, ..Replacement::of(&new) }))
}

/// The result, whether something changed, and the job afterwards with until when it is kept.
type Came = (ChangeResult, bool, Option<(Job, Option<i64>)>);

fn decide(change: &NamedChange, job: &Job, is_kept: bool, now: Circumstances<'_>) -> Came {
    match change.decide(job, is_kept, now) {
        Decision::Answered(answer) => (answer.result, answer.changed, None),
        Decision::Changed { job: after, tombstone_until, answer } => {
            assert_eq!(after.changes.revision, job.changes.revision + 1);
            (answer.result, answer.changed, Some((*after, tombstone_until)))
        }
        Decision::Refused(refusal) => panic!("{refusal}"),
    }
}

fn unchanged(
    change: &NamedChange,
    job: &Job,
    is_kept: bool,
    now: Circumstances<'_>,
) -> ChangeResult {
    let (result, changed, after) = decide(change, job, is_kept, now);
    assert!(!changed && after.is_none(), "{result:?}");
    result
}

#[test]
fn a_cancellation_holds_for_its_version_and_below() {
    for version in [None, Some(2), Some(3)] {
        let (result, changed, after) =
            decide(&named(Named::Cancel, version), &job(Some(2)), false, waits());
        assert_eq!((result, changed), (ChangeResult::Cancelled, true));
        let (after, until_ms) = after.unwrap();
        assert_eq!(until_ms, Some(NOW + 25 * HOUR));
        assert_eq!(after.memory().cancelled, Some(version.unwrap_or(2)));
    }
    let below = named(Named::Cancel, Some(1));
    assert_eq!(unchanged(&below, &job(Some(2)), false, waits()), ChangeResult::Superseded);
    assert_eq!(unchanged(&below, &job(Some(2)), false, runs()), ChangeResult::Superseded);
    assert!(!below.ends(&job(Some(2))) && below.ends(&job(None)));
}

#[test]
fn a_cancellation_of_a_job_that_runs_is_kept_for_the_end_of_its_attempt() {
    let cancel = named(Named::Cancel, Some(5));
    let (result, changed, after) = decide(&cancel, &job(None), false, runs());
    assert_eq!((result, changed), (ChangeResult::Running, true));
    let (after, until_ms) = after.unwrap();
    assert_eq!(until_ms, None);
    assert_eq!(after.memory().cancelled, Some(5));
    // A second one changes nothing but what is remembered.
    let (result, changed, again) = decide(&named(Named::Cancel, Some(6)), &after, false, runs());
    assert_eq!((result, changed), (ChangeResult::Running, false));
    assert_eq!(again.unwrap().0.memory().cancelled, Some(6));
}

#[test]
fn what_is_cancelled_remembers_higher_versions() {
    let cancel = |version| named(Named::Cancel, version);
    assert_eq!(unchanged(&cancel(None), &cancelled(None), true, waits()), ChangeResult::Cancelled);
    let (result, changed, after) = decide(&cancel(Some(7)), &cancelled(None), true, waits());
    assert_eq!((result, changed), (ChangeResult::Cancelled, false));
    let (after, until_ms) = after.unwrap();
    assert_eq!((after.memory().cancelled, until_ms), (Some(7), Some(NOW + HOUR)));
    let moved = |version| named(Named::Reschedule(NOW), version);
    assert_eq!(unchanged(&moved(None), &after, true, waits()), ChangeResult::Cancelled);
    assert_eq!(unchanged(&moved(Some(7)), &after, true, waits()), ChangeResult::Superseded);
    let (result, _, after) = decide(&moved(Some(8)), &after, true, waits());
    assert_eq!(result, ChangeResult::Remembered);
    assert_eq!(after.unwrap().0.memory().moved.unwrap().to_ms, NOW);
}

#[test]
fn a_reschedule_moves_a_job_that_waits() {
    let to_ms = NOW + 5 * HOUR;
    for version in [None, Some(3)] {
        let moved = named(Named::Reschedule(to_ms), version);
        let (result, changed, after) = decide(&moved, &job(Some(2)), false, waits());
        assert_eq!((result, changed), (ChangeResult::Rescheduled, true));
        let (after, until_ms) = after.unwrap();
        assert_eq!((after.due_ms, after.scheduled_ms, until_ms), (to_ms, to_ms, None));
        assert_eq!(after.changes.moved_ms, Some(NOW));
        assert_eq!(after.memory().moved.is_some(), version.is_some());
        assert_eq!(unchanged(&moved, &after, false, waits()), ChangeResult::Rescheduled);
        assert_eq!(unchanged(&moved, &job(Some(2)), false, runs()), ChangeResult::Running);
    }
    let below = named(Named::Reschedule(to_ms), Some(2));
    assert_eq!(unchanged(&below, &job(Some(2)), false, waits()), ChangeResult::Superseded);
}

#[test]
fn a_schedule_with_a_higher_version_replaces_a_job_that_never_ran() {
    let new = named(replace(r#"{"n":2}"#), Some(3));
    let mut before = job(Some(2));
    before.changes.original = Fingerprint::of_json("{}").ok();
    let (result, changed, after) = decide(&new, &before, false, waits());
    assert_eq!((result, changed), (ChangeResult::Replaced, true));
    let (after, until_ms) = after.unwrap();
    assert_eq!((after.version, after.data.as_str(), until_ms), (Some(3), r#"{"n":2}"#, None));
    assert_eq!((after.due_ms, after.created_ms), (NOW + 2 * HOUR, before.created_ms));
    assert_eq!(after.changes.original, None);
    assert_eq!(unchanged(&new, &after, false, waits()), ChangeResult::Replaced);
    let Decision::Refused(refusal) = named(replace("{}"), Some(3)).decide(&after, false, waits())
    else {
        panic!("the same version with another body");
    };
    assert_eq!(refusal.kind, ErrorKind::RequestConflict);

    assert_eq!(unchanged(&new, &job(Some(4)), false, waits()), ChangeResult::Superseded);
    assert_eq!(unchanged(&new, &job(Some(2)), false, runs()), ChangeResult::Running);

    // One that waits for its next attempt becomes another job.
    let last_error = Some("503".to_owned());
    let tried = Job { attempts: 1, created_ms: NOW, last_error, ..job(Some(2)) };
    let (after, _) = decide(&new, &tried, false, waits()).2.unwrap();
    assert_eq!((after.attempts, after.last_error, after.created_ms), (0, None, NOW + 1));
    assert_eq!(told(&new, &tried, false, waits()), ["r replaced", "op accepted"]);
}

#[test]
fn a_replacement_has_the_time_of_a_reschedule_above_it() {
    let mut before = job(Some(2));
    let moved = Moved { version: Some(4), to_ms: NOW + 7 * HOUR, by_key: false };
    remember(&mut before, Memory { moved: Some(moved), ..Memory::default() });
    for (version, due_ms) in [(3, NOW + 7 * HOUR), (4, NOW + 2 * HOUR)] {
        let (_, _, after) = decide(&named(replace("{}"), Some(version)), &before, false, waits());
        assert_eq!(after.unwrap().0.due_ms, due_ms);
    }
}

#[test]
fn what_was_cancelled_meanwhile_lives_again_by_a_version_above() {
    let mut before = Job { created_ms: NOW, attempts: 2, ..cancelled(Some(2)) };
    remember(&mut before, Memory { cancelled: Some(5), ..Memory::default() });
    let at = |version| named(replace("{}"), Some(version));
    assert_eq!(unchanged(&at(5), &before, true, waits()), ChangeResult::Cancelled);
    let (result, _, after) = decide(&at(6), &before, true, waits());
    assert_eq!(result, ChangeResult::Replaced);
    let (after, until_ms) = after.unwrap();
    assert_eq!((after.version, after.attempts, until_ms), (Some(6), 0, None));
    assert_eq!((after.changes.cancelled, after.created_ms), (None, NOW + 1));
}

fn told(change: &NamedChange, job: &Job, is_kept: bool, now: Circumstances<'_>) -> Vec<String> {
    let (answer, after) = match change.decide(job, is_kept, now) {
        Decision::Answered(answer) => (answer, None),
        Decision::Changed { job, answer, .. } => (answer, Some(job)),
        Decision::Refused(refusal) => panic!("{refusal}"),
    };
    let events = change.events("sms", Some(job), after.as_deref(), Ok(&answer), NOW);
    let name = |event: &Event| {
        let json: Value = serde_json::from_str(&event.json).unwrap();
        assert_eq!(json["data"]["requestId"], event.key.as_deref().unwrap());
        assert_eq!(json["data"]["jobId"], job.id.to_string());
        let is_own = event.key.as_deref() == Some("op");
        assert_eq!(json["data"]["topic"] == "in", is_own, "{json}");
        format!("{} {}", event.key.as_deref().unwrap(), json["data"]["verdict"].as_str().unwrap())
    };
    events.iter().map(name).collect()
}

#[test]
fn the_operation_and_the_job_have_their_verdicts() {
    let cancel = named(Named::Cancel, Some(3));
    let moved = named(Named::Reschedule(NOW), Some(3));
    let new = named(replace("{}"), Some(3));
    assert_eq!(told(&cancel, &job(None), false, waits()), ["op applied", "r cancelled"]);
    assert_eq!(told(&cancel, &job(None), false, runs()), ["op running"]);
    assert_eq!(told(&cancel, &job(Some(4)), false, runs()), ["op superseded"]);
    assert_eq!(told(&cancel, &cancelled(None), true, waits()), ["op unchanged"]);
    assert_eq!(told(&moved, &job(None), false, waits()), ["op applied", "r rescheduled"]);
    assert_eq!(told(&moved, &cancelled(None), true, waits()), ["op remembered"]);
    assert_eq!(told(&new, &job(None), false, waits()), ["r replaced", "op accepted"]);
    assert_eq!(told(&new, &cancelled(Some(3)), true, waits()), ["op duplicate"]);
    let gone = Answer::no(ChangeResult::AlreadyFired, job(None).id);
    let events = cancel.events("sms", None, None, Ok(&gone), NOW);
    assert!(events[0].json.contains("already-fired"), "{}", events[0].json);
}

#[test]
fn a_change_is_read_as_it_was_written() {
    for change in [Named::Cancel, Named::Reschedule(5), replace(r#"{"a": 1.0}"#)] {
        let change = named(change, Some(3));
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<NamedChange>(&text).unwrap(), change);
    }
}
