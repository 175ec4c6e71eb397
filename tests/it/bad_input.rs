//! Invalid records on the ingest topic: each becomes one dead letter, unchanged and with a message
//! that helps its producer, and the valid record after it fires.

mod records;
mod too_large;

use std::time::Duration;

use infinite_scheduler::store::{Store, StoreOptions};
use infinite_scheduler::{
    ErrorKind, KafkaIngestConfig, OperationError, ScheduleJobRequest, Scheduler,
};

use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::{LEASE, World};
use records::bad_records;

const DEADLINE: Duration = Duration::from_secs(120);
const DRAIN: Duration = Duration::from_secs(10);

fn good(request_id: &str) -> RawRecord {
    let request = format!(r#"{{"requestId":"{request_id}","appName":"sms","scheduledTime":0}}"#);
    RawRecord::new(0, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_a_dead_letter_and_holds_up_nobody_on_sqlite() {
    every_bad_record_is_a_dead_letter_and_holds_up_nobody(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_a_dead_letter_and_holds_up_nobody_on_mariadb() {
    every_bad_record_is_a_dead_letter_and_holds_up_nobody(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_a_dead_letter_and_holds_up_nobody_on_mysql() {
    every_bad_record_is_a_dead_letter_and_holds_up_nobody(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_a_dead_letter_and_holds_up_nobody_on_postgres() {
    every_bad_record_is_a_dead_letter_and_holds_up_nobody(Database::Postgres).await;
}

/// A reader that panicked, or stopped, would leave the good record behind the bad one
/// unfired: they are all in one partition.
async fn every_bad_record_is_a_dead_letter_and_holds_up_nobody(database: Database) {
    let world = World::new(database, 1).await;
    let bad = bad_records();
    let mut records = Vec::new();
    for (n, bad) in bad.iter().enumerate() {
        records.push(bad.record.clone());
        records.push(good(&format!("good-{n}")));
    }
    // As long as names may be, in characters of four bytes.
    let (id, key) = ("\u{1F600}".repeat(128), "\u{1F511}".repeat(255));
    let longest = format!(
        r#"{{"requestId":"{id}","idempotencyKey":"{key}","appName":"sms","scheduledTime":0}}"#
    );
    records.push(RawRecord::new(0, longest));
    // No record is parked, so that letters are published in the order of their records.
    let kafka = KafkaIngestConfig { max_retries: 0, ..world.kafka() };
    let scheduler = world.builder().with_kafka_ingest(kafka).start().await.expect("a start");
    let offsets = produce(&world.topic, &records).await;
    let count = bad.len() as u64;
    wait_until(DEADLINE, "every good record fired and every bad one published", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["sms"].succeeded > count && metrics.messages_sent_to_dlq >= count
    })
    .await;
    let metrics = scheduler.ingest_metrics();
    assert_eq!(metrics.messages_received, 2 * count + 1);
    assert_eq!((metrics.messages_processed, metrics.messages_failed), (count + 1, count));
    assert_eq!((metrics.messages_duplicate, metrics.messages_retried), (0, 0));
    scheduler.shutdown(DRAIN).await;

    let letters = read_all(&world.dlq).await;
    assert_eq!(letters.len(), bad.len(), "one dead letter for each");
    for (n, (bad, letter)) in bad.iter().zip(&letters).enumerate() {
        bad.check(letter, &world.topic, offsets[2 * n]);
    }
    let fired: Vec<_> = read_all(&world.fired).await.iter().map(RawRecord::json).collect();
    assert_eq!(fired.len(), bad.len() + 1, "each good record fired once");
    assert!(fired.iter().any(|job| job["requestId"] == *id), "and that with the longest name");
    assert!(
        (0..bad.len()).all(|n| fired.iter().any(|job| job["requestId"] == format!("good-{n}")))
    );
    assert_eq!(world.database.count("select count(*) from scheduler_outbox").await, 0);
    assert_eq!(
        world.database.count("select count(*) from scheduler_dead_letter").await,
        count as i64
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_does_not_sink_its_batch_on_sqlite() {
    let refuse = "create trigger refuse before insert on scheduler_job when new.request_id like 'refused%' \
                  begin select raise(abort, 'refused by the test'); end";
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::Sqlite, refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_does_not_sink_its_batch_on_mariadb() {
    let refuse =
        "alter table scheduler_job add constraint refuse check (request_id not like 'refused%')";
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::MariaDb, refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_does_not_sink_its_batch_on_mysql() {
    let refuse =
        "alter table scheduler_job add constraint refuse check (request_id not like 'refused%')";
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::MySql, refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_does_not_sink_its_batch_on_postgres() {
    let refuse =
        "alter table scheduler_job add constraint refuse check (request_id not like 'refused%')";
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::Postgres, refuse).await;
}

/// What a trigger raises may be about the row, or about everything.
const TRIGGER: &str = "create trigger refuse before insert on scheduler_job for each row \
    if new.request_id like 'refused%' then \
    signal sqlstate '45000' set message_text = 'refused by the test'; end if";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_trigger_refuses_does_not_sink_its_batch_on_mariadb() {
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::MariaDb, TRIGGER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_trigger_refuses_does_not_sink_its_batch_on_mysql() {
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::MySql, TRIGGER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_trigger_refuses_does_not_sink_its_batch_on_postgres() {
    let refuse = "create function refuse() returns trigger language plpgsql as $$ begin \
                  if new.request_id like 'refused%' then raise exception 'refused by the test'; \
                  end if; return new; end $$; \
                  create trigger refuse before insert on scheduler_job \
                  for each row execute function refuse()";
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::Postgres, refuse).await;
}

async fn a_row_that_the_database_refuses_does_not_sink_its_batch(database: Database, refuse: &str) {
    const RECORDS: usize = 300;
    let world = World::new(database, 1).await;
    let options =
        StoreOptions { url: world.database.url().into(), max_connections: 2, lease: LEASE };
    let store = Store::connect(&options).await.expect("a database");
    store.migrate().await.expect("tables");
    store.close().await;
    world.database.execute(refuse).await;

    // All there before the reader begins, so that they come in one batch.
    let refused = |n: usize| [0, 137, 138, RECORDS - 1].contains(&n);
    let records: Vec<RawRecord> = (0..RECORDS)
        .map(|n| {
            let name = if refused(n) { "refused" } else { "taken" };
            let request = format!(
                r#"{{"requestId":"{name}-{n}","appName":"sms","scheduledTime":0,"idempotencyKey":"k-{n}"}}"#
            );
            RawRecord::new(0, request)
        })
        .collect();
    produce(&world.topic, &records).await;
    let scheduler = world.builder().start().await.expect("a start");
    wait_until(DEADLINE, "all but the refused fired, and those published", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["sms"].succeeded == RECORDS as u64 - 4 && metrics.messages_sent_to_dlq == 4
    })
    .await;

    let by_api =
        ScheduleJobRequest::builder("sms").request_id("refused-by-api").at("2020-01-01T00:00Z");
    match scheduler.schedule(by_api.build().expect("a request")).await {
        Err(OperationError::Refused(refusal)) => {
            assert_eq!(refusal.kind, ErrorKind::RefusedByDatabase, "{refusal}");
            assert_eq!(refusal.request_id.as_deref(), Some("refused-by-api"));
        }
        other => panic!("{other:?}"),
    }
    scheduler.shutdown(DRAIN).await;

    let fired = read_all(&world.fired).await;
    assert_eq!(fired.len(), RECORDS - 4);
    let letters = read_all(&world.dlq).await;
    let mut buried: Vec<_> = letters.iter().filter_map(|letter| letter.value.clone()).collect();
    buried.sort();
    let mut sent: Vec<_> =
        (0..RECORDS).filter(|n| refused(*n)).filter_map(|n| records[n].value.clone()).collect();
    sent.sort();
    assert!(buried == sent, "the refused ones, unchanged");
    for letter in &letters {
        assert_eq!(letter.header("error-kind"), Some("refused-by-database"));
        let message = letter.header("error-message").expect("a message");
        assert!(message.contains("the database refuses this request: "), "{message}");
        assert!(message.contains("refuse"), "the database's own words: {message}");
        assert!(letter.header("request-id").is_some_and(|id| id.starts_with("refused-")));
    }
    // What is refused leaves nothing behind, its idempotency key neither.
    let keys = world.database.count("select count(*) from scheduler_idempotency_key").await;
    assert_eq!(keys, RECORDS as i64 - 4);
    let ledger = "select count(*) from scheduler_ingest_offset \
                  where next_offset = 300 and jobs = 296 and dead_letters = 4 and duplicates = 0";
    assert_eq!(world.database.count(ledger).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_means_one_job_across_its_end_and_a_restart_on_sqlite() {
    a_key_means_one_job_across_its_end_and_a_restart(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_means_one_job_across_its_end_and_a_restart_on_mariadb() {
    a_key_means_one_job_across_its_end_and_a_restart(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_means_one_job_across_its_end_and_a_restart_on_mysql() {
    a_key_means_one_job_across_its_end_and_a_restart(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_means_one_job_across_its_end_and_a_restart_on_postgres() {
    a_key_means_one_job_across_its_end_and_a_restart(Database::Postgres).await;
}

async fn a_key_means_one_job_across_its_end_and_a_restart(database: Database) {
    let world = World::new(database, 1).await;
    let request = |id: &str, key: Option<&str>, time: &str, data: &str| {
        let key = key.map(|key| format!(r#""idempotencyKey":"{key}","#)).unwrap_or_default();
        let json = format!(
            r#"{{"requestId":"{id}",{key}"appName":"sms","scheduledTime":{time},"jobData":{data}}}"#
        );
        RawRecord::new(0, json)
    };
    let far = r#""2030-01-01T00:00:00Z""#;
    let data = r#"{"to":"1","n":10}"#;
    let first = request("first", Some("k"), "0", data);
    // The same as JSON, and another time alone is no conflict: producers recompute.
    let same = request("second", Some("k"), "5", r#"{ "n": 1e1, "to": "1" }"#);
    let conflict = request("third", Some("k"), "0", r#"{"to":"2","n":10}"#);
    let plain = request("plain", None, "0", data);
    let live = request("live", None, far, data);
    let live_conflict = request("live", None, far, r#"{"to":"3"}"#);

    let mut scheduler = world.builder().start().await.expect("a start");
    produce(&world.topic, std::slice::from_ref(&first)).await;
    await_counts(&scheduler, 1, 0, 0).await;
    // While the job lives or just after, then certainly after its end.
    for round in 0..2 {
        produce(&world.topic, &[first.clone(), same.clone(), conflict.clone()]).await;
        await_counts(&scheduler, 1, 2 * (round + 1), round + 1).await;
    }
    wait_until(DEADLINE, "the end of the job", async || {
        world.database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
    produce(&world.topic, &[first.clone(), same.clone(), conflict.clone()]).await;
    await_counts(&scheduler, 1, 6, 3).await;
    scheduler.shutdown(DRAIN).await;

    scheduler = world.builder().start().await.expect("a second start");
    produce(&world.topic, &[same, conflict.clone(), first]).await;
    await_counts(&scheduler, 0, 2, 1).await;

    // Without a key a name is taken only as long as its job lives.
    produce(&world.topic, &[live.clone(), live, live_conflict.clone()]).await;
    await_counts(&scheduler, 1, 3, 2).await;
    for again in 1..=2 {
        produce(&world.topic, std::slice::from_ref(&plain)).await;
        await_counts(&scheduler, 1 + again, 3, 2).await;
        wait_until(DEADLINE, "the end of the plain job", async || {
            world.database.count("select count(*) from scheduler_job").await == 1
        })
        .await;
    }
    wait_until(DEADLINE, "the letters published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 2
    })
    .await;
    scheduler.shutdown(DRAIN).await;

    let fired: Vec<_> = read_all(&world.fired).await.iter().map(RawRecord::json).collect();
    let count = |id: &str| fired.iter().filter(|job| job["requestId"] == id).count();
    assert_eq!((fired.len(), count("first"), count("plain")), (3, 1, 2));
    let letters = read_all(&world.dlq).await;
    let (conflicts, others): (Vec<_>, Vec<_>) = letters
        .iter()
        .partition(|letter| letter.header("error-kind") == Some("idempotency-conflict"));
    assert_eq!((conflicts.len(), others.len()), (4, 1));
    for letter in conflicts {
        assert_eq!(letter.value, conflict.value);
        assert_eq!(letter.header("request-id"), Some("third"));
        let message = letter.header("error-message").expect("a message");
        for said in
            ["idempotencyKey \"k\"", "request \"first\"", "other jobData", "use another key"]
        {
            assert!(message.contains(said), "{said} in {message}");
        }
    }
    assert_eq!(others[0].value, live_conflict.value);
    assert_eq!(others[0].header("error-kind"), Some("request-conflict"));
    let message = others[0].header("error-message").expect("a message");
    assert!(message.contains("\"live\"") && message.contains("other jobData"), "{message}");
}

async fn await_counts(scheduler: &Scheduler, jobs: u64, duplicates: u64, dead: u64) {
    let what = format!("{jobs} jobs, {duplicates} duplicates and {dead} dead letters");
    wait_until(DEADLINE, &what, async || {
        let metrics = scheduler.ingest_metrics();
        (metrics.messages_processed, metrics.messages_duplicate, metrics.messages_failed)
            == (jobs, duplicates, dead)
    })
    .await;
}
