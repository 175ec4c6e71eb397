//! The history of jobs: what ended stays known, with its attempts, for as long as it is kept.

use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::model::ids::JobId;
use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::operations::{
    AttemptState, ChangeResult, JobName, JobState, LetterAction, LetterFilter, LetterSelection,
    ShownJob,
};
use infinite_scheduler::store::{Store, StoreOptions};
use infinite_scheduler::{
    AppConfig, JobContext, JobError, RequestStatus, ScheduleJobRequest, Scheduler, handler_fn,
};
use serde_json::{Value, json};

use crate::support::services::Database;
use crate::support::world::{LEASE, World};
use crate::support::{on_each_database, wait_until};

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);
const PAST: &str = "2020-01-01T00:00:00Z";
const FAR: &str = "2031-01-01T00:00:00Z";
const HOUR_MS: i64 = 3_600_000;

/// An app whose jobs end as their names say.
async fn start(world: &World, history: Duration) -> Scheduler {
    let handler = handler_fn(|context: JobContext, _: Value| async move {
        match context.job().request_id.split('-').next() {
            Some("dies") => Err(JobError::fail("no such number")),
            Some("twice") if context.attempt() == 1 => Err(JobError::retry("busy")),
            _ => Ok(()),
        }
    });
    let mut app = AppConfig::new("sms");
    app.history = history;
    app.backoff = Backoff::Delays(vec![Duration::from_millis(10)]);
    let builder = world.builder_without_apps().instance_id("one").register_app(app, handler);
    builder.start().await.expect("a start")
}

async fn schedule(scheduler: &Scheduler, id: &str, at: &str) {
    let request = ScheduleJobRequest::builder("sms").request_id(id).at(at);
    let request = request.job_data(&json!({ "id": id })).build().expect("a request");
    scheduler.schedule(request).await.expect("a job");
}

fn named(id: &str) -> JobName {
    JobName::of_request("sms", id)
}

async fn shown(scheduler: &Scheduler, id: &str) -> ShownJob {
    scheduler.job(named(id)).await.expect("an answer").expect("a job")
}

async fn live(world: &World) -> i64 {
    world.database.count("select count(*) from scheduler_job where priority < 3").await
}

async fn kept(world: &World) -> i64 {
    world.database.count("select count(*) from scheduler_job_history").await
}

async fn status(scheduler: &Scheduler, id: &str) -> RequestStatus {
    scheduler.request("sms", id).await.expect("an answer")
}

async fn expire(world: &World, after_ms: i64) {
    let url = world.database.url().into();
    let options = StoreOptions { url, max_connections: 2, lease: LEASE };
    let store = Store::connect(&options).await.expect("a database");
    let now_ms = SystemClock.now_ms();
    while store.expire_history(now_ms + after_ms).await.expect("an answer") {}
    store.close().await;
}

async fn what_ended_is_known_until_it_is_not_kept_any_more(database: Database) {
    let world = World::new(database, 1).await;
    let scheduler = start(&world, Duration::from_secs(2 * 3600)).await;
    schedule(&scheduler, "waits-1", FAR).await;
    for id in ["good-1", "twice-1", "dies-1"] {
        schedule(&scheduler, id, PAST).await;
    }
    scheduler.cancel(named("waits-1")).await.expect("an answer");
    wait_until(DEADLINE, "every job to end", async || live(&world).await == 0).await;
    // A success, a failure with a success, a death, a cancellation.
    assert_eq!(kept(&world).await, 5, "{database:?}");

    let job = shown(&scheduler, "twice-1").await;
    assert_eq!((job.state, job.attempts), (JobState::Succeeded, 2), "{database:?}");
    assert_eq!(job.job_data.as_ref().expect("data").as_str(), r#"{"id":"twice-1"}"#);
    let states: Vec<_> = job.history.iter().map(|entry| (entry.attempt, entry.state)).collect();
    assert_eq!(states, [(1, AttemptState::Retried), (2, AttemptState::Succeeded)], "{database:?}");
    let [first, last] = &job.history[..] else { panic!("{job:?}") };
    assert!(first.error.as_deref().is_some_and(|error| error.contains("busy")), "{first:?}");
    assert_eq!((last.error.as_deref(), last.instance.as_deref()), (None, Some("one")));
    for entry in [first, last] {
        let started_ms = entry.started_ms.expect("a start");
        assert_eq!(entry.duration_ms(), Some(entry.ended_ms - started_ms));
        assert!(entry.lateness_ms.is_some_and(|late| (0..60_000).contains(&late)), "{entry:?}");
    }
    assert!(last.started_ms >= Some(first.ended_ms));
    let by_id = scheduler.job(JobId::derive("sms", "twice-1")).await.expect("an answer");
    assert_eq!(by_id, Some(job.clone()));
    let twice = status(&scheduler, "twice-1").await;
    assert!(matches!(twice, RequestStatus::Succeeded { attempts: 2, .. }), "{twice:?}");
    for name in [named("twice-1"), JobId::derive("sms", "twice-1").into()] {
        let answer = scheduler.cancel(name).await.expect("an answer");
        assert_eq!(answer.result, ChangeResult::AlreadyFired, "{database:?}");
    }

    let dead = shown(&scheduler, "dies-1").await;
    assert_eq!((dead.state, dead.attempts), (JobState::Dead, 1));
    assert_eq!(dead.history[0].kind.as_deref(), Some("attempts-exhausted"));
    let letters = scheduler.dead_letters();
    let found = letters.select(LetterFilter::default()).await.expect("letters");
    let found = LetterSelection::Counted(found);
    let before = status(&scheduler, "dies-1").await;
    assert!(matches!(before, RequestStatus::Dead { letter: Some(_), .. }), "{before:?}");
    letters.apply(LetterAction::Discard, &found, false, |_, _| {}).await.expect("an answer");
    let after = status(&scheduler, "dies-1").await;
    assert!(
        matches!(&after, RequestStatus::Dead { letter: None, message, .. }
        if message.contains("no such number")),
        "{after:?}"
    );

    let cancelled = shown(&scheduler, "waits-1").await;
    assert_eq!(cancelled.state, JobState::Cancelled);
    let [entry] = &cancelled.history[..] else { panic!("{cancelled:?}") };
    assert_eq!((entry.state, entry.attempt), (AttemptState::Cancelled, 0));
    assert_eq!((entry.started_ms, &entry.cancelled_by), (None, &cancelled.cancelled_by));

    // Another job with the same request has a history of its own.
    schedule(&scheduler, "twice-1", PAST).await;
    wait_until(DEADLINE, "the second job to end", async || live(&world).await == 0).await;
    let again = shown(&scheduler, "twice-1").await;
    assert!(again.created_ms > job.created_ms);
    assert_eq!((again.history.len(), kept(&world).await), (2, 7), "{database:?}");

    expire(&world, HOUR_MS).await;
    assert_eq!(kept(&world).await, 7, "{database:?}: kept for two hours");
    expire(&world, 2 * HOUR_MS + 1).await;
    assert_eq!(kept(&world).await, 0, "{database:?}");
    assert_eq!(status(&scheduler, "twice-1").await, RequestStatus::Unknown);
    assert_eq!(scheduler.job(named("twice-1")).await, Ok(None));
    scheduler.shutdown(DRAIN).await;
}

async fn without_a_history_only_failures_are_kept(database: Database) {
    let world = World::new(database, 1).await;
    let scheduler = start(&world, Duration::ZERO).await;
    for id in ["good-1", "good-2", "twice-1", "dies-1"] {
        schedule(&scheduler, id, PAST).await;
    }
    wait_until(DEADLINE, "every job to end", async || live(&world).await == 0).await;
    assert_eq!(kept(&world).await, 2, "{database:?}: a failed attempt and a death");
    assert_eq!(status(&scheduler, "good-1").await, RequestStatus::Unknown);
    assert_eq!(scheduler.job(named("good-1")).await, Ok(None));
    assert_eq!(scheduler.job(named("twice-1")).await, Ok(None));
    assert_eq!(shown(&scheduler, "dies-1").await.state, JobState::Dead);
    expire(&world, 23 * HOUR_MS).await;
    assert_eq!(kept(&world).await, 2, "{database:?}: kept for a day");
    expire(&world, 25 * HOUR_MS).await;
    assert_eq!(kept(&world).await, 0, "{database:?}");
    scheduler.shutdown(DRAIN).await;
}

/// More than one step of the clean-up and more than one size of statement.
async fn many_are_kept_and_removed_in_steps(database: Database) {
    let world = World::new(database, 1).await;
    let scheduler = start(&world, Duration::from_secs(3600)).await;
    let requests = (0..1234).map(|number| {
        let request = ScheduleJobRequest::builder("sms").request_id(format!("good-{number}"));
        request.at(PAST).build().expect("a request")
    });
    for answer in scheduler.jobs().schedule_all(requests).await {
        answer.expect("a job");
    }
    wait_until(DEADLINE, "every job to end", async || live(&world).await == 0).await;
    assert_eq!(kept(&world).await, 1234, "{database:?}");
    scheduler.shutdown(DRAIN).await;
    expire(&world, HOUR_MS + 1).await;
    assert_eq!(kept(&world).await, 0, "{database:?}");
}

on_each_database! {
    with_mysql:
    what_ended_is_known_until_it_is_not_kept_any_more
    without_a_history_only_failures_are_kept
    many_are_kept_and_removed_in_steps
}
