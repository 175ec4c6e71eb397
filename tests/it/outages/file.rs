//! The database is a file that another process has locked, or on a disk that is full.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sea_orm::{ConnectionTrait, TransactionTrait};

use super::{DEADLINE, Flow, PARTITIONS, Waves};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_process_has_locked_is_waited_for() {
    let world = World::new(Database::Sqlite, PARTITIONS).await;
    let builder = world.builder();
    let mut flow = Flow::start(world, builder).await;
    let other = flow.database().connect().await.begin().await.expect("a transaction");
    other.execute_unprepared("create table theirs (id integer)").await.expect("a long write");

    flow.wave().await;
    flow.await_complaint("database", "another process is writing to the file: database is locked")
        .await;
    flow.await_complaint("partition", "another process is writing to the file: database is locked")
        .await;
    flow.await_complaint("lease", "nothing is fired").await;
    flow.wave().await;
    other.rollback().await.expect("a rollback");
    flow.finish().await;
}

/// Its files may not grow, which is what a full disk comes to.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for() {
    let world = World::new(Database::Sqlite, PARTITIONS).await;
    let mut instance = Instance::spawn_without_file_size_signal(&world.config());
    instance.ready(DEADLINE).await;
    let mut waves = Waves::on(world);
    waves.send(0).await;
    waves.settle().await;

    let log = waves.world.database.url().replace("sqlite://", "").replace("?mode=rwc", "-wal");
    let size = fs::metadata(log).expect("a write-ahead log").len();
    let pid = Pid::from_raw(instance.pid() as i32).expect("a process");
    let limit = |current| {
        let rlimit = Rlimit { current, maximum: None };
        prlimit(Some(pid), Resource::Fsize, rlimit).expect("a limit for a child");
    };
    limit(Some(size));
    waves.send(0).await;
    await_health(&instance, "partition", "disk I/O error").await;
    await_health(&instance, "database", "disk I/O error").await;
    waves.send(0).await;
    limit(None);
    waves.send(0).await;
    waves.settle().await;
    wait_until(DEADLINE, "readiness", async || health(&instance).await.is_empty()).await;
    assert!(instance.terminate(DEADLINE).await.success());
    waves.check().await;
}

async fn await_health(instance: &Instance, about: &str, why: &str) {
    let what = format!("a complaint about {about} with \"{why}\"");
    wait_until(DEADLINE, &what, async || {
        let complaints = health(instance).await;
        complaints.iter().any(|said| said.starts_with(about) && said.contains(why))
    })
    .await;
}

/// The problems in `/health/ready`.
async fn health(instance: &Instance) -> Vec<String> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build();
    let answer = client.expect("a client").get(instance.url("/health/ready")).send().await;
    let body: serde_json::Value = answer.expect("an answer").json().await.expect("JSON");
    let reasons = body["reasons"].as_array().expect("reasons").iter();
    let reasons = reasons.filter_map(|said| said.as_str().map(str::to_owned));
    let degraded = body["degraded"].as_array().expect("a list").iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let degraded = degraded
        .map(|problem| format!("{}: {}", text(&problem["subject"]), text(&problem["message"])));
    reasons.chain(degraded).collect()
}
