//! Bad input on the ingest topic: each bad record is one dead letter, unchanged, under a
//! message that helps its producer, and the good record behind it fires.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use infinite_scheduler::store::{Store, StoreOptions};
use infinite_scheduler::{
    AppConfig, ErrorKind, JobContext, KafkaIngestConfig, ScheduleJobRequest, Scheduler,
    SubmitError, handler_fn,
};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;

use crate::support::kafka::{RawRecord, produce, read_all, set_topic};
use crate::support::services::{Database, kafka};
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

const DEADLINE: Duration = Duration::from_secs(120);
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_a_dead_letter_and_holds_up_nobody_on_sqlite() {
    every_bad_record_is_a_dead_letter_and_holds_up_nobody(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_a_dead_letter_and_holds_up_nobody_on_mariadb() {
    every_bad_record_is_a_dead_letter_and_holds_up_nobody(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_a_dead_letter_and_holds_up_nobody_on_postgres() {
    every_bad_record_is_a_dead_letter_and_holds_up_nobody(Database::Postgres).await;
}

/// A reader that panicked, or stood still, would leave the good record behind the bad one
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
    // Nothing waits to heal, so that letters come in the order of their records.
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
    assert_eq!(world.database.count("select count(*) from outbox").await, 0);
    assert_eq!(world.database.count("select count(*) from dead_letter").await, count as i64);
}

/// A record that must become a dead letter.
struct Bad {
    what: &'static str,
    record: RawRecord,
    kind: &'static str,
    /// What its message must name: the field, the value, the way out.
    says: Vec<&'static str>,
    request_id: Option<&'static str>,
}

impl Bad {
    fn check(&self, letter: &RawRecord, topic: &str, offset: i64) {
        let what = self.what;
        assert_eq!(letter.key, self.record.key, "{what}: the key");
        assert!(letter.value == self.record.value, "{what}: the value");
        let (own, added) = letter.headers.split_at(self.record.headers.len());
        assert_eq!(own, self.record.headers, "{what}: the record's own headers");

        let mut names = vec![
            "original-topic",
            "original-partition",
            "original-offset",
            "original-timestamp",
            "error-kind",
            "error-message",
            "error-timestamp",
            "attempts",
        ];
        names.extend(self.request_id.map(|_| "request-id"));
        let added_names: Vec<_> = added.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(added_names, names, "{what}: the headers that are added");
        let header = |name: &str| letter.header(name).unwrap_or_else(|| panic!("{what}: {name}"));
        assert_eq!(header("original-topic"), topic, "{what}");
        assert_eq!(header("original-partition"), "0", "{what}");
        assert_eq!(header("original-offset"), offset.to_string(), "{what}");
        assert_eq!(header("attempts"), "1", "{what}");
        assert_eq!(letter.header("request-id"), self.request_id, "{what}");
        for name in ["original-timestamp", "error-timestamp"] {
            let ms: i64 = header(name).parse().expect("epoch milliseconds");
            assert!((letter.timestamp_ms - ms).abs() < 600_000, "{what}: {name} {ms}");
        }
        let (kind, message) = (header("error-kind"), header("error-message"));
        assert_eq!(kind, self.kind, "{what}: {message}");
        for said in &self.says {
            assert!(message.contains(said), "{what}: {said:?} must be in {message:?}");
        }
        // A value may be as long as a record: it is shown, not repeated.
        assert!(message.chars().count() < 500, "{what}: {message}");
    }
}

fn good(request_id: &str) -> RawRecord {
    let request = format!(r#"{{"requestId":"{request_id}","appName":"sms","scheduledTime":0}}"#);
    RawRecord::new(0, request)
}

fn bad_records() -> Vec<Bad> {
    let mut all: Vec<Bad> = Vec::new();
    let mut add = |what, value: Option<Vec<u8>>, kind, says: &[&'static str], request_id| {
        // Binary keys and headers, and one that is named like one of ours.
        let n = all.len() as u8;
        let record = RawRecord { value, ..RawRecord::default() }
            .with_key([0, 255, n])
            .with_header("binary", [0xff, 0x00, 0xfe, n])
            .with_header("empty", [])
            .with_header("text", "é\u{1F600}")
            .with_header("error-kind", "the producer's own");
        all.push(Bad { what, record, kind, says: says.to_vec(), request_id });
    };
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let json = ["not JSON", "line 1", "send a request as a JSON object"];
    add("not JSON", text("hello"), "invalid-json", &json, None);
    add("JSON that ends", text(r#"{"requestId":"r","#), "invalid-json", &json, Some("r"));
    add("NUL bytes", text("\0\0"), "invalid-json", &json, None);
    add("an array", text("[1]"), "invalid-json", &["an array", "must be a JSON object"], None);
    add("null as JSON", text("null"), "invalid-json", &["null", "must be a JSON object"], None);
    let not_utf8 = b"{\"appName\":\"\xff\"}".to_vec();
    add(
        "not UTF-8",
        Some(not_utf8),
        "invalid-encoding",
        &["UTF-8", "byte 12 is 0xff", "send JSON in UTF-8"],
        None,
    );
    add(
        "no byte",
        Some(Vec::new()),
        "empty-value",
        &["no value", "send a request as a JSON"],
        None,
    );
    add("a null value", None, "empty-value", &["null value", "send a ScheduleJobRequest"], None);

    for (what, fields, kind, says) in [
        (
            "no appName",
            r#""scheduledTime":0"#,
            "missing-field",
            &["appName is missing", "names its app"][..],
        ),
        ("no time", r#""appName":"sms""#, "missing-field", &["scheduledTime is missing", "when"]),
        (
            "null time",
            r#""appName":"sms","scheduledTime":null"#,
            "missing-field",
            &["scheduledTime"],
        ),
        (
            "app as number",
            r#""appName":7,"scheduledTime":0"#,
            "invalid-field",
            &["appName 7", "a-z"],
        ),
        (
            "unknown app",
            r#""appName":"nobody","scheduledTime":0"#,
            "unknown-app",
            &["appName \"nobody\"", "register it", "sms"],
        ),
        (
            "NUL in appName",
            r#""appName":"s\u0000s","scheduledTime":0"#,
            "invalid-field",
            &["appName", "s\\0s", "a-z"],
        ),
        (
            "appName twice",
            r#""appName":"sms","appName":"sms","scheduledTime":0"#,
            "duplicate-field",
            &["appName is there twice", "send it once"],
        ),
        (
            "jobData twice",
            r#""appName":"sms","jobData":{},"scheduledTime":0,"jobData":{}"#,
            "duplicate-field",
            &["jobData is there twice", "send it once"],
        ),
    ] {
        let value = format!(r#"{{"requestId":"r",{fields}}}"#);
        add(what, Some(value.into_bytes()), kind, says, Some("r"));
    }
    for (what, fields, kind, says) in [
        (
            "time as boolean",
            r#""scheduledTime":true"#,
            "invalid-field",
            &["scheduledTime true", "RFC 3339"][..],
        ),
        (
            "tomorrow",
            r#""scheduledTime":"tomorrow""#,
            "invalid-field",
            &["scheduledTime \"tomorrow\"", "RFC 3339"],
        ),
        (
            "30 February",
            r#""scheduledTime":"2026-02-30T00:00:00Z""#,
            "invalid-field",
            &["scheduledTime \"2026-02-30T00:00:00Z\"", "no day 30", "RFC 3339"],
        ),
        (
            "too far ahead",
            r#""scheduledTime":"2999-01-01T00:00:00Z""#,
            "schedule-too-far",
            &["scheduledTime 2999-01-01T00:00:00Z", "3650 days", "max_schedule_ahead", "ask again"],
        ),
        (
            "no time at all",
            r#""scheduledTime":9223372036854775807"#,
            "invalid-field",
            &["scheduledTime 9223372036854775807"],
        ),
        (
            "expired before it begins",
            r#""scheduledTime":1000,"expiresTime":999"#,
            "invalid-field",
            &["expiresTime", "before scheduledTime"],
        ),
        (
            "data as array",
            r#""scheduledTime":0,"jobData":[1]"#,
            "invalid-field",
            &["jobData [1]", "a JSON object"],
        ),
        (
            "data as text",
            r#""scheduledTime":0,"jobData":"{}""#,
            "invalid-field",
            &["jobData \"{}\"", "a JSON object"],
        ),
        (
            "urgent",
            r#""scheduledTime":0,"priority":"urgent""#,
            "invalid-field",
            &["priority \"urgent\"", "\"high\""],
        ),
        (
            "attempts as text",
            r#""scheduledTime":0,"maxAttempts":"3""#,
            "invalid-field",
            &["maxAttempts \"3\"", "integer"],
        ),
        (
            "no attempt",
            r#""scheduledTime":0,"maxAttempts":0"#,
            "invalid-field",
            &["maxAttempts 0", "from 1"],
        ),
        (
            "negative timeout",
            r#""scheduledTime":0,"timeoutMs":-1"#,
            "invalid-field",
            &["timeoutMs -1", "from 1"],
        ),
        (
            "version as text",
            r#""scheduledTime":0,"version":"1""#,
            "invalid-field",
            &["version \"1\"", "integer"],
        ),
        (
            "key as object",
            r#""scheduledTime":0,"idempotencyKey":{}"#,
            "invalid-field",
            &["idempotencyKey {}", "string"],
        ),
        (
            "NUL in the key",
            r#""scheduledTime":0,"idempotencyKey":"a\u0000b""#,
            "invalid-field",
            &["idempotencyKey", "a\\0b", "without NUL"],
        ),
        (
            "unknown operation",
            r#""scheduledTime":0,"operation":"delete""#,
            "invalid-field",
            &["operation \"delete\"", "\"schedule\""],
        ),
    ] {
        let value = format!(r#"{{"requestId":"r","appName":"sms",{fields}}}"#);
        add(what, Some(value.into_bytes()), kind, says, Some("r"));
    }
    for (what, fields, says) in [
        ("request id as number", r#""requestId":17"#, &["requestId 17", "string"][..]),
        ("empty request id", r#""requestId":"""#, &["requestId \"\"", "1 to 128 characters"]),
        (
            "NUL in the request id",
            r#""requestId":"a\u0000b""#,
            &["requestId", "a\\0b", "without NUL"],
        ),
        ("half a character", r#""requestId":"\ud800""#, &["requestId", "Unicode"]),
    ] {
        let value = format!(r#"{{"appName":"sms","scheduledTime":0,{fields}}}"#);
        add(what, Some(value.into_bytes()), "invalid-field", says, None);
    }
    let long = |field: &str, length: usize| {
        let sound = [("requestId", "r"), ("appName", "sms")].into_iter();
        let sound = sound.filter(|(name, _)| *name != field);
        let fields: String = sound.map(|(name, value)| format!(r#""{name}":"{value}","#)).collect();
        let value = "é".repeat(length);
        Some(format!(r#"{{{fields}"scheduledTime":0,"{field}":"{value}"}}"#).into_bytes())
    };
    let id = ["requestId \"é", "…", "1 to 128 characters"];
    add("a request id of 129", long("requestId", 129), "invalid-field", &id, None);
    let key = ["idempotencyKey \"é", "…", "1 to 255 characters"];
    add("a key of 256", long("idempotencyKey", 256), "invalid-field", &key, Some("r"));
    let app = format!(r#"{{"appName":"{}","scheduledTime":0,"requestId":"r"}}"#, "a".repeat(65));
    let says = ["appName \"aaa", "1 to 64"];
    add("an app name of 65", Some(app.into_bytes()), "invalid-field", &says, Some("r"));

    for (what, field) in [("deep data", "jobData"), ("a deep unknown field", "other")] {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(20_000), "}".repeat(20_000));
        let value =
            format!(r#"{{"requestId":"r","appName":"sms","scheduledTime":0,"{field}":{deep}}}"#);
        add(
            what,
            Some(value.into_bytes()),
            "invalid-json",
            &["127 levels deep", "send it flatter"],
            Some("r"),
        );
    }
    let brackets = "[".repeat(20_000).into_bytes();
    add("brackets that never close", Some(brackets), "invalid-json", &["JSON"], None);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_is_a_job_or_a_letter_that_waits_for_room_on_sqlite() {
    the_largest_record_is_a_job_or_a_letter_that_waits_for_room(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_is_a_job_or_a_letter_that_waits_for_room_on_mariadb() {
    the_largest_record_is_a_job_or_a_letter_that_waits_for_room(Database::MariaDb).await;
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
    let builder = world.builder().register_app(AppConfig::new("big"), handler);
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
    assert_eq!(world.database.count("select count(*) from outbox").await, 1);
    assert!(scheduler.complaints().is_empty(), "one letter that waits is nobody's outage");

    make_room(&world.dlq).await;
    wait_until(DEADLINE, "the large letter published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 2
    })
    .await;
    wait_until(DEADLINE, "an end of the complaint", async || scheduler.complaints().is_empty())
        .await;
    scheduler.shutdown(DRAIN).await;
    let letters = read_all(&world.dlq).await;
    let values: Vec<_> = letters.iter().map(|letter| letter.value.as_deref()).collect();
    assert!(values == [small.value.as_deref(), Some(&*poison)]);
    assert!(letters.iter().all(|letter| letter.header("error-kind") == Some("invalid-json")));
    assert_eq!(world.database.count("select count(*) from outbox").await, 0);
}

/// More letters than are published together, none of which the topic takes: those behind
/// them must get past all of them.
#[tokio::test(flavor = "multi_thread")]
async fn many_letters_that_are_too_large_do_not_hold_up_the_others() {
    let world = World::new(Database::Sqlite, 1).await;
    set_topic(&world.dlq, "max.message.bytes", "2000").await;
    let large = RawRecord::new(0, "?".repeat(3000));
    let mut records = vec![large; 250];
    records.push(RawRecord::new(0, "small poison"));
    let scheduler = world.builder().start().await.expect("a start");
    produce(&world.topic, &records).await;
    wait_until(DEADLINE, "the small letter published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 1
    })
    .await;
    assert_eq!(world.database.count("select count(*) from outbox").await, 250);
    make_room(&world.dlq).await;
    wait_until(DEADLINE, "all letters published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 251
    })
    .await;
    scheduler.shutdown(DRAIN).await;
    assert_eq!(read_all(&world.dlq).await.len(), 251);
}

/// A broker measures batches: in company a job may be too large for a topic that takes it
/// alone. That is no fault of the job's.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_refused_for_the_company_that_it_is_sent_in() {
    const JOBS: usize = 500;
    let world = World::new(Database::Sqlite, 1).await;
    set_topic(&world.fired, "max.message.bytes", "4000").await;
    let scheduler = world.builder().start().await.expect("a start");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_does_not_sink_its_batch_on_sqlite() {
    let refuse = "create trigger refuse before insert on job when new.request_id like 'refused%' \
                  begin select raise(abort, 'refused by the test'); end";
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::Sqlite, refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_does_not_sink_its_batch_on_mariadb() {
    let refuse = "alter table job add constraint refuse check (request_id not like 'refused%')";
    a_row_that_the_database_refuses_does_not_sink_its_batch(Database::MariaDb, refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_does_not_sink_its_batch_on_postgres() {
    let refuse = "alter table job add constraint refuse check (request_id not like 'refused%')";
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
        Err(SubmitError::Refused(refusal)) => {
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
    let keys = world.database.count("select count(*) from idempotency_key").await;
    assert_eq!(keys, RECORDS as i64 - 4);
    let ledger = "select count(*) from ingest_offset \
                  where next_offset = 300 and jobs = 296 and dead_letters = 4 and duplicates = 0";
    assert_eq!(world.database.count(ledger).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_job_across_its_end_and_a_restart_on_sqlite() {
    a_key_stands_for_one_job_across_its_end_and_a_restart(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_job_across_its_end_and_a_restart_on_mariadb() {
    a_key_stands_for_one_job_across_its_end_and_a_restart(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_job_across_its_end_and_a_restart_on_postgres() {
    a_key_stands_for_one_job_across_its_end_and_a_restart(Database::Postgres).await;
}

async fn a_key_stands_for_one_job_across_its_end_and_a_restart(database: Database) {
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
        world.database.count("select count(*) from job").await == 0
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
            world.database.count("select count(*) from job").await == 1
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
