//! Late answers, after the shards were read again; and late commits, after the partition was
//! reassigned.

use std::time::Duration;

use super::{DEADLINE, WAVE, api_request, check_fired, check_ledger, marker, request, succeeded};
use crate::support::kafka::{RawRecord, produce};
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;
use crate::writers::{await_held_up, hold_up_insert};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_late_fires_nothing_again() {
    for database in Database::SERVERS {
        let world = World::new(database, 1).await;
        let proxy = Proxy::start(world.database.url()).await;
        let builder = world.builder().database_url(proxy.url(world.database.url()));
        // Nobody waits for an answer for longer than two of these.
        let scheduler = builder.lease(DEADLINE).start().await.expect("a start");
        let send = async |id: &str, order: &str| {
            produce(&world.topic, &[RawRecord::new(0, request(id, order))]).await;
        };
        send("before", "").await;
        wait_until(DEADLINE, "the first job", async || succeeded(&scheduler) == 1).await;
        proxy.withhold_after_commit(marker(0).as_bytes());
        send("late", &marker(0)).await;
        wait_until(DEADLINE, "an answer that is kept back", async || proxy.holds() == 1).await;
        // Every shard is read anew, and with them the job.
        world.database.execute("update scheduler_shard set epoch = epoch + 1").await;
        wait_until(DEADLINE, "the job done", async || {
            world.database.count("select count(*) from scheduler_job").await == 0
        })
        .await;
        proxy.release();
        send("after", "").await;
        wait_until(DEADLINE, "the last job", async || succeeded(&scheduler) >= 3).await;
        scheduler.shutdown(DEADLINE).await;
        check_fired(&world, ["before", "late", "after"].map(str::to_owned)).await;
        check_ledger(&world, [3, 0, 0]).await;
    }
}

/// What becomes of a batch that is uncommitted while its partition moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LateEnd {
    Commit,
    Rollback,
    /// It commits although the instance that wrote it is gone.
    CommitOfADeadInstance,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_goes_on_behind_a_batch_that_commits_late_on_mariadb() {
    a_partition_moves_while_its_batch_is_uncommitted(Database::MariaDb, LateEnd::Commit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_goes_on_behind_a_batch_that_commits_late_on_mysql() {
    a_partition_moves_while_its_batch_is_uncommitted(Database::MySql, LateEnd::Commit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_goes_on_behind_a_batch_that_commits_late_on_postgres() {
    a_partition_moves_while_its_batch_is_uncommitted(Database::Postgres, LateEnd::Commit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_goes_on_before_a_batch_that_never_commits_on_mariadb() {
    a_partition_moves_while_its_batch_is_uncommitted(Database::MariaDb, LateEnd::Rollback).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_goes_on_before_a_batch_that_never_commits_on_mysql() {
    a_partition_moves_while_its_batch_is_uncommitted(Database::MySql, LateEnd::Rollback).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_goes_on_before_a_batch_that_never_commits_on_postgres() {
    a_partition_moves_while_its_batch_is_uncommitted(Database::Postgres, LateEnd::Rollback).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_commits_after_its_instance_died_counts_on_mariadb() {
    let end = LateEnd::CommitOfADeadInstance;
    a_partition_moves_while_its_batch_is_uncommitted(Database::MariaDb, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_commits_after_its_instance_died_counts_on_mysql() {
    let end = LateEnd::CommitOfADeadInstance;
    a_partition_moves_while_its_batch_is_uncommitted(Database::MySql, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_commits_after_its_instance_died_counts_on_postgres() {
    let end = LateEnd::CommitOfADeadInstance;
    a_partition_moves_while_its_batch_is_uncommitted(Database::Postgres, end).await;
}

async fn a_partition_moves_while_its_batch_is_uncommitted(database: Database, end: LateEnd) {
    let world = World::new(database, 2).await;
    let proxy = Proxy::start(world.database.url()).await;
    // The server ends a transaction that is idle for half of this, and after all of it the
    // shards of a dead instance move.
    let crashes = end == LateEnd::CommitOfADeadInstance;
    let lease = Duration::from_secs(if crashes { 30 } else { 60 });
    let builder = world.builder().database_url(proxy.url(world.database.url())).lease(lease);
    let mut first = Some(builder.start().await.expect("a start"));
    let wave = async |name: &str, partition: i32| {
        let value = |n| request(&format!("{name}-{n}"), &format!("{name}."));
        let records: Vec<_> = (0..WAVE).map(|n| RawRecord::new(partition, value(n))).collect();
        produce(&world.topic, &records).await;
    };
    wave("before", 0).await;
    wave("beside", 1).await;
    wait_until(DEADLINE, "the first jobs", async || {
        first.as_ref().is_some_and(|first| succeeded(first) == 2 * WAVE)
    })
    .await;

    // A batch of each partition, as it is not known which of them will be reassigned. Nothing else is
    // under way: what runs when an instance dies may fire again.
    for (partition, name) in (0..).zip(["held", "held beside"]) {
        proxy.hold_after(format!("{name}.").as_bytes());
        wave(name, partition).await;
        let held = partition as usize + 1;
        wait_until(DEADLINE, "a batch that is held", async || proxy.holds() == held).await;
    }
    if crashes {
        first = None;
    }
    let second = world.builder().start().await.expect("a start");
    // It waits for the row of the partition that was assigned to it, without success at first.
    wait_until(DEADLINE, "the second instance to wait for the batch", async || {
        second.health().sentences().iter().any(|complaint| complaint.starts_with("partition"))
    })
    .await;
    match end {
        LateEnd::Rollback => proxy.cut_all(),
        _ => proxy.release(),
    }
    wave("after", 0).await;
    wave("after all", 1).await;

    let names = ["before", "beside", "held", "held beside", "after", "after all"];
    let jobs = names.len() * WAVE;
    wait_until(DEADLINE, "every record read", async || {
        let sql = format!(
            "select cast(sum(next_offset) as {}) from scheduler_ingest_offset",
            world.integer()
        );
        world.database.count(&sql).await as usize == jobs
    })
    .await;
    wait_until(DEADLINE, "every job fired", async || {
        world.database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
    if let Some(first) = first {
        first.shutdown(DEADLINE).await;
    }
    second.shutdown(DEADLINE).await;
    let wanted = names.iter().flat_map(|name| (0..WAVE).map(move |n| format!("{name}-{n}")));
    check_fired(&world, wanted).await;
    check_ledger(&world, [jobs, 0, 0]).await;
}

/// Its schedulers do not learn the result, so they read their shards again once it must
/// have ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_commits_after_its_reader_left_fires() {
    // The server ends what waits for a lock after one of these, and what we began within two.
    let lease = Duration::from_secs(20);
    let world = World::new(Database::Postgres, 2).await;
    let proxy = Proxy::start(world.database.url()).await;
    let first = world.builder().lease(lease).database_url(proxy.url(world.database.url()));
    let first = first.start().await.expect("a start");
    let seed =
        request("seed", "").replace(r#""scheduledTime":0"#, r#""scheduledTime":2000000000000"#);
    produce(&world.topic, &[RawRecord::new(0, seed), RawRecord::new(1, request("before", ""))])
        .await;
    let read = |records: i64| {
        let database = &world.database;
        let sum = "select cast(sum(next_offset) as bigint) from scheduler_ingest_offset";
        wait_until(DEADLINE, "records", async move || database.count(sum).await == records)
    };
    read(2).await;
    wait_until(DEADLINE, "the first job", async || succeeded(&first) == 1).await;

    // Whichever partition moves, its batch is on the server and waits there.
    let names = ["held", "held beside"];
    let holders = [
        hold_up_insert(&world.database, names[0]).await,
        hold_up_insert(&world.database, names[1]).await,
    ];
    let records =
        names.iter().zip(0..).map(|(name, partition)| RawRecord::new(partition, request(name, "")));
    produce(&world.topic, &records.collect::<Vec<_>>()).await;
    await_held_up(&world.database, 2).await;
    proxy.set_unavailable(true);
    // Without the app, so that it wants no shards: the first one keeps what it has not read.
    let second = world.builder_without_apps().lease(lease).start().await.expect("a start");
    // It claims the reassigned partition, which waits for the batch.
    await_held_up(&world.database, 3).await;
    proxy.set_unavailable(false);
    let is_away = || first.health().sentences().iter().any(|said| said.starts_with("database"));
    wait_until(DEADLINE, "a database again", async || !is_away()).await;
    // Whatever was read meanwhile, it was read before the commit.
    first
        .schedule(api_request("").request_id("beside").build().expect("a request"))
        .await
        .expect("an answer");
    wait_until(DEADLINE, "a job beside", async || succeeded(&first) == 2).await;
    for holder in holders {
        holder.rollback().await.expect("a rollback");
    }
    read(4).await;
    wait_until(DEADLINE, "every job but the seed", async || {
        world.database.count("select count(*) from scheduler_job").await == 1
    })
    .await;
    assert_eq!(succeeded(&first), 4);
    for scheduler in [first, second] {
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(scheduler.ingest_metrics().jobs_rescued, 0);
    }
    check_fired(&world, ["before", "beside", "held", "held beside"].map(str::to_owned)).await;
}
