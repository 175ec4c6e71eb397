//! What each change comes to in each state of a job.

use super::*;
use crate::model::ids::ShardId;
use crate::model::job::Changes;

pub(super) const HOUR: i64 = 3_600_000;
pub(super) const NOW: i64 = 10 * HOUR;

pub(super) fn job() -> Job {
    Job {
        id: JobId::derive("sms", "r"),
        shard: ShardId(1),
        priority: Priority::Normal,
        due_ms: NOW + HOUR,
        request_id: "r".into(),
        scheduled_ms: NOW + HOUR,
        expires_ms: None,
        flexible_ms: None,
        concurrency_key: None,
        created_ms: NOW - HOUR,
        attempts: 0,
        max_attempts: None,
        timeout_ms: None,
        data: JobData::from_trusted(r#"{"n":1}"#),
        trace: None,
        origin: None,
        last_error: None,
        letter: None,
        version: None,
        changes: Changes::default(),
    }
}

pub(super) fn waits() -> Circumstances<'static> {
    Circumstances { now_ms: NOW, running: false, max_attempts: 3, window_ms: 24 * HOUR, by: "ann" }
}

fn runs() -> Circumstances<'static> {
    Circumstances { running: true, ..waits() }
}

fn cancelled() -> Job {
    let mut job = job();
    job.changes.cancelled = Some(Box::new(Cancellation { at_ms: 5, by: "bob".into() }));
    job
}

const CANCEL: JobChange = JobChange::Cancel { stop: false };

fn edit(edit: JobEdit) -> JobChange {
    JobChange::Edit(Box::new(edit))
}

fn to(ms: i64) -> JobChange {
    edit(JobEdit { scheduled_ms: Some(ms), ..JobEdit::default() })
}

fn changed(change: &JobChange, job: &Job, now: Circumstances<'_>) -> (Job, Option<i64>, Answer) {
    match change.decide(job, false, now) {
        Decision::Changed { job: after, tombstone_until, answer } => {
            assert_eq!(after.changes.revision, job.changes.revision + 1);
            assert!(answer.done && answer.changed);
            (*after, tombstone_until, answer)
        }
        other => panic!("{other:?}"),
    }
}

fn answered(change: &JobChange, job: &Job, is_tombstone: bool, now: Circumstances<'_>) -> Answer {
    match change.decide(job, is_tombstone, now) {
        Decision::Answered(answer) => {
            assert!(!answer.changed);
            answer
        }
        other => panic!("{other:?}"),
    }
}

fn refused(change: &JobChange, job: &Job) -> String {
    match change.decide(job, false, waits()) {
        Decision::Refused(refusal) => refusal.message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_that_waits_becomes_a_tombstone_until_its_instant_and_window_are_over() {
    let (after, until, answer) = changed(&CANCEL, &job(), waits());
    assert_eq!(until, Some(NOW + 25 * HOUR));
    assert_eq!(answer.result, ChangeResult::Cancelled);
    assert_eq!(answer.cancelled, Some((NOW, "ann".into())));
    assert_eq!(after.changes.cancelled.unwrap().by, "ann");
    let overdue = Job { due_ms: 0, scheduled_ms: 0, ..job() };
    assert_eq!(changed(&CANCEL, &overdue, waits()).1, Some(NOW + 23 * HOUR), "since admission");
}

#[test]
fn a_job_that_is_cancelled_again_is_answered_by_the_first_cancellation() {
    let answer = answered(&CANCEL, &cancelled(), true, waits());
    assert_eq!((answer.result, answer.done), (ChangeResult::Cancelled, true));
    assert_eq!(answer.cancelled, Some((5, "bob".into())));
    for change in [JobChange::Run, to(NOW)] {
        let answer = answered(&change, &cancelled(), true, waits());
        assert_eq!((answer.result, answer.done), (ChangeResult::Cancelled, false));
    }
}

#[test]
fn of_a_job_that_runs_only_the_cancellation_changes_anything() {
    let (after, until, answer) = changed(&CANCEL, &job(), runs());
    assert_eq!((answer.result, answer.will_retry), (ChangeResult::Running, Some(false)));
    assert_eq!(until, None, "it is not over yet");
    let answer = answered(&CANCEL, &after, false, runs());
    assert_eq!((answer.result, answer.done), (ChangeResult::Running, true));
    for change in [JobChange::Run, to(NOW), to(NOW + HOUR)] {
        let answer = answered(&change, &job(), false, runs());
        assert_eq!((answer.result, answer.done), (ChangeResult::Running, false));
        assert_eq!(answer.will_retry, Some(true));
        let last = Job { attempts: 2, ..job() };
        assert_eq!(answered(&change, &last, false, runs()).will_retry, Some(false));
        assert_eq!(answered(&change, &after, false, runs()).will_retry, Some(false));
    }
}

#[test]
fn a_job_whose_last_attempt_ended_with_its_instance_is_buried_by_whoever_asks() {
    let (after, until, answer) = changed(&CANCEL, &cancelled(), waits());
    assert!(until.is_some());
    assert_eq!(answer.cancelled, Some((5, "bob".into())));
    assert_eq!(after.changes.cancelled.unwrap().by, "bob");
    let answer = answered(&to(NOW), &cancelled(), false, waits());
    assert_eq!((answer.result, answer.done), (ChangeResult::Cancelled, false));
}

#[test]
fn a_job_that_is_run_is_due_at_once_and_counts_as_late_from_then() {
    let (after, _, answer) = changed(&JobChange::Run, &job(), waits());
    assert_eq!((answer.result, answer.due_ms), (ChangeResult::Started, Some(NOW)));
    assert_eq!((after.due_ms, after.scheduled_ms, after.ready_ms()), (NOW, NOW, NOW));
    let due = Job { due_ms: NOW - 1, ..job() };
    let answer = answered(&JobChange::Run, &due, false, waits());
    assert_eq!((answer.result, answer.done), (ChangeResult::Started, true));
    let over = Job { expires_ms: Some(NOW - 1), ..job() };
    assert!(refused(&JobChange::Run, &over).contains("has passed"));
}

#[test]
fn a_job_that_is_rescheduled_into_the_past_is_late_only_from_then() {
    let (after, _, answer) = changed(&to(0), &job(), waits());
    assert_eq!(answer.result, ChangeResult::Rescheduled);
    assert_eq!((after.due_ms, after.ready_ms()), (0, NOW));
    let answer = answered(&to(NOW + HOUR), &job(), false, waits());
    assert_eq!((answer.result, answer.done), (ChangeResult::Rescheduled, true), "it has that time");
    let between = Job { attempts: 1, due_ms: NOW + 5, ..job() };
    assert_eq!(changed(&to(NOW + HOUR), &between, waits()).0.due_ms, NOW + HOUR);
}

#[test]
fn a_time_after_the_expiry_is_refused_with_both() {
    let expires = Job { expires_ms: Some(NOW + 2 * HOUR), ..job() };
    let said = refused(&to(NOW + 3 * HOUR), &expires);
    assert!(said.contains("1970-01-01T12:00:00.000Z is before"), "{said}");
    assert!(said.contains("1970-01-01T13:00:00.000Z"), "{said}");
    let sooner = edit(JobEdit { expires_ms: Setting::To(NOW), ..JobEdit::default() });
    assert!(refused(&sooner, &job()).contains("would never fire"));
    let never = edit(JobEdit { expires_ms: Setting::Default, ..JobEdit::default() });
    assert_eq!(changed(&never, &expires, waits()).0.expires_ms, None);
}

#[test]
fn within_a_window_the_instant_is_the_same_whenever_it_is_asked_for() {
    let flexible = Job { flexible_ms: Some(60_000), ..job() };
    let (after, ..) = changed(&to(NOW + 10_000), &flexible, waits());
    assert!((NOW + 10_000..=NOW + 70_000).contains(&after.due_ms), "{}", after.due_ms);
    let again = answered(&to(NOW + 10_000), &after, false, waits());
    assert_eq!((again.due_ms, again.done), (Some(after.due_ms), true));
    let fixed = edit(JobEdit { flexible_ms: Setting::Default, ..JobEdit::default() });
    assert_eq!(changed(&fixed, &after, waits()).0.due_ms, NOW + 10_000);
}

#[test]
fn an_edit_keeps_the_hash_of_what_was_requested_first() {
    let with = |data: &str| {
        edit(JobEdit { data: Some(JobData::from_trusted(data)), ..JobEdit::default() })
    };
    let first = Fingerprint::of_json(r#"{"n":1}"#).unwrap();
    let (after, _, answer) = changed(&with(r#"{"n":2}"#), &job(), waits());
    assert_eq!(answer.result, ChangeResult::Edited);
    assert_eq!(after.changes.original, Some(first));
    assert_eq!(after.changes.moved_ms, None);
    let (after, ..) = changed(&with(r#"{"n":3}"#), &after, waits());
    assert_eq!((after.changes.original, after.data.as_str()), (Some(first), r#"{"n":3}"#));
    assert!(answered(&with(r#"{"n":3}"#), &after, false, waits()).done);
}

#[test]
fn the_attempts_of_an_edit_are_more_than_were_used() {
    let most = |n| edit(JobEdit { max_attempts: Setting::To(n), ..JobEdit::default() });
    let tried = Job { attempts: 2, ..job() };
    assert!(refused(&most(2), &tried).contains("maxAttempts 2 must be above 2"));
    assert_eq!(changed(&most(3), &tried, waits()).0.max_attempts, Some(3));
}

#[test]
fn a_change_is_read_as_it_was_written() {
    let all = JobEdit {
        scheduled_ms: Some(-5),
        data: Some(JobData::from_trusted(r#"{"b":1.0, "a":"\u0000"}"#)),
        priority: Some(Priority::Low),
        expires_ms: Setting::Default,
        max_attempts: Setting::To(7),
        timeout_ms: Setting::Keep,
        flexible_ms: Setting::To(9),
    };
    for change in [CANCEL, JobChange::Run, edit(JobEdit::default()), edit(all)] {
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<JobChange>(&text).unwrap(), change, "{text}");
    }
}
