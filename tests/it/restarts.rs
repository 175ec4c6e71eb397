//! An instance that was killed and is started again takes its shards back at once, whatever its
//! lease: the machine knows that the process has ended.

use std::time::{Duration, Instant};

use infinite_scheduler::model::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::support::kafka::{RawRecord, produce};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::world::World;
use crate::support::{wait_for, wait_until};

const DEADLINE: Duration = Duration::from_secs(120);
/// A lease that a restart must not wait for, and the part of it in which the restart is over,
/// on a machine under load.
const LEASE: Duration = Duration::from_secs(90);
const AT_ONCE: Duration = Duration::from_secs(20);

async fn counter(instance: &Instance, name: &str) -> Option<i64> {
    let answer = reqwest::get(instance.url("/api/metrics")).await.ok()?;
    answer.json::<Value>().await.ok()?[name].as_i64()
}

fn record(id: &str, due_ms: i64) -> RawRecord {
    let json = format!(r#"{{"requestId":"{id}","appName":"sms","scheduledTime":{due_ms}}}"#);
    RawRecord::new(0, json)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_that_is_started_again_waits_for_no_lease_on_sqlite() {
    a_killed_instance_that_is_started_again_waits_for_no_lease(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_that_is_started_again_waits_for_no_lease_on_mariadb() {
    a_killed_instance_that_is_started_again_waits_for_no_lease(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_that_is_started_again_waits_for_no_lease_on_mysql() {
    a_killed_instance_that_is_started_again_waits_for_no_lease(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_that_is_started_again_waits_for_no_lease_on_postgres() {
    a_killed_instance_that_is_started_again_waits_for_no_lease(Database::Postgres).await;
}

async fn a_killed_instance_that_is_started_again_waits_for_no_lease(backend: Database) {
    let world = World::new(backend, 1).await;
    let lease = format!("lease_ms = {}", LEASE.as_millis());
    let config = world.config().replace("lease_ms = 3000", &lease);
    assert!(config.contains(&lease), "{config}");
    let mut first = Instance::start(&config).await;
    let due_ms = SystemClock.now_ms() + 3_000;
    produce(&world.topic, &[record("r", due_ms)]).await;
    wait_until(DEADLINE, "the job", async || counter(&first, "messagesProcessed").await == Some(1))
        .await;
    first.kill();
    wait_until(DEADLINE, "its moment", async || SystemClock.now_ms() >= due_ms).await;

    let mut second = Instance::spawn(&config);
    let began = Instant::now();
    wait_for(AT_ONCE, "the firing", async || {
        assert_eq!(second.exit_status(), None, "{}", second.stderr());
        let listens = second.stdout().contains("listening on");
        let fired = if listens { counter(&second, "apps.sms.succeeded").await } else { None };
        (fired == Some(1)).then_some(())
    })
    .await;
    println!("{backend:?}: fired {:?} after the start", began.elapsed());
    assert!(second.terminate(DEADLINE).await.success());
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
}

/// It holds the file, and may wake up in the middle of a write.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_file_of_a_suspended_instance_is_refused_to_another() {
    let database = Database::Sqlite.fresh().await;
    let url = database.url();
    let config = format!("[database]\nurl = \"{url}\"\n[instance]\nlease_ms = 1000\n[apps.sms]\n");
    let mut first = Instance::start(&config).await;
    first.stop();
    let mut second = Instance::spawn(&config);
    assert_eq!(second.exited(DEADLINE).await.code(), Some(2));
    let said = second.stderr();
    assert!(said.contains("in use by another instance"), "{said}");
    first.cont();
    assert!(first.terminate(DEADLINE).await.success());
    let mut third = Instance::start(&config).await;
    assert!(third.terminate(DEADLINE).await.success());
}
