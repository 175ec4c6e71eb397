//! A DLQ topic that refuses letters: they stay rows, and are published when it accepts them.

use std::time::Duration;

use infinite_scheduler::Scheduler;

use crate::support::kafka::{RawRecord, create_topic, delete_topic, produce, read_all, set_topic};
use crate::support::services::Database;
use crate::support::world::{OUTBOX_SCAN, World};
use crate::support::{wait_for, wait_until};

const DEADLINE: Duration = Duration::from_secs(180);
const DRAIN: Duration = Duration::from_secs(10);
const WAITING: &str = "select count(*) from scheduler_outbox";
const LETTERS: &str = "select count(*) from scheduler_dead_letter";

#[tokio::test(flavor = "multi_thread")]
async fn letters_wait_for_a_dlq_topic_that_was_deleted_on_sqlite() {
    letters_wait_for_a_dlq_topic_that_was_deleted(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_wait_for_a_dlq_topic_that_was_deleted_on_mariadb() {
    letters_wait_for_a_dlq_topic_that_was_deleted(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "left to `tests/run matrix`"]
async fn letters_wait_for_a_dlq_topic_that_was_deleted_on_mysql() {
    letters_wait_for_a_dlq_topic_that_was_deleted(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_wait_for_a_dlq_topic_that_was_deleted_on_postgres() {
    letters_wait_for_a_dlq_topic_that_was_deleted(Database::Postgres).await;
}

/// Deleted while letters go there, and recreated: neither are letters lost nor do jobs wait.
async fn letters_wait_for_a_dlq_topic_that_was_deleted(database: Database) {
    const LATER: u64 = 300;
    let world = World::new(database, 1).await;
    let scheduler = start(&world).await;
    produce(&world.topic, &[poison("before"), good("r-0")]).await;
    published(&scheduler, 1).await;

    delete_topic(&world.dlq).await;
    let mut records: Vec<_> = (0..LATER).map(|n| poison(&format!("after {n}"))).collect();
    records.push(good("r-1"));
    produce(&world.topic, &records).await;
    wait_until(DEADLINE, "the job behind them fired", async || {
        scheduler.ingest_metrics().apps["sms"].succeeded == 2
    })
    .await;
    let missing = format!("topic {} does not exist", world.dlq);
    let said = complaint(&scheduler, &missing).await;
    assert!(said.contains("create it"), "{said}");
    assert_eq!(world.database.count(WAITING).await, LATER as i64);
    assert_eq!(world.database.count(LETTERS).await, LATER as i64 + 1);
    let metrics = scheduler.ingest_metrics();
    assert_eq!(metrics.messages_sent_to_dlq, 1);
    let not_published = metrics.letters_not_published;
    assert!((1..=LATER).contains(&not_published), "letters, not tries: {not_published}");

    create_topic(&world.dlq, 1, &[]).await;
    published(&scheduler, LATER + 1).await;
    is_well(&scheduler).await;
    assert_eq!(world.database.count(WAITING).await, 0);
    scheduler.shutdown(DRAIN).await;
    check_published(&world, &records[..LATER as usize]).await;
    assert_eq!(read_all(&world.fired).await.len(), 2);
}

/// The topic is missing from the start, and the process that met the poison is not the one that
/// sees the topic made.
#[tokio::test(flavor = "multi_thread")]
async fn letters_wait_for_a_dlq_topic_across_a_restart() {
    let world = World::new(Database::Sqlite, 1).await;
    delete_topic(&world.dlq).await;
    let records = [poison("one"), good("r-0"), poison("two")];
    let first = start(&world).await;
    produce(&world.topic, &records).await;
    wait_until(DEADLINE, "the letters' rows, and the job fired", async || {
        let metrics = first.ingest_metrics();
        metrics.messages_failed == 2 && metrics.apps["sms"].succeeded == 1
    })
    .await;
    first.shutdown(DRAIN).await;
    assert_eq!(world.database.count(WAITING).await, 2);

    let second = start(&world).await;
    complaint(&second, &world.dlq).await;
    create_topic(&world.dlq, 1, &[]).await;
    published(&second, 2).await;
    is_well(&second).await;
    second.shutdown(DRAIN).await;
    assert_eq!(world.database.count(WAITING).await, 0);
    check_published(&world, &[records[0].clone(), records[2].clone()]).await;
}

/// While the topic is missing nothing is known of a letter that is too large for it: that
/// shows when it is back, and no other letter waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_too_small_takes_what_it_can_and_the_rest_when_it_is_enlarged() {
    let world = World::new(Database::Sqlite, 1).await;
    let scheduler = start(&world).await;
    produce(&world.topic, &[poison("before")]).await;
    published(&scheduler, 1).await;
    delete_topic(&world.dlq).await;
    let large = poison(&"?".repeat(3000));
    produce(&world.topic, &[large.clone(), poison("small"), good("r-0")]).await;
    wait_until(DEADLINE, "the letters' rows", async || {
        scheduler.ingest_metrics().messages_failed == 3
    })
    .await;
    complaint(&scheduler, &world.dlq).await;

    create_topic(&world.dlq, 1, &[("max.message.bytes", "2000")]).await;
    published(&scheduler, 2).await;
    let said = complaint(&scheduler, "1 dead letters stay in the database").await;
    assert!(said.contains("raise max.message.bytes of the topic"), "{said}");
    assert_eq!(world.database.count(WAITING).await, 1);
    assert_eq!(scheduler.ingest_metrics().apps["sms"].succeeded, 1);
    scheduler.shutdown(DRAIN).await;

    // Its row is found by the next instance.
    let scheduler = start(&world).await;
    produce(&world.topic, &[poison("last")]).await;
    published(&scheduler, 1).await;
    assert_eq!(world.database.count(WAITING).await, 1);
    complaint(&scheduler, "raise max.message.bytes of the topic").await;
    set_topic(&world.dlq, "max.message.bytes", "100000").await;
    published(&scheduler, 2).await;
    assert_eq!(world.database.count(WAITING).await, 0);
    scheduler.shutdown(DRAIN).await;
    check_published(&world, &[poison("small"), poison("last"), large]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_dlq_topic_takes_what_has_a_key_on_sqlite() {
    a_compacted_dlq_topic_takes_what_has_a_key(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_dlq_topic_takes_what_has_a_key_on_mariadb() {
    a_compacted_dlq_topic_takes_what_has_a_key(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_dlq_topic_takes_what_has_a_key_on_postgres() {
    a_compacted_dlq_topic_takes_what_has_a_key(Database::Postgres).await;
}

/// Letters without a key wait, are counted once each and hold up none of the others, although
/// a broker refuses whole batches; and they are published when the topic takes them.
async fn a_compacted_dlq_topic_takes_what_has_a_key(database: Database) {
    const KEYED: u64 = 120;
    const KEYLESS: u64 = 40;
    let world = World::new(database, 1).await;
    set_topic(&world.dlq, "cleanup.policy", "compact").await;
    let scheduler = start(&world).await;
    let said = complaint(&scheduler, &format!("topic {}", world.dlq)).await;
    assert!(said.contains("set its cleanup.policy to delete"), "{said}");
    let record = |n| {
        let record = poison(&format!("record {n}"));
        if n % 4 == 0 { record } else { record.with_key(format!("key {n}")) }
    };
    let records: Vec<_> = (0..KEYED + KEYLESS).map(record).collect();
    produce(&world.topic, &records).await;
    published(&scheduler, KEYED).await;
    let said = complaint(&scheduler, "40 dead letters stay in the database").await;
    assert!(said.contains("it has no key"), "{said}");
    assert_eq!(scheduler.ingest_metrics().letters_not_published, KEYLESS);
    assert_eq!(world.database.count(WAITING).await, KEYLESS as i64);
    assert!(scheduler.health().ready);

    set_topic(&world.dlq, "cleanup.policy", "delete").await;
    published(&scheduler, KEYED + KEYLESS).await;
    is_well(&scheduler).await;
    assert_eq!(scheduler.ingest_metrics().letters_not_published, KEYLESS, "letters, not tries");
    assert_eq!(world.database.count(WAITING).await, 0);
    scheduler.shutdown(DRAIN).await;
    check_published(&world, &records).await;
}

/// Letters and fired jobs wait for a topic that does not take the time that they have: it is
/// the clock's fault and none of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_refuses_our_clock_costs_no_attempt_and_no_letter() {
    const JOBS: usize = 20;
    let world = World::new(Database::Sqlite, 1).await;
    // Every record has a time of some milliseconds ago when the broker sees it.
    for topic in [&world.fired, &world.dlq] {
        set_topic(topic, "message.timestamp.before.max.ms", "0").await;
    }
    let scheduler = start(&world).await;
    let mut records: Vec<_> = (0..JOBS).map(|n| good(&format!("r-{n}"))).collect();
    records.push(poison("not JSON"));
    produce(&world.topic, &records).await;
    for subject in [format!("topic {}", world.fired), "dead letters".to_owned()] {
        let said = complaint(&scheduler, &format!("{subject}: ")).await;
        assert!(said.contains("compare this machine's clock with the broker's"), "{said}");
    }
    assert!(scheduler.health().ready);
    let metrics = scheduler.ingest_metrics();
    assert_eq!((metrics.apps["sms"].dead, metrics.apps["sms"].failed), (0, 0));
    let attempts = "select count(*) from scheduler_job where attempts > 0";
    assert_eq!(world.database.count(attempts).await, 0);
    assert_eq!(world.database.count(LETTERS).await, 1, "the poison's");

    for topic in [&world.fired, &world.dlq] {
        set_topic(topic, "message.timestamp.before.max.ms", "3600000").await;
    }
    wait_until(DEADLINE, "all jobs", async || {
        scheduler.ingest_metrics().apps["sms"].succeeded == JOBS as u64
    })
    .await;
    published(&scheduler, 1).await;
    is_well(&scheduler).await;
    assert_eq!(scheduler.ingest_metrics().apps["sms"].dead, 0);
    scheduler.shutdown(DRAIN).await;
    let fired = read_all(&world.fired).await;
    assert!(fired.iter().all(|record| record.header("attempt") == Some("1")));
}

/// With `ensure_topics = false`: missing topics are created by others.
async fn start(world: &World) -> Scheduler {
    let builder = world.builder().with_kafka_ingest(world.kafka_without_topics());
    builder.outbox_scan_interval(OUTBOX_SCAN).start().await.expect("a start")
}

fn poison(value: &str) -> RawRecord {
    RawRecord::new(0, value)
}

fn good(id: &str) -> RawRecord {
    let request = format!(r#"{{"requestId":"{id}","appName":"sms","scheduledTime":0}}"#);
    RawRecord::new(0, request)
}

async fn published(scheduler: &Scheduler, letters: u64) {
    wait_until(DEADLINE, &format!("{letters} letters published"), async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == letters
    })
    .await;
}

async fn complaint(scheduler: &Scheduler, says: &str) -> String {
    wait_for(DEADLINE, &format!("a complaint that says {says:?}"), async || {
        scheduler.health().sentences().into_iter().find(|complaint| complaint.contains(says))
    })
    .await
}

async fn is_well(scheduler: &Scheduler) {
    wait_until(DEADLINE, "an end of the complaints", async || {
        scheduler.health().sentences().is_empty()
    })
    .await;
}

/// What is on the topic is `expected`, each once; one that failed to be sent may come later than
/// those behind it.
async fn check_published(world: &World, expected: &[RawRecord]) {
    let letters = read_all(&world.dlq).await;
    let values = |records: &[RawRecord]| -> Vec<String> {
        let value = |record: &RawRecord| record.value.clone().unwrap_or_default();
        let text = |record| String::from_utf8_lossy(&value(record)).into_owned();
        let mut values: Vec<_> = records.iter().map(text).collect();
        values.sort();
        values
    };
    assert_eq!(values(&letters), values(expected));
}
