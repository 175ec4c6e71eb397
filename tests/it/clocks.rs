//! An instance whose clock is wrong is not ready, and fires only what is due by its own clock and
//! by the database's.

use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::support::clock::SetClock;
use crate::support::kafka::{RawRecord, produce};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

async fn get(instance: &Instance, path: &str) -> (u16, Value) {
    let answer = reqwest::get(instance.url(path)).await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

async fn counter(instance: &Instance, name: &str) -> i64 {
    get(instance, "/api/metrics").await.1[name].as_i64().unwrap_or(0)
}

fn record(id: &str, due_ms: i64) -> RawRecord {
    let json = format!(r#"{{"requestId":"{id}","appName":"sms","scheduledTime":{due_ms}}}"#);
    RawRecord::new(0, json)
}

/// So many heartbeats later.
async fn beats(instance: &Instance, count: usize) {
    let lines = || instance.stderr().matches("shards held among").count();
    let before = lines();
    wait_until(DEADLINE, "lines of figures", async || lines() >= before + count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_runs_ahead_fires_nothing_early_and_is_reported_once_on_mariadb() {
    a_clock_that_runs_ahead_fires_nothing_early_and_is_reported_once(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_runs_ahead_fires_nothing_early_and_is_reported_once_on_mysql() {
    a_clock_that_runs_ahead_fires_nothing_early_and_is_reported_once(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_runs_ahead_fires_nothing_early_and_is_reported_once_on_postgres() {
    a_clock_that_runs_ahead_fires_nothing_early_and_is_reported_once(Database::Postgres).await;
}

async fn a_clock_that_runs_ahead_fires_nothing_early_and_is_reported_once(database: Database) {
    let world = World::new(database, 1).await;
    let to_topic = format!("dispatch = \"kafka\"\n            topic = \"{}\"", world.fired);
    let config = world.config().replace(&to_topic, "dispatch = \"log\"");
    assert!(config.contains("\"log\""), "{config}");
    let clock = SetClock::new();
    let variables = clock.variables();
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut instance = Instance::spawn_with(&config, &variables);
    instance.ready(DEADLINE).await;
    let hour_ms = i64::try_from(HOUR.as_millis()).expect("an hour");
    produce(&world.topic, &[record("later", SystemClock.now_ms() + hour_ms)]).await;
    wait_until(DEADLINE, "the job", async || counter(&instance, "messagesProcessed").await == 1)
        .await;

    clock.set_forward(2 * HOUR);
    // The lease ends by the wall clock, too, until the next heartbeat has seen the skew.
    wait_until(DEADLINE, "an instance that is not ready for its clock", async || {
        let (status, readiness) = get(&instance, "/health/ready").await;
        let reasons = readiness["reasons"].to_string();
        status == 503 && reasons.contains("clock: differs from the database's by 7")
    })
    .await;
    produce(&world.topic, &[record("now", 0)]).await;
    wait_until(DEADLINE, "what is due by both clocks", async || {
        counter(&instance, "apps.sms.succeeded").await == 1
    })
    .await;
    beats(&instance, 4).await;
    assert_eq!(counter(&instance, "apps.sms.fired").await, 1, "the other is due by one clock");
    let said = instance.stderr();
    assert_eq!(said.matches("differs from the database's").count(), 1, "{said}");

    // Back again, and behind: what is due by the database's clock is not due by ours.
    clock.set_back(2 * HOUR);
    produce(&world.topic, &[record("behind", SystemClock.now_ms() - hour_ms)]).await;
    wait_until(DEADLINE, "another job", async || {
        counter(&instance, "messagesProcessed").await == 3
    })
    .await;
    beats(&instance, 2).await;
    assert_eq!(counter(&instance, "apps.sms.fired").await, 1);
    clock.set_forward(Duration::ZERO);
    wait_until(DEADLINE, "an instance that is ready again", async || {
        get(&instance, "/health/ready").await.0 == 200
    })
    .await;
    wait_until(DEADLINE, "the job that was due", async || {
        counter(&instance, "apps.sms.succeeded").await == 2
    })
    .await;
    assert!(instance.terminate(DEADLINE).await.success());
}
