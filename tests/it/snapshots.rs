//! A transaction that holds a snapshot for long (a backup) prevents the removal of deleted rows.
//! That must not delay jobs, not even after a kill, when reading starts before all of these rows.

use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use sea_orm::{ConnectionTrait, Database as SeaOrm, TransactionTrait};
use serde_json::Value;

use crate::support::kafka::{RawRecord, produce};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::world::World;
use crate::support::{is_long, wait_until};

const DEADLINE: Duration = Duration::from_secs(120);

/// How many jobs, over how many seconds, and how late each hundredth of those may be that are due
/// after the instance has been back for a while. Seconds where the machine is shared with other
/// tests: without protection they are a minute late.
struct Load {
    jobs: i64,
    seconds: i64,
    back_ms: i64,
    late_ms: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_snapshot_delays_no_job_after_a_kill_on_postgres() {
    check(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_snapshot_delays_no_job_after_a_kill_on_mariadb() {
    check(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_snapshot_delays_no_job_after_a_kill_on_mysql() {
    check(Database::MySql).await;
}

async fn check(backend: Database) {
    let load = match is_long() {
        true => Load { jobs: 200_000, seconds: 100, back_ms: 10_000, late_ms: 100 },
        false => Load { jobs: 12_000, seconds: 24, back_ms: 5_000, late_ms: 5_000 },
    };
    let world = World::new(backend, 3).await;
    let config = world.config();
    let config = config.split("[apps.sms]").next().expect("a start");
    let config = config.replace("[log]", "[log]\nformat = \"json\"") + "[apps.sms]\n";
    let mut first = Instance::start(&config).await;
    let begin_ms = SystemClock.now_ms() + 8_000;
    let due_ms = |number: i64| begin_ms + number * load.seconds * 1000 / load.jobs;
    let record = |number: i64| {
        let json = format!(
            r#"{{"requestId":"r{number}","appName":"sms","scheduledTime":{}}}"#,
            due_ms(number)
        );
        RawRecord::new(i32::try_from(number % 3).expect("a partition"), json)
    };
    produce(&world.topic, &(0..load.jobs).map(record).collect::<Vec<_>>()).await;

    let holder = SeaOrm::connect(world.database.url()).await.expect("a connection");
    let snapshot = holder.begin().await.expect("a transaction");
    let repeatable = match backend {
        Database::Postgres => "set transaction isolation level repeatable read",
        _ => "select 1",
    };
    snapshot.execute_unprepared(repeatable).await.expect("a level");
    snapshot.execute_unprepared("select count(*) from scheduler_job").await.expect("a snapshot");

    let middle_ms = begin_ms + load.seconds * 400;
    wait_until(DEADLINE, "the middle", async || SystemClock.now_ms() >= middle_ms).await;
    first.kill();
    let mut second = Instance::start(&config).await;
    let back_ms = SystemClock.now_ms() + load.back_ms;
    wait_until(DEADLINE + Duration::from_secs(100), "every job fired", async || {
        world.database.count("select count(*) from scheduler_job").await == 0
            && SystemClock.now_ms() > due_ms(load.jobs)
    })
    .await;
    assert!(second.terminate(DEADLINE).await.success());
    snapshot.rollback().await.expect("an end");
    holder.close().await.expect("an end");

    let log = second.stderr();
    let fired = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let measured = fired.filter(|line| line["scheduled_ms"].as_i64() > Some(back_ms));
    let mut late: Vec<i64> = measured.filter_map(|line| line["lateness_ms"].as_i64()).collect();
    late.sort_unstable();
    assert!(late.len() as i64 > load.jobs / 10, "only {} were measured", late.len());
    let hundredth = late[late.len() * 99 / 100];
    println!("{backend:?}: of {} jobs each hundredth was {hundredth} ms late", late.len());
    assert!(hundredth <= load.late_ms, "{hundredth} ms late");
}
