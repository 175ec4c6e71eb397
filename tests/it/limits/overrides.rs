//! Limits that are changed while the app runs.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use infinite_scheduler::operations::{AppResult, By, LimitChange};
use infinite_scheduler::{AppConfig, JobContext, OperationError, Scheduler, handler_fn};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{DEADLINE, overdue, schedule_all};
use crate::support::attempts::Attempts;
use crate::support::process::Instance;
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

/// Two heartbeats, of a second at most, and the slowness of this machine.
const TWO_HEARTBEATS: Duration = Duration::from_secs(4);

fn limits(json: &str) -> LimitChange {
    LimitChange::from_json(json).expect("limits")
}

async fn start(database: &TestDatabase, attempts: &Attempts, gate: &Arc<Semaphore>) -> Scheduler {
    let (attempts, gate) = (attempts.clone(), gate.clone());
    let handler = handler_fn(move |context: JobContext, _: Value| {
        let gate = gate.clone();
        attempts.begin(&context.job().request_id);
        async move {
            gate.acquire().await.expect("a gate").forget();
            Ok(())
        }
    });
    let mut app = AppConfig::new("sms");
    app.max_concurrent = NonZeroU32::new(2);
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    builder.register_app(app, handler).start().await.expect("a start")
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_within_two_heartbeats_and_until_they_are_reset_on_sqlite() {
    limits_change_within_two_heartbeats(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_within_two_heartbeats_and_until_they_are_reset_on_mariadb() {
    limits_change_within_two_heartbeats(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_within_two_heartbeats_and_until_they_are_reset_on_mysql() {
    limits_change_within_two_heartbeats(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_within_two_heartbeats_and_until_they_are_reset_on_postgres() {
    limits_change_within_two_heartbeats(Database::Postgres).await;
}

async fn limits_change_within_two_heartbeats(database: Database) {
    let database = database.fresh().await;
    let (attempts, gate) = (Attempts::default(), Arc::new(Semaphore::new(0)));
    let scheduler = start(&database, &attempts, &gate).await;
    schedule_all(&scheduler, (0..30).map(|n| overdue("sms", &n.to_string())).collect()).await;
    let begun = async |count: usize| {
        wait_until(DEADLINE, "so many attempts", async || attempts.all().len() == count).await;
    };
    begun(2).await;

    let by = scheduler.by(By::new("anna").because("the provider is faster now"));
    let change = by.apps().change("sms", limits(r#"{"maxConcurrent":5}"#)).await.expect("a change");
    assert_eq!(change.result, AppResult::Changed);
    let changed = Instant::now();
    begun(5).await;
    assert!(changed.elapsed() < TWO_HEARTBEATS, "after {:?}", changed.elapsed());
    let app = scheduler.apps().show("sms").await.expect("the app");
    let shown = serde_json::to_value(&app).expect("JSON");
    assert_eq!(shown["limits"]["maxConcurrent"], 5);
    assert_eq!(shown["configured"]["maxConcurrent"], 2);
    assert_eq!(shown["overrides"]["maxConcurrent"], 5);
    assert_eq!(shown["overrides"]["by"], "anna");

    // A pause stays, whatever is changed or reset, and both outlive a restart.
    scheduler.apps().pause("sms", false).await.expect("a pause");
    wait_until(DEADLINE, "the pause", async || scheduler.ingest_metrics().apps["sms"].paused == 1)
        .await;
    let change = by.apps().change("sms", limits(r#"{"maxConcurrent":8}"#)).await.expect("a change");
    assert!(change.pause.is_some());
    gate.add_permits(5);
    scheduler.shutdown(DEADLINE).await;
    let scheduler = start(&database, &attempts, &gate).await;
    super::await_heartbeats(&database, 3).await;
    assert_eq!(attempts.all().len(), 5, "it is paused");
    scheduler.apps().resume("sms").await.expect("a resumption");
    begun(5 + 8).await;

    let reset = scheduler.apps().reset("sms").await.expect("a reset");
    assert_eq!(reset.result, AppResult::Reset);
    super::await_heartbeats(&database, 3).await;
    gate.add_permits(7);
    begun(5 + 8 + 1).await;
    super::await_heartbeats(&database, 1).await;
    assert_eq!(attempts.all().len(), 14, "two at a time, as configured");
    gate.add_permits(100);
    begun(30).await;
    let audit = "select count(*) from scheduler_audit where action in ('app.set', 'app.reset')";
    assert_eq!(database.count(audit).await, 3);
    scheduler.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_and_timeouts_of_running_apps_change_too() {
    let database = Database::Sqlite.fresh().await;
    let (attempts, gate) = (Attempts::default(), Arc::new(Semaphore::new(0)));
    let scheduler = start(&database, &attempts, &gate).await;
    let change = limits(r#"{"maxAttempts":1,"timeoutMs":50,"ratePerSecond":100}"#);
    scheduler.apps().change("sms", change).await.expect("a change");
    super::await_heartbeats(&database, 2).await;
    schedule_all(&scheduler, vec![overdue("sms", "hangs")]).await;
    let letters = "select count(*) from scheduler_dead_letter where kind = 'attempts-exhausted'";
    wait_until(DEADLINE, "a letter", async || database.count(letters).await == 1).await;
    assert_eq!(attempts.of("hangs"), 1);
    let rate = "select count(*) from scheduler_app where rate_ns > 0";
    assert_eq!(database.count(rate).await, 1, "the start was bought");
    scheduler.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_are_none_are_refused_with_a_sentence() {
    for (json, said) in [
        (r#"{"maxConcurrent":0}"#, "maxConcurrent cannot be set: "),
        (
            r#"{"ratePerSecond":-1}"#,
            "ratePerSecond cannot be set: is -1, but must be from 0.000001",
        ),
        (r#"{"timeoutMs":0}"#, "timeoutMs cannot be set: "),
        (r#"{"maxconcurrent":1}"#, "unknown field `maxconcurrent`"),
    ] {
        let refusal = LimitChange::from_json(json).expect_err(json).to_string();
        assert!(refusal.contains(said), "{json}: {refusal}");
    }
    let database = Database::Sqlite.fresh().await;
    let scheduler = start(&database, &Attempts::default(), &Arc::new(Semaphore::new(0))).await;
    let refused = scheduler.apps().change("sms", limits(r#"{"burst":5}"#)).await;
    let Err(OperationError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert!(refusal.to_string().contains("burst has no effect without ratePerSecond"));
    scheduler.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_a_bad_limit_is_422_with_its_field() {
    let database = Database::Sqlite.fresh().await;
    let config = format!("[database]\nurl = \"{}\"\n[apps.sms]\n", database.url());
    let instance = Instance::start(&config).await;
    let client = reqwest::Client::new();
    for (body, pointer) in [
        (json!({ "maxConcurrent": 0 }), "/maxConcurrent"),
        (json!({ "ratePerSecond": 0 }), "/ratePerSecond"),
        (json!({ "maxInFlite": 3 }), "/maxInFlite"),
    ] {
        let patch = client.patch(instance.url("/api/apps/sms")).json(&body);
        let answer = patch.send().await.expect("an answer");
        assert_eq!(answer.status(), 422, "{body}");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}
