//! Where reading starts: at the earliest record, at the group's committed offset, or at the row of
//! the ledger; and what happens if the log is not the one that the row knows.

mod recreated;

use std::collections::BTreeSet;
use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::{KafkaIngestConfig, OnOffsetLost, Scheduler};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sea_orm::{ConnectionTrait, Statement};

use crate::support::kafka::{
    COMPACTED, RawRecord, add_partitions, create_topic, delete_records_before, delete_topic,
    exists, make_again, produce, read_all, unique_topic, watermarks,
};
use crate::support::services::{Database, kafka};
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn without_a_row_reading_starts_at_the_earliest_record() {
    let world = World::new(Database::Sqlite, 1).await;
    write(&world, 0..100).await;
    delete_records_before(&world.topic, 0, 10).await;
    read(&world, world.kafka(), 90).await;
    check_read(&world, 10..100).await;
    assert_eq!(next_offset(&world).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_row_reading_starts_at_the_offset_that_the_group_committed() {
    let world = World::new(Database::Sqlite, 1).await;
    write(&world, 0..100).await;
    commit(&world, 40).await;
    read(&world, world.kafka(), 60).await;
    check_read(&world, 40..100).await;
    assert_eq!(next_offset(&world).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_says_where_to_go_on_whatever_the_group_committed() {
    let world = World::new(Database::Sqlite, 1).await;
    write(&world, 0..50).await;
    read(&world, world.kafka(), 50).await;
    write(&world, 50..80).await;
    read(&world, world.kafka(), 30).await;
    // Behind the row: what was read would be read again.
    commit(&world, 10).await;
    write(&world, 80..120).await;
    read(&world, world.kafka(), 40).await;
    // Before the row: what was not read would be passed over.
    write(&world, 120..140).await;
    commit(&world, 140).await;
    read(&world, world.kafka(), 20).await;
    check_read(&world, 0..140).await;
    assert_eq!(next_offset(&world).await, 140);
    assert_eq!(total(&world, "duplicates").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reader_claims_the_row_by_a_token_of_its_own() {
    let world = World::new(Database::Sqlite, 1).await;
    let mut tokens = BTreeSet::new();
    for reader in 0..3 {
        write(&world, reader..reader + 1).await;
        read(&world, world.kafka(), 1).await;
        tokens.insert(world.database.count("select reader from scheduler_ingest_offset").await);
    }
    assert_eq!(tokens.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gaps_of_a_compacted_topic_are_passed_over_and_all_else_is_read_once() {
    let world = World::new(Database::Sqlite, 1).await;
    let topic = unique_topic("ingest");
    create_topic(&topic, 1, COMPACTED).await;
    let config = KafkaIngestConfig { topics: vec![topic.clone()], ..world.kafka() };
    let mut written = 0;
    // Each round writes every key again: what came before it may go.
    let mut round = async || {
        let records: Vec<_> = (written..written + 20)
            .map(|n| record(n).with_key(format!("key {}", n % 20)))
            .collect();
        written += 20;
        produce(&topic, &records).await.pop().expect("an offset")
    };
    let first = round().await;
    wait_until(DEADLINE, "a gap at the start", async || {
        round().await;
        lacks(&topic, first).await
    })
    .await;

    let scheduler = start(&world, config.clone()).await;
    wait_until(DEADLINE, "all of it", async || at_end(&world, &topic).await).await;
    stop(scheduler).await;
    let stands = next_offset(&world).await;
    assert!(fired(&world).await.len() >= 20);
    check_survivors(&world, &topic, 0).await;

    // The very record that was noted goes, too.
    wait_until(DEADLINE, "a gap where we stand", async || {
        round().await;
        lacks(&topic, stands - 1).await && lacks(&topic, stands).await
    })
    .await;
    let scheduler = start(&world, config).await;
    wait_until(DEADLINE, "the rest of it", async || at_end(&world, &topic).await).await;
    assert_eq!(scheduler.ingest_metrics().offsets_lost, 0);
    stop(scheduler).await;
    check_survivors(&world, &topic, stands).await;
    assert_eq!(total(&world, "duplicates").await, 0);
    assert_eq!(total(&world, "dead_letters").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_took_back_is_passed_over() {
    let world = World::new(Database::Sqlite, 1).await;
    for (numbers, commits) in [(0..20, true), (20..40, false), (40..60, true)] {
        write_in_transaction(&world, numbers, commits).await;
    }
    read(&world, world.kafka(), 40).await;
    check_read(&world, (0..20).chain(40..60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_retention_took_first_are_counted_and_reading_goes_on() {
    let world = World::new(Database::Sqlite, 1).await;
    write(&world, 0..50).await;
    read(&world, world.kafka(), 50).await;
    write(&world, 50..150).await;
    delete_records_before(&world.topic, 0, 120).await;

    let scheduler = start(&world, world.kafka()).await;
    wait_until(DEADLINE, "the rest of it", async || received(&scheduler) == 30).await;
    assert_eq!(scheduler.ingest_metrics().offsets_lost, 70);
    write(&world, 150..170).await;
    wait_until(DEADLINE, "what came later", async || received(&scheduler) == 50).await;
    stop(scheduler).await;
    check_read(&world, (0..50).chain(120..170)).await;
    assert_eq!(next_offset(&world).await, 170);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_retention_took_first_are_counted_though_nothing_is_read_if_so_configured() {
    let world = World::new(Database::Sqlite, 1).await;
    let config = KafkaIngestConfig { on_offset_lost: OnOffsetLost::Stop, ..world.kafka() };
    write(&world, 0..50).await;
    read(&world, config.clone(), 50).await;
    write(&world, 50..150).await;
    delete_records_before(&world.topic, 0, 120).await;

    let scheduler = start(&world, config).await;
    wait_until(DEADLINE, "the complaint", async || {
        let all = scheduler.health().sentences();
        all.iter().any(|complaint| complaint.contains("records 50 to 119 are gone"))
    })
    .await;
    assert_eq!(scheduler.ingest_metrics().offsets_lost, 70);
    stop(scheduler).await;
    check_read(&world, 0..50).await;
    assert_eq!(next_offset(&world).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_request_id_have_the_same_name_each_time_they_are_read() {
    let world = World::new(Database::Sqlite, 1).await;
    let later = SystemClock.now() + Duration::from_secs(3600);
    let later = later.timestamp_millis();
    let unnamed = |n| {
        let value = format!(r#"{{"appName":"sms","scheduledTime":{later},"jobData":{{"n":{n}}}}}"#);
        RawRecord::new(0, value)
    };
    produce(&world.topic, &(0..40).map(unnamed).collect::<Vec<_>>()).await;
    let scheduler = start(&world, world.kafka()).await;
    wait_until(DEADLINE, "the jobs", async || received(&scheduler) == 40).await;
    stop(scheduler).await;
    let names = names(&world).await;
    assert_eq!(names.len(), 40);

    // As after a crash in which the database lost its last commits.
    let back = "update scheduler_ingest_offset set next_offset = 15, last_time_ms = null, last_hash = null";
    world.database.execute(back).await;
    produce(&world.topic, &(40..50).map(unnamed).collect::<Vec<_>>()).await;
    let scheduler = start(&world, world.kafka()).await;
    wait_until(DEADLINE, "the jobs again", async || received(&scheduler) == 35).await;
    assert_eq!(scheduler.ingest_metrics().messages_duplicate, 25);
    assert_eq!(scheduler.ingest_metrics().messages_processed, 10);
    stop(scheduler).await;
    let all = self::names(&world).await;
    assert_eq!(all.len(), 50);
    assert!(names.is_subset(&all));
}

/// Record `n`: request `r-n`, due at once.
fn record(n: usize) -> RawRecord {
    RawRecord::new(0, format!(r#"{{"requestId":"r-{n}","appName":"sms","scheduledTime":0}}"#))
}

async fn write(world: &World, numbers: std::ops::Range<usize>) {
    produce(&world.topic, &numbers.map(record).collect::<Vec<_>>()).await;
}

/// The records are in the log either way.
async fn write_in_transaction(world: &World, numbers: std::ops::Range<usize>, commits: bool) {
    let (topic, records) = (world.topic.clone(), numbers.map(record).collect::<Vec<_>>());
    let write = move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", kafka())
            .set("transactional.id", unique_topic("writer"))
            .create()
            .expect("a producer");
        producer.init_transactions(DEADLINE).expect("a coordinator");
        producer.begin_transaction().expect("a transaction");
        for record in &records {
            let value = record.value.as_deref().expect("a value");
            let record = BaseRecord::<(), [u8]>::to(&topic).partition(0).payload(value);
            producer.send(record).map_err(|(error, _)| error).expect("room");
        }
        producer.flush(DEADLINE).expect("acknowledgements");
        match commits {
            true => producer.commit_transaction(DEADLINE),
            false => producer.abort_transaction(DEADLINE),
        }
        .expect("an end");
    };
    tokio::task::spawn_blocking(write).await.expect("no panic");
}

async fn start(world: &World, config: KafkaIngestConfig) -> Scheduler {
    world.builder().with_kafka_ingest(config).start().await.expect("a start")
}

/// Reads `count` records and stops; more than those would be noticed.
async fn read(world: &World, config: KafkaIngestConfig, count: usize) {
    let scheduler = start(world, config).await;
    wait_until(DEADLINE, "the records", async || received(&scheduler) >= count).await;
    stop(scheduler).await;
}

async fn read_what_was_recreated(world: &World, count: usize) {
    let scheduler = start(world, world.kafka()).await;
    wait_until(DEADLINE, "the new records", async || received(&scheduler) >= count).await;
    assert_eq!(scheduler.ingest_metrics().logs_recreated, 1);
    assert_eq!(scheduler.ingest_metrics().offsets_lost, 0);
    stop(scheduler).await;
}

/// Everything that was admitted fires first.
async fn stop(scheduler: Scheduler) {
    wait_until(DEADLINE, "what is due", async || {
        let app = scheduler.ingest_metrics().apps["sms"].clone();
        app.succeeded == app.fired
    })
    .await;
    scheduler.shutdown(DEADLINE).await;
}

fn received(scheduler: &Scheduler) -> usize {
    scheduler.ingest_metrics().messages_received as usize
}

/// What lag tools or an earlier system would have left behind.
async fn commit(world: &World, offset: i64) {
    let (topic, group) = (world.topic.clone(), world.group.clone());
    wait_until(DEADLINE, "the commit", async || {
        let (topic, group) = (topic.clone(), group.clone());
        let commit = move || {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, 0, Offset::Offset(offset)).expect("a partition");
            plain_consumer(&group).commit(&list, CommitMode::Sync).is_ok()
        };
        tokio::task::spawn_blocking(commit).await.expect("a commit")
    })
    .await;
}

fn plain_consumer(group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", kafka())
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer")
}

/// Whether compaction has removed the record at `offset`.
async fn lacks(topic: &str, offset: i64) -> bool {
    !read_all(topic).await.iter().any(|record| record.offset == offset)
}

async fn at_end(world: &World, topic: &str) -> bool {
    let rows = "select count(*) from scheduler_ingest_offset";
    world.database.count(rows).await == 1
        && next_offset(world).await == watermarks(topic, 0).await.1
}

/// Every record that the compacted log still has from `start` on was read, and none twice.
async fn check_survivors(world: &World, topic: &str, start: i64) {
    let fired = fired(world).await;
    for record in read_all(topic).await.into_iter().filter(|record| record.offset >= start) {
        let id = record.json()["requestId"].as_str().expect("a request id").to_owned();
        assert!(fired.contains(&id), "{id} was not read");
    }
}

/// The requests that were fired, each once.
async fn fired(world: &World) -> BTreeSet<String> {
    let records = read_all(&world.fired).await;
    let id =
        |record: &RawRecord| record.json()["requestId"].as_str().expect("a request id").to_owned();
    let ids: BTreeSet<String> = records.iter().map(id).collect();
    assert_eq!(ids.len(), records.len(), "something was fired twice");
    ids
}

/// These records were read, each once, and no others.
async fn check_read(world: &World, numbers: impl Iterator<Item = usize>) {
    let wanted: BTreeSet<String> = numbers.map(|n| format!("r-{n}")).collect();
    assert_eq!(fired(world).await, wanted);
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
    assert_eq!(total(world, "jobs").await as usize, wanted.len());
    assert_eq!(total(world, "dead_letters").await, 0);
}

async fn next_offset(world: &World) -> i64 {
    total(world, "next_offset").await
}

async fn total(world: &World, column: &str) -> i64 {
    world.database.count(&format!("select sum({column}) from scheduler_ingest_offset")).await
}

/// The request ids of the jobs in the table.
async fn names(world: &World) -> BTreeSet<String> {
    let connection = world.database.connect().await;
    let select = "select request_id from scheduler_job";
    let select = Statement::from_string(connection.get_database_backend(), select);
    let rows = connection.query_all_raw(select).await.expect("the jobs");
    rows.iter().map(|row| row.try_get_by_index(0).expect("a name")).collect()
}
