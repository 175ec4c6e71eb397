//! The database is unavailable: readers wait, with growing intervals, and skip nothing.

use std::time::Duration;

use infinite_scheduler::KafkaIngestConfig;

use super::{DEADLINE, Flow, PARTITIONS};
use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_waited_for_on_mariadb() {
    an_unavailable_database_is_waited_for(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_waited_for_on_mysql() {
    an_unavailable_database_is_waited_for(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_waited_for_on_postgres() {
    an_unavailable_database_is_waited_for(Database::Postgres).await;
}

async fn an_unavailable_database_is_waited_for(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let proxy = Proxy::start(world.database.url()).await;
    let builder = world.builder().database_url(proxy.url(world.database.url()));
    let mut flow = Flow::start(world, builder).await;

    proxy.set_unavailable(true);
    flow.wave().await;
    flow.await_complaint("database", "database unavailable: ").await;
    flow.await_complaint("lease", "nothing is fired").await;
    flow.await_complaint("partition", "cannot be written: database unavailable: ").await;
    flow.wave().await;
    let asked = refusals_within(&proxy, Duration::from_secs(3)).await;
    assert!(asked < MOST_ASKED, "{asked} connections were tried: not all wait longer each time");
    let failed = flow.scheduler.ingest_metrics().messages_failed as usize;
    assert_eq!(failed, super::POISON, "nothing is dead-lettered for an outage");
    proxy.set_unavailable(false);
    flow.finish().await;
}

/// In three seconds: the heartbeat every 600 ms, which keeps its pace, and each reader twice at most
/// by then. A reader that asked every 200 ms would do so fifteen times.
const MOST_ASKED: usize = 15;

/// How many connections the absent server was asked for.
async fn refusals_within(proxy: &Proxy, time: Duration) -> usize {
    let (before, began) = (proxy.refusals(), std::time::Instant::now());
    wait_until(DEADLINE, "some time", async || began.elapsed() >= time).await;
    proxy.refusals() - before
}

/// Records of one wave.
const WAVE: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn records_taken_while_the_database_was_unavailable_are_not_skipped_on_mariadb() {
    records_taken_while_the_database_was_unavailable_are_not_skipped(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_taken_while_the_database_was_unavailable_are_not_skipped_on_mysql() {
    records_taken_while_the_database_was_unavailable_are_not_skipped(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_taken_while_the_database_was_unavailable_are_not_skipped_on_postgres() {
    records_taken_while_the_database_was_unavailable_are_not_skipped(Database::Postgres).await;
}

/// A record of an app that is not registered here needs the database to be checked: the
/// batch that it came in was once dropped with it, and the offset advanced past the hole.
async fn records_taken_while_the_database_was_unavailable_are_not_skipped(database: Database) {
    let world = World::new(database, 1).await;
    let proxy = Proxy::start(world.database.url()).await;
    let kafka = KafkaIngestConfig { max_retries: 0, ..world.kafka() };
    let builder = world.builder().with_kafka_ingest(kafka);
    let builder = builder.database_url(proxy.url(world.database.url()));
    let scheduler = builder.start().await.expect("a start");
    let wave = async |wave: usize| {
        let request = |app: &str, n: usize| {
            let json = format!(
                r#"{{"requestId":"{wave}-{n}","appName":"{app}","scheduledTime":"2025-01-01T00:00:00Z"}}"#
            );
            RawRecord::new(0, json)
        };
        let mut records: Vec<_> = (0..WAVE).map(|n| request("sms", n)).collect();
        records[WAVE / 2] = request(&format!("nobody-{wave}"), WAVE);
        produce(&world.topic, &records).await;
    };
    let fired = |waves: usize| waves * (WAVE - 1);
    let succeeded = || scheduler.ingest_metrics().apps["sms"].succeeded as usize;
    wave(0).await;
    wait_until(DEADLINE, "the first wave", async || succeeded() == fired(1)).await;

    proxy.set_unavailable(true);
    wave(1).await;
    let complains =
        || scheduler.health().sentences().iter().any(|said| said.starts_with("partition"));
    wait_until(DEADLINE, "a reader that complains", async || complains()).await;
    wave(2).await;
    let first_say = scheduler.ingest_metrics().messages_failed;
    assert_eq!(first_say, 1, "nothing is dead-lettered for an outage");
    proxy.set_unavailable(false);

    let read = "select count(*) from scheduler_ingest_offset where next_offset = 150";
    wait_until(DEADLINE, "every record read", async || world.database.count(read).await == 1).await;
    wait_until(DEADLINE, "every job fired", async || {
        world.database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
    wait_until(DEADLINE, "every letter published", async || {
        let waiting = world.database.count("select count(*) from scheduler_outbox").await;
        waiting == 0 && scheduler.ingest_metrics().messages_sent_to_dlq >= 3
    })
    .await;
    scheduler.shutdown(DEADLINE).await;
    assert_eq!(read_all(&world.fired).await.len(), fired(3), "each job fired once");
    let split =
        "select count(*) from scheduler_ingest_offset where jobs = 147 and dead_letters = 3";
    assert_eq!(world.database.count(split).await, 1);
}
