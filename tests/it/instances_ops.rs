//! Instances that are listed and drained, and the ingest of a whole group that is paused.

use std::time::{Duration, Instant};

use futures::future::join_all;
use infinite_scheduler::operations::{
    By, DrainResult, IngestResult, InstanceItem, InstanceState, Operations,
};
use infinite_scheduler::{OperationError, Scheduler};

use crate::support::kafka::{RawRecord, produce};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);
/// Two heartbeats, of a second at most, and the slowness of this machine.
const TWO_HEARTBEATS: Duration = Duration::from_secs(4);
const PARTITIONS: i32 = 4;
/// Records of one burst.
const RECORDS: i64 = 400;

async fn start(world: &World, name: &str) -> Scheduler {
    world.builder().instance_id(name).start().await.expect("a start")
}

/// Records whose jobs are due at once.
async fn produce_burst(world: &World, name: &str) {
    let record = |n: i64| {
        let value = format!(r#"{{"requestId":"{name}-{n}","appName":"sms","scheduledTime":0}}"#);
        RawRecord::new((n % i64::from(PARTITIONS)) as i32, value)
    };
    produce(&world.topic, &(0..RECORDS).map(record).collect::<Vec<_>>()).await;
}

/// The sum of a column of the ledger.
async fn total(world: &World, column: &str) -> i64 {
    let integer = world.integer();
    let sum = format!("select cast(sum({column}) as {integer}) from scheduler_ingest_offset");
    world.database.count(&sum).await
}

async fn await_read(world: &World, records: i64) {
    wait_until(DEADLINE, &format!("{records} records to be read"), async || {
        total(world, "next_offset").await == records
    })
    .await;
}

async fn await_no_jobs(world: &World) {
    wait_until(DEADLINE, "the end of every job", async || {
        world.database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
}

async fn live(operations: &Operations, name: &str) -> Option<InstanceItem> {
    let instances = operations.instances().list().await.expect("instances");
    instances.into_iter().find(|one| one.name == name && one.state != InstanceState::Dead)
}

/// How many partitions the instance `name` reads.
async fn partitions_of(operations: &Operations, name: &str) -> usize {
    let positions = operations.ingest().positions().await.expect("positions");
    positions.partitions.iter().filter(|one| one.owner.as_deref() == Some(name)).count()
}

/// Waits until `name` has so many shards and partitions.
async fn await_held(operations: &Operations, name: &str, shards: usize, partitions: usize) {
    let what = format!("{name} to have {shards} shards and {partitions} partitions");
    wait_until(DEADLINE, &what, async || {
        let has = live(operations, name).await.is_some_and(|one| one.owned_shards == shards);
        has && partitions_of(operations, name).await == partitions
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_instance_gives_everything_up_until_it_is_restarted_on_mariadb() {
    a_drained_instance_gives_everything_up_until_it_is_restarted(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_instance_gives_everything_up_until_it_is_restarted_on_mysql() {
    a_drained_instance_gives_everything_up_until_it_is_restarted(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_instance_gives_everything_up_until_it_is_restarted_on_postgres() {
    a_drained_instance_gives_everything_up_until_it_is_restarted(Database::Postgres).await;
}

async fn a_drained_instance_gives_everything_up_until_it_is_restarted(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let (a, b) = (start(&world, "a").await, start(&world, "b").await);
    let operations = world.operations().await;
    await_held(&operations, "a", 4, 2).await;
    await_held(&operations, "b", 4, 2).await;
    let drained = live(&operations, "a").await.expect("a");
    assert_eq!((drained.state, &*drained.apps[0]), (InstanceState::Alive, "sms"));
    assert_eq!(drained.shards["sms"].len(), 4);

    let by = operations.by(By::new("anna").because("the host is replaced"));
    let answer = by.instances().drain(drained.id.clone()).await.expect("a drain");
    assert_eq!(answer.result, DrainResult::Draining);
    let again = by.instances().drain(drained.id.clone()).await.expect("an answer");
    assert_eq!(again.result, DrainResult::Unchanged);
    await_held(&operations, "a", 0, 0).await;
    await_held(&operations, "b", 8, 4).await;
    assert_eq!(live(&operations, "a").await.expect("a").state, InstanceState::Draining);
    assert_eq!(a.ingest_metrics().instance_draining, 1);
    assert!(a.health().ready && a.health().degraded.is_empty(), "{:?}", a.health());
    produce_burst(&world, "drained").await;
    await_read(&world, RECORDS).await;
    await_no_jobs(&world).await;
    assert_eq!(a.ingest_metrics().messages_received, 0, "{database:?}: the other one has read all");

    // Under a new id it is drained as before.
    world.database.execute("update scheduler_instance set dead = true where name = 'a'").await;
    wait_until(DEADLINE, "another id", async || {
        live(&operations, "a").await.is_some_and(|one| one.id != drained.id)
    })
    .await;
    assert_eq!(live(&operations, "a").await.expect("a").state, InstanceState::Draining);
    // Nor does it take what nobody has.
    b.shutdown(DEADLINE).await;
    produce_burst(&world, "alone").await;
    world.await_heartbeats(3).await;
    await_held(&operations, "a", 0, 0).await;
    assert_eq!(total(&world, "next_offset").await, RECORDS, "{database:?}: nobody reads");

    a.shutdown(DEADLINE).await;
    let a = start(&world, "a").await;
    await_held(&operations, "a", 8, 4).await;
    assert_eq!(live(&operations, "a").await.expect("a").state, InstanceState::Alive);
    await_read(&world, 2 * RECORDS).await;
    await_no_jobs(&world).await;
    assert_eq!(total(&world, "jobs").await, 2 * RECORDS, "{database:?}");
    let dead = by.instances().drain(drained.id).await;
    assert!(matches!(dead, Err(OperationError::Conflict(_))), "{database:?}: {dead:?}");
    a.shutdown(DEADLINE).await;
    operations.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ingest_of_a_group_is_paused_until_it_is_resumed_on_mariadb() {
    the_ingest_of_a_group_is_paused_until_it_is_resumed(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ingest_of_a_group_is_paused_until_it_is_resumed_on_mysql() {
    the_ingest_of_a_group_is_paused_until_it_is_resumed(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ingest_of_a_group_is_paused_until_it_is_resumed_on_postgres() {
    the_ingest_of_a_group_is_paused_until_it_is_resumed(Database::Postgres).await;
}

async fn the_ingest_of_a_group_is_paused_until_it_is_resumed(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let (a, b) = (start(&world, "a").await, start(&world, "b").await);
    let operations = world.operations().await;
    await_held(&operations, "a", 4, 2).await;
    produce_burst(&world, "before").await;
    await_read(&world, RECORDS).await;

    let by = operations.by(By::new("anna").because("a producer runs wild"));
    let change = by.ingest().pause().await.expect("a pause");
    assert_eq!(change.result, IngestResult::Paused);
    await_paused(&[&a, &b], 1).await;
    produce_burst(&world, "while").await;
    world.await_heartbeats(3).await;
    assert_eq!(total(&world, "next_offset").await, RECORDS, "{database:?}: nothing is read");
    // What is in the database goes on.
    await_no_jobs(&world).await;
    let pause = a.ingest().positions().await.expect("positions").pause.expect("a pause");
    assert_eq!((&*pause.by, pause.reason.as_deref()), ("anna", Some("a producer runs wild")));
    assert!(a.health().degraded.is_empty(), "it is meant: {:?}", a.health());

    join_all([a, b].map(async |scheduler| scheduler.shutdown(DEADLINE).await)).await;
    let (c, d) = (start(&world, "c").await, start(&world, "d").await);
    await_paused(&[&c, &d], 1).await;
    world.await_heartbeats(3).await;
    assert_eq!(total(&world, "next_offset").await, RECORDS, "{database:?}: after a restart");

    let change = c.ingest().resume().await.expect("an answer");
    assert_eq!((change.result, change.pause), (IngestResult::Resumed, None));
    await_paused(&[&c, &d], 0).await;
    await_read(&world, 2 * RECORDS).await;
    await_no_jobs(&world).await;
    for (column, count) in [("records", 2 * RECORDS), ("jobs", 2 * RECORDS), ("duplicates", 0)] {
        assert_eq!(total(&world, column).await, count, "{database:?}: {column}");
    }
    join_all([c, d].map(async |scheduler| scheduler.shutdown(DEADLINE).await)).await;
    operations.close().await;
}

async fn await_paused(schedulers: &[&Scheduler], paused: u64) {
    let asked = Instant::now();
    wait_until(DEADLINE, "every instance to notice", async || {
        schedulers.iter().all(|scheduler| scheduler.ingest_metrics().ingest_paused == paused)
    })
    .await;
    assert!(asked.elapsed() < TWO_HEARTBEATS, "noticed after {:?}", asked.elapsed());
}
