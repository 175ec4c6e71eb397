//! Records and letters of the maximum size of a topic, and larger ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use infinite_scheduler::{AppConfig, JobContext, handler_fn};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;

use super::{DEADLINE, DRAIN, good};
use crate::support::kafka::{RawRecord, produce, read_all, set_topic};
use crate::support::process::Instance;
use crate::support::services::{Database, kafka};
use crate::support::wait_until;
use crate::support::world::{OUTBOX_SCAN, World};

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_is_a_job_or_a_letter_that_waits_for_room_on_sqlite() {
    the_largest_record_is_a_job_or_a_letter_that_waits_for_room(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_is_a_job_or_a_letter_that_waits_for_room_on_mariadb() {
    the_largest_record_is_a_job_or_a_letter_that_waits_for_room(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "left to `tests/run matrix`"]
async fn the_largest_record_is_a_job_or_a_letter_that_waits_for_room_on_mysql() {
    the_largest_record_is_a_job_or_a_letter_that_waits_for_room(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_is_a_job_or_a_letter_that_waits_for_room_on_postgres() {
    the_largest_record_is_a_job_or_a_letter_that_waits_for_room(Database::Postgres).await;
}

/// A dead letter has more headers than its record, so the DLQ topic refuses that of the
/// largest: it waits in the outbox, and all others pass it.
async fn the_largest_record_is_a_job_or_a_letter_that_waits_for_room(database: Database) {
    let world = World::new(database, 1).await;
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let sizes = seen.clone();
    let handler = handler_fn(move |context: JobContext, data: Value| {
        let whole = data["text"].as_str().is_some_and(|text| text.bytes().all(|b| b == b'x'));
        let size = context.job().data.as_str().len();
        sizes.lock().expect("a lock").push(if whole { size } else { 0 });
        async { Ok(()) }
    });
    let builder = world
        .builder()
        .register_app(AppConfig::new("big"), handler)
        .outbox_scan_interval(OUTBOX_SCAN);
    let scheduler = builder.start().await.expect("a start");

    let (head, tail) = (r#"{"requestId":"big","appName":"big","scheduledTime":0,"jobData":"#, "}");
    let data = |size: usize| format!(r#"{{"text":"{}"}}"#, "x".repeat(size - 11));
    let largest = produce_largest(&world.topic, |size| {
        [head, &data(size - head.len() - tail.len()), tail].concat().into_bytes()
    })
    .await;
    assert!(largest.len() > 1_000_000, "{} bytes", largest.len());
    let poison = produce_largest(&world.topic, |size| vec![b'?'; size]).await;
    let small = RawRecord::new(0, "small poison");
    produce(&world.topic, &[small.clone(), good("behind")]).await;

    wait_until(DEADLINE, "the jobs fired, and the small letter published", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["big"].succeeded == 1
            && metrics.apps["sms"].succeeded == 1
            && metrics.messages_sent_to_dlq == 1
    })
    .await;
    assert_eq!(*seen.lock().expect("a lock"), [largest.len() - head.len() - tail.len()]);
    assert_eq!(scheduler.ingest_metrics().messages_failed, 2);
    assert_eq!(world.database.count("select count(*) from scheduler_outbox").await, 1);
    let health = scheduler.health();
    assert!(health.ready, "one letter that waits is nobody's outage");
    let said = health.sentences();
    assert!(said.len() == 1 && said[0].contains("raise max.message.bytes"), "{said:?}");

    make_room(&world.dlq).await;
    wait_until(DEADLINE, "the large letter published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 2
    })
    .await;
    wait_until(DEADLINE, "an end of the complaint", async || {
        scheduler.health().sentences().is_empty()
    })
    .await;
    scheduler.shutdown(DRAIN).await;
    let letters = read_all(&world.dlq).await;
    let values: Vec<_> = letters.iter().map(|letter| letter.value.as_deref()).collect();
    assert!(values == [small.value.as_deref(), Some(&*poison)]);
    assert!(letters.iter().all(|letter| letter.header("error-kind") == Some("invalid-json")));
    assert_eq!(world.database.count("select count(*) from scheduler_outbox").await, 0);
}

/// More letters than one round meets, none of which the topic takes: those behind them must get
/// past all of them.
#[tokio::test(flavor = "multi_thread")]
async fn many_letters_that_are_too_large_do_not_hold_up_the_others() {
    let world = World::new(Database::Sqlite, 1).await;
    set_topic(&world.dlq, "max.message.bytes", "2000").await;
    let large = RawRecord::new(0, "?".repeat(3000));
    let mut records = vec![large; 620];
    records.push(RawRecord::new(0, "small poison"));
    let scheduler =
        world.builder().outbox_scan_interval(OUTBOX_SCAN).start().await.expect("a start");
    produce(&world.topic, &records).await;
    wait_until(DEADLINE, "the small letter published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 1
    })
    .await;
    assert_eq!(world.database.count("select count(*) from scheduler_outbox").await, 620);
    make_room(&world.dlq).await;
    wait_until(DEADLINE, "all letters published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 621
    })
    .await;
    scheduler.shutdown(DRAIN).await;
    assert_eq!(read_all(&world.dlq).await.len(), 621);
}

/// A broker measures batches: in company a job may be too large for a topic that takes it
/// alone. That is no fault of the job's.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_refused_for_the_company_that_it_is_sent_in() {
    const JOBS: usize = 500;
    let world = World::new(Database::Sqlite, 1).await;
    set_topic(&world.fired, "max.message.bytes", "4000").await;
    let scheduler =
        world.builder().outbox_scan_interval(OUTBOX_SCAN).start().await.expect("a start");
    let due = chrono::DateTime::<chrono::Utc>::from(SystemTime::now()).timestamp_millis() + 3000;
    let text = "x".repeat(500);
    let records: Vec<_> = (0..JOBS)
        .map(|n| {
            let request = format!(
                r#"{{"requestId":"r-{n}","appName":"sms","scheduledTime":{due},"jobData":{{"text":"{text}"}}}}"#
            );
            RawRecord::new(0, request)
        })
        .collect();
    produce(&world.topic, &records).await;
    wait_until(DEADLINE, "an end of every job", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["sms"].succeeded + metrics.apps["sms"].dead == JOBS as u64
    })
    .await;
    assert_eq!(scheduler.ingest_metrics().apps["sms"].dead, 0);
    scheduler.shutdown(DRAIN).await;
    let names: BTreeSet<_> =
        read_all(&world.fired).await.into_iter().filter_map(|job| job.key).collect();
    assert_eq!(names.len(), JOBS);
}

/// No server takes more than a gigabyte in one packet.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_less_at_once_than_the_largest_record_is_reported_at_the_start() {
    let world = World::new(Database::MariaDb, 1).await;
    let limits = "\n[ingest]\nmax_record_bytes = 1073741824\nmax_batch_bytes = 1073741824\n";
    let instance = Instance::start(&(world.config() + limits)).await;
    let health = reqwest::get(instance.url("/health/ready")).await.expect("an answer");
    let health = health.text().await.expect("a text");
    for said in ["max_allowed_packet", "1073741824", "lower ingest.max_record_bytes"] {
        assert!(health.contains(said), "{said} in {health}");
    }
}

/// Sends the largest value that the broker takes, and gives it back.
async fn produce_largest(topic: &str, value: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka())
        .set("message.max.bytes", "10000000")
        .create()
        .expect("a producer");
    // Kafka's default for a batch; what it needs for itself is less than the steps below.
    for size in (1_048_400..=1_048_588).rev() {
        let value = value(size);
        let record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(topic).partition(0).payload(&value);
        match producer.send(record, DEADLINE).await {
            Ok(_) => return value,
            Err((error, _)) => {
                let code = error.rdkafka_error_code();
                assert_eq!(code, Some(RDKafkaErrorCode::MessageSizeTooLarge), "{error}");
            }
        }
    }
    panic!("the broker takes nothing of about a megabyte");
}

async fn make_room(topic: &str) {
    set_topic(topic, "max.message.bytes", "2000000").await;
}
