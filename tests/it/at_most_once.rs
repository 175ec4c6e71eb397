//! `delivery = "at-most-once"`: no job is sent a second time, whatever fails.

use std::time::Duration;

use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::operations::LimitChange;
use infinite_scheduler::{
    AppConfig, Delivery, Discard, ErrorKind, JobContext, JobError, OperationError, Operations,
    OperationsOptions, ScheduleJobRequest, Scheduler, StartError, handler_fn,
};
use serde_json::{Value, json};

use crate::crash_guard::{Loop, Way};
use crate::support::attempts::Attempts;
use crate::support::services::{Database, TestDatabase};
use crate::support::world::LEASE;
use crate::support::{is_long, wait_until};

const DEADLINE: Duration = Duration::from_secs(120);
const DRAIN: Duration = Duration::from_secs(10);
const PAST: &str = "2025-01-01T00:00:00Z";

fn app() -> AppConfig {
    AppConfig::new("sms").at_most_once()
}

fn request(id: &str) -> ScheduleJobRequest {
    let request = ScheduleJobRequest::builder("sms").at(PAST).request_id(id);
    request.job_data(&json!({})).build().expect("a request")
}

/// A handler that counts its calls and ends as the job's name says.
async fn start(database: &TestDatabase, app: AppConfig, calls: &Attempts) -> Scheduler {
    let calls = calls.clone();
    let handler = handler_fn(move |context: JobContext, _: Value| {
        let calls = calls.clone();
        async move {
            let id = context.job().request_id.clone();
            calls.begin(&id);
            match id.split('-').next() {
                Some("fails") => Err(JobError::retry("busy")),
                Some("refused") => Err(JobError::Refused("no such number".into())),
                Some("panics") => panic!("a test panics"),
                Some("hangs") => std::future::pending().await,
                Some("snoozes") if calls.of(&id) == 1 => {
                    Err(JobError::Snooze(std::time::SystemTime::now().into()))
                }
                _ => Ok(()),
            }
        }
    });
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    builder.register_app(app, handler).start().await.expect("a start")
}

async fn await_no_jobs(database: &TestDatabase) {
    wait_until(DEADLINE, "the end of every job", async || {
        database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
}

async fn letters(database: &TestDatabase, kind: &str, id: &str, attempts: u32, says: &str) -> bool {
    let letters = format!(
        "select count(*) from scheduler_dead_letter where kind = '{kind}' and request_id = '{id}' \
         and attempts = {attempts} and message like '%{says}%'"
    );
    database.count(&letters).await == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_a_dead_letter_after_one_call() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let calls = Attempts::default();
        let mut app = app();
        app.timeout = Duration::from_millis(300);
        let scheduler = start(&database, app, &calls).await;
        for (id, kind, says) in [
            ("good", "", ""),
            ("fails", "attempts-exhausted", "busy"),
            ("refused", "refused-by-target", "no such number"),
            ("panics", "interrupted", "may have arrived"),
            ("hangs", "interrupted", "may have arrived%longer than 300 ms"),
        ] {
            scheduler.schedule(request(id)).await.expect("a job");
            await_no_jobs(&database).await;
            assert_eq!(calls.of(id), 1, "{backend:?} {id}");
            let is_letter = kind.is_empty() || letters(&database, kind, id, 1, says).await;
            assert!(is_letter, "{backend:?} {id}");
        }
        // Who postpones it says that nothing was done.
        scheduler.schedule(request("snoozes")).await.expect("a job");
        await_no_jobs(&database).await;
        assert_eq!(calls.of("snoozes"), 2, "{backend:?}");
        scheduler.shutdown(DRAIN).await;
        assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_one_attempt_is_refused() {
    let database = Database::Postgres.fresh().await;
    let mut app_of_three = AppConfig::new("sms");
    app_of_three.delivery = Delivery::AtMostOnce;
    let builder = Scheduler::builder().database_url(database.url());
    let refused = builder.register_app(app_of_three, Discard).start().await;
    let Err(StartError::Settings(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("app sms: max_attempts is 3"), "{why}");

    let scheduler = start(&database, app(), &Attempts::default()).await;
    let elsewhere = Operations::connect(OperationsOptions::new(database.url())).await;
    let elsewhere = elsewhere.expect("a database");
    let three = ScheduleJobRequest::builder("sms").at(PAST).max_attempts(3);
    let three = three.build().expect("a request");
    for jobs in [scheduler.jobs(), elsewhere.jobs()] {
        let refused = jobs.schedule(three.clone()).await;
        let Err(OperationError::Refused(refusal)) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.kind, ErrorKind::InvalidField);
        assert!(refusal.message.contains("maxAttempts 3: app sms delivers"), "{refusal}");
    }
    let change = |json: &str| LimitChange::from_json(json).expect("limits");
    for apps in [scheduler.apps(), elsewhere.apps()] {
        let refused = apps.change("sms", change(r#"{"maxAttempts":2}"#)).await;
        let Err(OperationError::Refused(refusal)) = refused else { panic!("{refused:?}") };
        let says = "maxAttempts is 2, but app sms delivers a job at most once";
        assert!(refusal.message.contains(says), "{refusal}");
        for harmless in [r#"{"maxAttempts":1}"#, r#"{"maxAttempts":null}"#] {
            apps.change("sms", change(harmless)).await.expect("a change");
        }
    }
    let apps = elsewhere.apps().list().await.expect("apps");
    assert_eq!((apps[0].delivery, apps[0].max_attempts), (Delivery::AtMostOnce, 1));
    elsewhere.close().await;
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_tried_before_its_app_changed_is_not_tried_again() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let calls = Attempts::default();
        let mut before = AppConfig::new("sms");
        before.backoff = Backoff::Delays(vec![Duration::from_secs(3)]);
        let scheduler = start(&database, before, &calls).await;
        scheduler.schedule(request("fails")).await.expect("a job");
        wait_until(DEADLINE, "its first attempt", async || {
            database.count("select count(*) from scheduler_job where attempts = 1").await == 1
        })
        .await;
        scheduler.shutdown(DRAIN).await;
        let scheduler = start(&database, app(), &calls).await;
        await_no_jobs(&database).await;
        assert_eq!(calls.of("fails"), 1, "{backend:?}");
        let says = "tried 1 times, at last: busy";
        assert!(letters(&database, "attempts-exhausted", "fails", 1, says).await, "{backend:?}");
        scheduler.shutdown(DRAIN).await;
    }
}

async fn an_instance_that_is_killed_at_random_repeats_nothing(backend: Database) {
    let kills = if is_long() { 100 } else { 20 };
    let database = backend.fresh().await;
    let first = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let first = first.register_app(app(), Discard).start().await.expect("a start");
    first.shutdown(DRAIN).await;
    let operations = Operations::connect(OperationsOptions::new(database.url())).await;
    let operations = operations.expect("a database");
    let mut instance = Loop::start(&database, Way::Once);
    let mut jobs = 0;
    for kill in 0..kills {
        let requests: Vec<_> = (jobs..jobs + 60).map(|n| request(&format!("r-{n}"))).collect();
        jobs += requests.len();
        for answer in operations.jobs().schedule_all(requests).await {
            answer.expect("a job");
        }
        wait_until(DEADLINE, "an instance", async || instance.said(kill).contains("interrupted"))
            .await;
        let moment = std::time::Instant::now() + Duration::from_millis(fastrand::u64(0..500));
        wait_until(DEADLINE, "a moment", async || std::time::Instant::now() >= moment).await;
        instance.kill();
    }
    await_no_jobs(&database).await;
    operations.close().await;

    let called = instance.calls();
    for (id, attempts) in &called {
        assert_eq!(attempts.len(), 1, "{backend:?}: {id} was called again");
    }
    let count = async |sql: &str| database.count(sql).await as usize;
    let letters = count("select count(*) from scheduler_dead_letter").await;
    let interrupted = count(
        "select count(*) from scheduler_dead_letter where kind = 'interrupted' and attempts = 1 \
         and message like '%may have arrived%'",
    )
    .await;
    println!("{backend:?}: {jobs} jobs, {} called, {letters} letters", called.len());
    assert_eq!(letters, interrupted, "{backend:?}");
    assert!(letters > 0, "{backend:?}: nothing ran when the instance was killed");
    let done = count("select count(*) from scheduler_job_history where state = 1").await;
    assert_eq!(done + letters, jobs, "{backend:?}: each has succeeded or is a letter");
    assert!(called.len() >= done, "{backend:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_at_random_repeats_nothing_on_sqlite() {
    an_instance_that_is_killed_at_random_repeats_nothing(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_at_random_repeats_nothing_on_mariadb() {
    an_instance_that_is_killed_at_random_repeats_nothing(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_at_random_repeats_nothing_on_postgres() {
    an_instance_that_is_killed_at_random_repeats_nothing(Database::Postgres).await;
}
