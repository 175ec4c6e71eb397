//! Records whose failure may be temporary: parked while the partition is read on, tried again, and
//! admitted or dead-lettered once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::model::ids::JobId;
use infinite_scheduler::store::{Admitted, Decision, Entry};
use infinite_scheduler::{
    AppConfig, JobContext, JobData, JobError, JobHandler, JobSchema, KafkaIngestConfig, Rejection,
    RequestStatus, Scheduler,
};
use serde_json::json;

use crate::support::fixture::{Fixture, store};
use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);

fn record(app: &str, id: &str) -> RawRecord {
    let json = format!(
        r#"{{"requestId":"{id}","appName":"{app}","scheduledTime":0,"jobData":{{"id":"{id}"}}}}"#
    );
    RawRecord::new(0, json)
}

/// Retries enough for a test to do something meanwhile: over a minute of them.
fn patient(world: &World) -> KafkaIngestConfig {
    KafkaIngestConfig { max_retries: 10, ..world.kafka() }
}

/// records = jobs + duplicates + operations + dead letters + parked, by partition.
async fn totals_add_up(database: &TestDatabase) {
    let off = "select count(*) from scheduler_ingest_offset \
               where records <> jobs + duplicates + operations + dead_letters + parked";
    assert_eq!(database.count(off).await, 0, "the ledger's totals add up");
}

async fn parked_rows(database: &TestDatabase) -> i64 {
    database.count("select count(*) from scheduler_dead_letter where state = 1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_nobody_registers_is_a_dead_letter_after_its_tries_on_sqlite() {
    an_app_that_nobody_registers_is_a_dead_letter_after_its_tries(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_nobody_registers_is_a_dead_letter_after_its_tries_on_mariadb() {
    an_app_that_nobody_registers_is_a_dead_letter_after_its_tries(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_nobody_registers_is_a_dead_letter_after_its_tries_on_mysql() {
    an_app_that_nobody_registers_is_a_dead_letter_after_its_tries(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_nobody_registers_is_a_dead_letter_after_its_tries_on_postgres() {
    an_app_that_nobody_registers_is_a_dead_letter_after_its_tries(Database::Postgres).await;
}

/// The partition does not wait: what is behind the record fires while it is still parked.
async fn an_app_that_nobody_registers_is_a_dead_letter_after_its_tries(database: Database) {
    let world = World::new(database, 1).await;
    let scheduler = world.builder().start().await.expect("a start");
    let began_ms = SystemClock.now_ms();
    let mut records = vec![record("nobody", "lost")];
    records.extend((0..20).map(|n| record("sms", &format!("good-{n}"))));
    produce(&world.topic, &records).await;
    wait_until(DEADLINE, "the letter on the DLQ topic", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 1
    })
    .await;
    let metrics = scheduler.ingest_metrics();
    assert_eq!((metrics.messages_parked, metrics.messages_retried), (1, 3));
    assert_eq!((metrics.messages_received, metrics.messages_failed), (21, 1));
    let status = scheduler.request("nobody", "lost").await.expect("an answer");
    assert!(
        matches!(&status, RequestStatus::Rejected { kind, .. } if kind == "unknown-app"),
        "{status:?}"
    );
    wait_until(DEADLINE, "every good job fired", async || {
        scheduler.ingest_metrics().apps["sms"].succeeded == 20
    })
    .await;
    scheduler.shutdown(DRAIN).await;

    let letters = read_all(&world.dlq).await;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!(letter.value, records[0].value);
    assert_eq!(letter.header("error-kind"), Some("unknown-app"));
    assert_eq!(letter.header("attempts"), Some("4"), "the first and max_retries more");
    assert_eq!(letter.header("original-offset"), Some("0"));
    assert_eq!(letter.header("request-id"), Some("lost"));
    // 200, 400 and 800 ms, less a quarter at most by jitter.
    let died_ms: i64 = letter.header("error-timestamp").expect("a time").parse().expect("ms");
    assert!(died_ms - began_ms >= 1050, "after {} ms", died_ms - began_ms);
    let fired_ms = read_all(&world.fired).await.iter().map(|r| r.timestamp_ms).min();
    assert!(fired_ms < Some(died_ms), "the partition did not wait");
    totals_add_up(&world.database).await;
    let totals = "select count(*) from scheduler_ingest_offset where records = 21 and jobs = 20 \
                  and dead_letters = 1 and parked = 0";
    assert_eq!(world.database.count(totals).await, 1);
    assert_eq!(world.database.count("select count(*) from scheduler_outbox").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_retries_it_is_a_dead_letter_at_once() {
    let world = World::new(Database::Sqlite, 1).await;
    let kafka = KafkaIngestConfig { max_retries: 0, ..world.kafka() };
    let scheduler = world.builder().with_kafka_ingest(kafka).start().await.expect("a start");
    produce(&world.topic, &[record("nobody", "lost")]).await;
    wait_until(DEADLINE, "the letter on the DLQ topic", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 1
    })
    .await;
    assert_eq!(scheduler.ingest_metrics().messages_parked, 0);
    scheduler.shutdown(DRAIN).await;
    assert_eq!(read_all(&world.dlq).await[0].header("attempts"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_records_survive_a_restart_and_their_jobs_wait_for_their_app() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let builder = || world.builder().with_kafka_ingest(patient(&world));
        let scheduler = builder().start().await.expect("a start");
        let records: Vec<_> = (0..30).map(|n| record("late", &format!("late-{n}"))).collect();
        produce(&world.topic, &records).await;
        wait_until(DEADLINE, "all parked", async || parked_rows(&world.database).await == 30).await;
        let status = scheduler.request("late", "late-7").await.expect("an answer");
        assert!(matches!(status, RequestStatus::Parked { .. }), "{database:?}: {status:?}");
        totals_add_up(&world.database).await;
        scheduler.shutdown(DRAIN).await;

        // Registered by an instance that has ended: known by its row.
        let store = store(&world.database).await;
        let app = AppConfig::new("late").required_fields(["id"]);
        store.register_app(&app, 0).await.expect("a row");
        store.close().await;
        let scheduler = builder().start().await.expect("a start");
        wait_until(DEADLINE, "all admitted", async || parked_rows(&world.database).await == 0)
            .await;
        let jobs = "select count(*) from scheduler_job";
        assert_eq!(world.database.count(jobs).await, 30, "{database:?}: nobody fires them yet");
        let status = scheduler.request("late", "late-7").await.expect("an answer");
        assert!(matches!(status, RequestStatus::Accepted { .. }), "{database:?}: {status:?}");
        scheduler.shutdown(DRAIN).await;

        let builder = builder().register_app_on_topic(app, &world.fired);
        let scheduler = builder.start().await.expect("a start");
        wait_until(DEADLINE, "all fired", async || world.database.count(jobs).await == 0).await;
        scheduler.shutdown(DRAIN).await;
        let mut fired: Vec<_> = read_all(&world.fired).await.into_iter().map(|r| r.key).collect();
        fired.sort();
        fired.dedup();
        assert_eq!(fired.len(), 30, "{database:?}");
        assert_eq!(read_all(&world.fired).await.len(), 30, "{database:?}: each once");
        totals_add_up(&world.database).await;
        let totals = "select count(*) from scheduler_ingest_offset where jobs = 30 and parked = 0";
        assert_eq!(world.database.count(totals).await, 1, "{database:?}");
    }
}

/// Accepts a job when the test allows it.
#[derive(Debug, Default)]
struct Moody {
    ready: AtomicBool,
}

impl JobHandler for Moody {
    async fn execute(&self, _: &JobContext) -> Result<(), JobError> {
        Ok(())
    }

    fn validate(&self, _: &JobData) -> Result<(), Rejection> {
        match self.ready.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(Rejection::NotYet("the templates are not loaded".into())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_does_not_take_yet_waits_and_is_taken_later() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let handler = Arc::new(Moody::default());
        let builder = world.builder_without_apps().with_kafka_ingest(patient(&world));
        let builder = builder.register_app(AppConfig::new("mail"), handler.clone());
        let scheduler = builder.start().await.expect("a start");
        produce(&world.topic, &[record("mail", "m-1"), record("mail", "m-2")]).await;
        wait_until(DEADLINE, "a retry", async || scheduler.ingest_metrics().messages_retried > 2)
            .await;
        assert_eq!(parked_rows(&world.database).await, 2, "{database:?}");
        let status = scheduler.request("mail", "m-1").await.expect("an answer");
        assert!(
            matches!(&status, RequestStatus::Parked { message } if message.contains("templates")),
            "{database:?}: {status:?}"
        );
        handler.ready.store(true, Ordering::Release);
        wait_until(DEADLINE, "both fired", async || {
            scheduler.ingest_metrics().apps["mail"].succeeded == 2
        })
        .await;
        assert_eq!(scheduler.ingest_metrics().messages_failed, 0, "{database:?}");
        scheduler.shutdown(DRAIN).await;
        assert_eq!(world.database.count("select count(*) from scheduler_dead_letter").await, 0);
        totals_add_up(&world.database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_never_takes_is_a_dead_letter_that_says_why() {
    let world = World::new(Database::Postgres, 1).await;
    let builder = world.builder_without_apps();
    let builder = builder.register_app(AppConfig::new("mail"), Moody::default());
    let scheduler = builder.start().await.expect("a start");
    produce(&world.topic, &[record("mail", "m-1")]).await;
    wait_until(DEADLINE, "the letter on the DLQ topic", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 1
    })
    .await;
    scheduler.shutdown(DRAIN).await;
    let letter = &read_all(&world.dlq).await[0];
    assert_eq!(letter.header("error-kind"), Some("refused-by-app"));
    assert_eq!(letter.header("attempts"), Some("4"));
    assert!(letter.header("error-message").expect("words").contains("templates"));
}

/// Any instance checks by the app's row, also one that does not have the app.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_known_by_its_row_and_its_schema_holds_everywhere() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let schema = json!({
            "type": "object",
            "properties": {"id": {"type": "string", "pattern": "^good"}},
        });
        let schema = JobSchema::new(schema).expect("a schema");
        let app = AppConfig::new("strict").schema(schema).required_fields(["id"]);
        let scheduler = world.builder().start().await.expect("a start");
        let store = store(&world.database).await;
        store.register_app(&app, 0).await.expect("a row");
        store.close().await;
        produce(&world.topic, &[record("strict", "bad-1"), record("strict", "good-1")]).await;
        wait_until(DEADLINE, "the letter on the DLQ topic", async || {
            scheduler.ingest_metrics().messages_sent_to_dlq == 1
        })
        .await;
        wait_until(DEADLINE, "the job", async || {
            scheduler.ingest_metrics().messages_processed == 1
        })
        .await;
        scheduler.shutdown(DRAIN).await;
        let letter = &read_all(&world.dlq).await[0];
        assert_eq!(letter.header("error-kind"), Some("refused-by-app"), "{database:?}");
        let message = letter.header("error-message").expect("words");
        assert!(message.contains("jobData.id") && message.contains("bad-1"), "{message}");
    }
}

/// An instance that registers an app writes its row first: until it has a shard there is no place for
/// its jobs.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_without_shards_is_not_there_yet() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let builder = || world.builder().with_kafka_ingest(patient(&world));
        let scheduler = builder().start().await.expect("a start");
        let store = store(&world.database).await;
        let app = store.register_app(&AppConfig::new("late"), 0).await.expect("a row").id;
        store.close().await;
        world.database.execute(&format!("delete from scheduler_shard where app = {app}")).await;
        produce(&world.topic, &[record("late", "one")]).await;
        wait_until(DEADLINE, "a parked record", async || parked_rows(&world.database).await == 1)
            .await;
        let answer = infinite_scheduler::ScheduleJobRequest::builder("late").at("2035-01-01T00:00");
        let answer = scheduler.schedule(answer.build().expect("a request")).await;
        assert!(answer.is_err(), "{database:?}: {answer:?}");
        assert_eq!(
            world.database.count("select count(*) from scheduler_job").await,
            0,
            "{database:?}"
        );
        scheduler.shutdown(DRAIN).await;

        let builder = builder().register_app_on_topic(AppConfig::new("late"), &world.fired);
        let scheduler = builder.start().await.expect("a start");
        wait_until(DEADLINE, "the job fired", async || {
            scheduler.ingest_metrics().apps["late"].succeeded == 1
        })
        .await;
        scheduler.shutdown(DRAIN).await;
        totals_add_up(&world.database).await;
    }
}

/// Two instances that both have read the row, as after a takeover: one decides it.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_record_is_decided_once() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = Fixture::new(&database).await;
        let waits = fixture.admit(fixture.records(0), fixture.wait(1)).await;
        assert_eq!(waits, Admitted::Done(vec![Decision::Waits]), "{backend:?}");
        let rows = fixture.store.parked(&[fixture.ledger.id], 10).await.expect("rows");
        assert_eq!((rows.len(), rows[0].due_ms, rows[0].attempts), (1, 9, 1), "{backend:?}");
        assert_eq!(rows[0].record, *fixture.record, "{backend:?}: it comes back as it was");

        let again = fixture.admit(fixture.parked(1), fixture.wait(2)).await;
        assert_eq!(again, Admitted::Done(vec![Decision::Waits]), "{backend:?}");
        for late in [fixture.wait(2), fixture.job(), Entry::Letter(Box::new(fixture.letter(2)))] {
            let late = fixture.admit(fixture.parked(1), late).await;
            assert_eq!(late, Admitted::Fenced, "{backend:?}: the row has moved on");
        }
        let both = tokio::join!(
            fixture.admit(fixture.parked(2), fixture.job()),
            fixture.admit(fixture.parked(2), fixture.job()),
        );
        let done = Admitted::Done(vec![Decision::Accepted]);
        assert!(
            matches!(&both, (a, Admitted::Fenced) | (Admitted::Fenced, a) if *a == done),
            "{backend:?}: {both:?}"
        );
        assert_eq!(database.count("select count(*) from scheduler_job").await, 1, "{backend:?}");
        assert_eq!(parked_rows(&database).await, 0, "{backend:?}");
        totals_add_up(&database).await;
        fixture.store.close().await;
    }
}

/// After a seek backward the same record comes while its row still exists.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_comes_again_while_it_is_parked_is_a_duplicate() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = Fixture::new(&database).await;
        fixture.admit(fixture.records(0), fixture.wait(1)).await;
        let again = fixture.admit(fixture.records(1), fixture.wait(1)).await;
        let job = JobId::derive("sms", "r");
        let duplicate = Decision::Duplicate { of: "r".into(), job, cancelled: false };
        assert_eq!(again, Admitted::Done(vec![duplicate]), "{backend:?}");
        totals_add_up(&database).await;

        let letter = Entry::Letter(Box::new(fixture.letter(2)));
        fixture.admit(fixture.parked(1), letter).await;
        let outbox = "select count(*) from scheduler_outbox";
        assert_eq!(database.count(outbox).await, 1, "{backend:?}: it died, and is published");
        let again = fixture.admit(fixture.records(2), fixture.wait(1)).await;
        assert!(
            matches!(&again, Admitted::Done(decisions) if matches!(decisions[..], [Decision::Dead(_)]))
        );
        assert_eq!(database.count(outbox).await, 1, "{backend:?}: and not published again");
        totals_add_up(&database).await;
        let totals = "select count(*) from scheduler_ingest_offset where records = 3 and duplicates = 1 \
                      and dead_letters = 2 and parked = 0";
        assert_eq!(database.count(totals).await, 1, "{backend:?}");
        fixture.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_an_app_that_nobody_has_is_answered_at_once() {
    let database = Database::Sqlite.fresh().await;
    let scheduler = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let scheduler = scheduler.start().await.expect("a start");
    let request = infinite_scheduler::ScheduleJobRequest::builder("nobody").at("2035-01-01T00:00");
    let answer = scheduler.schedule(request.build().expect("a request")).await;
    let refusal = answer.expect_err("a refusal").to_string();
    assert!(refusal.contains("never registered"), "{refusal}");
    scheduler.shutdown(DRAIN).await;
}
