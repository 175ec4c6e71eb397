//! The memory of an instance under load is bounded by the settings, whatever arrives.

use std::sync::LazyLock;
use std::time::Duration;
use std::{env, iter};

use futures::{StreamExt, stream};
use infinite_scheduler::{AppConfig, JobContext, ScheduleJobRequest, Scheduler, handler_fn};
use serde_json::Value;

use crate::support::kafka::{RawRecord, create_topic, produce};
use crate::support::process::Instance;
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

const DEADLINE: Duration = Duration::from_secs(600);
/// What such an instance may have, in MiB, with the default settings.
const MOST: u64 = 512;
/// The size of a large job's data.
const LARGE: usize = 900_000;

/// The whole load instead of one that takes less than a minute.
fn is_long() -> bool {
    env::var_os("INFINITE_SCHEDULER_TEST_LONG").is_some()
}

/// JSON text of this size that no compression makes smaller: a part of one long text.
fn noise(bytes: usize) -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        iter::repeat_with(|| format!("{:016x}", fastrand::u64(..))).take(1 << 17).collect()
    });
    let start = fastrand::usize(..TEXT.len() - bytes);
    &TEXT[start..start + bytes]
}

#[tokio::test(flavor = "multi_thread")]
async fn large_jobs_that_are_due_together_are_sent_within_their_memory() {
    for database in databases() {
        large_jobs_that_are_due_together(database, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_jobs_that_are_due_together_are_logged_within_their_memory() {
    for database in databases() {
        large_jobs_that_are_due_together(database, false).await;
    }
}

fn databases() -> Vec<Database> {
    if is_long() { Database::all().to_vec() } else { vec![Database::Postgres] }
}

async fn large_jobs_that_are_due_together(database: Database, to_kafka: bool) {
    let jobs = if is_long() { 1200 } else { 600 };
    let world = World::new(database, 1).await;
    schedule_large(&world, jobs).await;
    let due = "update scheduler_job set due_ms = 0, scheduled_ms = 0";
    world.database.execute(due).await;
    let mut config = world.config();
    if !to_kafka {
        config = config.split("[apps.sms]").next().expect("a start").to_owned() + "[apps.sms]";
    }
    let mut instance = Instance::start(&config).await;
    wait_until(DEADLINE, "every job fired", async || {
        world.database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
    let peak = instance.peak_memory_mb();
    println!("{database:?}, to Kafka: {to_kafka}: {peak} MiB");
    assert_eq!(world.database.count("select count(*) from scheduler_dead_letter").await, 0);
    assert!(instance.terminate(DEADLINE).await.success());
    assert!(peak < MOST, "{database:?}: {peak} MiB");
}

/// Puts jobs into the database that are not due yet, and leaves.
async fn schedule_large(world: &World, jobs: usize) {
    let scheduler = Scheduler::builder()
        .database_url(world.database.url())
        .lease(LEASE)
        .register_app(AppConfig::new("sms"), handler_fn(|_: JobContext, _: Value| async { Ok(()) }))
        .start()
        .await
        .expect("a start");
    let handle = &scheduler;
    let schedule = |n: usize| async move {
        let request = ScheduleJobRequest::builder("sms").request_id(format!("r-{n}"));
        let data = format!(r#"{{"text":"{}"}}"#, noise(LARGE));
        let request = request.at("2030-01-01T00:00:00Z").raw_job_data(&data).build();
        handle.schedule(request.expect("a request")).await.expect("a job");
    };
    stream::iter(0..jobs).for_each_concurrent(8, schedule).await;
    scheduler.shutdown(Duration::from_secs(10)).await;
}

/// The database is unavailable while the backlog comes, and then all of it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_over_many_partitions_is_read_within_its_memory() {
    const PARTITIONS: i32 = 200;
    const SIZE: usize = 100_000;
    let of_each = if is_long() { 80 } else { 24 };
    let mut world = World::new(Database::Postgres, 1).await;
    world.topic = format!("{}.wide", world.topic);
    create_topic(&world.topic, PARTITIONS, &[]).await;
    let proxy = Proxy::start(world.database.url()).await;
    let mut instance = Instance::start(&world.config_on(&proxy.url(world.database.url()))).await;
    let read = "select cast(coalesce(sum(records), 0) as bigint) from scheduler_ingest_offset";
    let claimed = "select count(*) from scheduler_ingest_offset";
    wait_until(DEADLINE, "a reader of each partition", async || {
        world.database.count(claimed).await == i64::from(PARTITIONS)
    })
    .await;

    proxy.set_unavailable(true);
    for round in 0..of_each {
        let record = |partition| {
            let data = noise(SIZE);
            let request = format!(
                r#"{{"requestId":"r-{partition}-{round}","appName":"sms",
                "scheduledTime":"2030-01-01T00:00:00Z","jobData":{{"text":"{data}"}}}}"#
            );
            RawRecord::new(partition, request)
        };
        produce(&world.topic, &(0..PARTITIONS).map(record).collect::<Vec<_>>()).await;
    }
    let unavailable = instance.peak_memory_mb();
    proxy.set_unavailable(false);
    let all = i64::from(PARTITIONS) * i64::from(of_each);
    wait_until(DEADLINE, "every record read", async || world.database.count(read).await == all)
        .await;
    let peak = instance.peak_memory_mb();
    println!("{unavailable} MiB while the database was unavailable, {peak} MiB in all");
    assert!(instance.terminate(DEADLINE).await.success());
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, all);
    assert!(peak < MOST, "{peak} MiB");
}
