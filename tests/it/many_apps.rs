//! Many apps on one instance, and an app that no instance has.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use infinite_scheduler::{AppConfig, Discard, ScheduleJobRequest, Scheduler};
use serde_json::Value;

use crate::support::process::Instance;
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

const DEADLINE: Duration = Duration::from_secs(120);
const APPS: usize = 1000;
/// What a restart may take in a debug build on a loaded machine.
const RESTART: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_apps_are_taken_in_batches_on_sqlite() {
    a_thousand_apps_are_taken_in_batches(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_apps_are_taken_in_batches_on_mariadb() {
    a_thousand_apps_are_taken_in_batches(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_apps_are_taken_in_batches_on_mysql() {
    a_thousand_apps_are_taken_in_batches(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_apps_are_taken_in_batches_on_postgres() {
    a_thousand_apps_are_taken_in_batches(Database::Postgres).await;
}

async fn a_thousand_apps_are_taken_in_batches(backend: Database) {
    let database = backend.fresh().await;
    let mut config =
        format!("[database]\nurl = \"{}\"\n[log]\nmetrics_interval_ms = 1000\n", database.url());
    for n in 0..APPS {
        writeln!(config, "[apps.app-{n}]\ndispatch = \"discard\"").expect("text");
    }
    let mut first = Instance::start(&config).await;
    assert!(first.terminate(DEADLINE).await.success());
    let mut second = Instance::spawn(&config);
    let began = Instant::now();
    second.ready(DEADLINE).await;
    let took = began.elapsed();
    println!("{backend:?}: ready after {took:?}");
    assert!(took < RESTART, "{backend:?}: ready after {took:?}");
    let owned = "select count(*) from scheduler_shard where owner is not null";
    assert_eq!(database.count(owned).await, 8 * 1000, "{backend:?}");

    wait_until(DEADLINE, "three lines of figures", async || {
        second.stderr().matches("1000 of 1000 apps without activity").count() >= 3
    })
    .await;
    let said = second.stderr();
    assert!(!said.contains("jobs in memory"), "{backend:?}: {said}");
    let about_shards = said.lines().filter(|line| line.contains("are ours")).count();
    assert!((1..=4).contains(&about_shards), "{backend:?}: {about_shards} lines about shards");

    if backend != Database::Sqlite {
        half_of_them_go_to_another(&config, &database).await;
    }
    assert!(second.terminate(DEADLINE).await.success());
    // A batch that was being taken at the end names an instance that is not there any more.
    let held = "select count(*) from scheduler_shard where owner in \
                (select id from scheduler_instance where not dead)";
    assert_eq!(database.count(held).await, 0, "{backend:?}");
}

/// And the other leaves again.
async fn half_of_them_go_to_another(config: &str, database: &TestDatabase) {
    let mut other = Instance::start(config).await;
    wait_until(DEADLINE, "fair shares", async || {
        let owners = "select count(distinct owner) from scheduler_shard where owner is not null";
        let largest = "select max(held) from (select count(*) as held from scheduler_shard \
                       group by owner) as shares";
        database.count(owners).await == 2 && database.count(largest).await == 4000
    })
    .await;
    assert!(other.terminate(DEADLINE).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn due_jobs_of_an_app_that_no_instance_has_are_reported_once_on_sqlite() {
    due_jobs_of_an_app_that_no_instance_has_are_reported_once(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn due_jobs_of_an_app_that_no_instance_has_are_reported_once_on_mariadb() {
    due_jobs_of_an_app_that_no_instance_has_are_reported_once(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn due_jobs_of_an_app_that_no_instance_has_are_reported_once_on_mysql() {
    due_jobs_of_an_app_that_no_instance_has_are_reported_once(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn due_jobs_of_an_app_that_no_instance_has_are_reported_once_on_postgres() {
    due_jobs_of_an_app_that_no_instance_has_are_reported_once(Database::Postgres).await;
}

async fn due_jobs_of_an_app_that_no_instance_has_are_reported_once(backend: Database) {
    let database = backend.fresh().await;
    let with_sms = Scheduler::builder()
        .database_url(database.url())
        .lease(LEASE)
        .register_app(AppConfig::new("sms"), Discard)
        .start()
        .await
        .expect("a start");
    for n in 0..9 {
        let request = ScheduleJobRequest::builder("sms").request_id(format!("r-{n}"));
        let request = request.at("2035-01-01T00:00:00Z").build().expect("a request");
        with_sms.schedule(request).await.expect("accepted");
    }
    with_sms.shutdown(LEASE).await;
    // As if it were later by now for all of them but one.
    let due = "update scheduler_job set due_ms = 5 where request_id <> 'r-8'";
    database.execute(due).await;
    let jobs = "select count(*) from scheduler_job";
    assert_eq!(database.count(jobs).await, 9, "{backend:?}");

    let config = format!(
        "[database]\nurl = \"{}\"\n[log]\nmetrics_interval_ms = 500\n[apps.mail]\n",
        database.url()
    );
    let mut without = Instance::start(&config).await;
    let get = async |path: &str| -> (u16, Value) {
        let answer = reqwest::get(without.url(path)).await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    };
    let sentence = "8 jobs of sms are due and no instance has it: configure";
    wait_until(DEADLINE, "the report", async || {
        get("/health/ready").await.1.to_string().contains(sentence)
    })
    .await;
    let (status, readiness) = get("/health/ready").await;
    assert_eq!(status, 200, "{backend:?}: it can fire what it has: {readiness}");
    assert_eq!(readiness["degraded"][0]["kind"], "appWithoutInstance", "{backend:?}");
    assert_eq!(get("/api/metrics").await.1["jobsWithoutInstance"], 8, "{backend:?}");
    let figures = || without.stderr().matches("shards held among").count();
    let before = figures();
    wait_until(DEADLINE, "figures", async || figures() > before + 4).await;
    let said = without.stderr();
    assert_eq!(said.matches(sentence).count(), 1, "{backend:?}: {said}");

    if backend == Database::Sqlite {
        assert!(without.terminate(DEADLINE).await.success());
        return;
    }
    let mut with = Instance::start(&config.replace("apps.mail", "apps.sms")).await;
    wait_until(DEADLINE, "an instance with the app", async || {
        let degraded = get("/health/ready").await.1["degraded"].to_string();
        !degraded.contains("sms") && database.count(jobs).await == 1
    })
    .await;
    assert_eq!(get("/api/metrics").await.1["jobsWithoutInstance"], 0, "{backend:?}");
    assert!(with.terminate(DEADLINE).await.success());
    assert!(without.terminate(DEADLINE).await.success());
}
