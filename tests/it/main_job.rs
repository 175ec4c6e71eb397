//! Real input of other producers becomes the right jobs, duplicates and dead letters, and each job
//! fires once, never early.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Datelike, Timelike, Utc};
use infinite_scheduler::model::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

/// Records of one run.
const RECORDS: usize = 20_000;
/// Partitions of the ingest topic.
const PARTITIONS: i32 = 6;
/// What all of it may take: a debug build with three servers on two cores.
const DEADLINE: Duration = Duration::from_secs(120);

/// What each record must become.
#[derive(Default)]
struct Expected {
    /// By request id: the data as it was sent, and the moment.
    jobs: BTreeMap<String, (String, i64)>,
    duplicates: usize,
    /// The values of the poison, with the kind that they die of.
    poison: Vec<(Vec<u8>, &'static str)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_records_become_the_right_jobs_on_sqlite() {
    mixed_records_become_the_right_jobs(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_records_become_the_right_jobs_on_mariadb() {
    mixed_records_become_the_right_jobs(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_records_become_the_right_jobs_on_mysql() {
    mixed_records_become_the_right_jobs(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_records_become_the_right_jobs_on_postgres() {
    mixed_records_become_the_right_jobs(Database::Postgres).await;
}

async fn mixed_records_become_the_right_jobs(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    // Two of these are the patience with an answer, without which it is not known what to count.
    let scheduler = world.builder().lease(DEADLINE).start().await.expect("a start");
    let mut expected = Expected::default();
    let records = records(&mut expected);
    assert_eq!(records.len(), RECORDS);
    produce(&world.topic, &records).await;

    let (jobs, dead) = (expected.jobs.len() as u64, expected.poison.len() as u64);
    wait_until(DEADLINE, "every job fired and every dead letter published", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["sms"].succeeded >= jobs && metrics.messages_sent_to_dlq >= dead
    })
    .await;
    let metrics = scheduler.ingest_metrics();
    assert_eq!(metrics.messages_received, RECORDS as u64);
    assert_eq!(metrics.messages_processed, jobs);
    assert_eq!(metrics.messages_duplicate, expected.duplicates as u64);
    assert_eq!(metrics.messages_failed, dead);
    assert_eq!(metrics.jobs_rescued, 0);
    scheduler.shutdown(Duration::from_secs(10)).await;

    check_fired(&world, &expected).await;
    check_dead_letters(&world, &expected).await;
    check_ledger(&world, &expected).await;
}

/// Every fifth repeats an earlier request from another partition, every tenth is poison,
/// the others go through all forms in which time can be written.
fn records(expected: &mut Expected) -> Vec<RawRecord> {
    let soon = SystemClock.now() + Duration::from_secs(5);
    let mut records = Vec::with_capacity(RECORDS);
    let mut requests: Vec<String> = Vec::new();
    for n in 0..RECORDS {
        let partition = n as i32 % PARTITIONS;
        if n % 10 == 9 {
            let (value, kind) = poison(n);
            expected.poison.push((value.clone(), kind));
            records.push(RawRecord::new(partition, value));
        } else if n % 5 == 3 && n > 100 {
            let again = requests[requests.len() / 2].clone();
            expected.duplicates += 1;
            records.push(RawRecord::new((partition + 1) % PARTITIONS, again));
        } else {
            let due = soon + Duration::from_millis(n as u64 % 3000);
            let (time, due_ms) = written(due, n);
            // Forms of numbers, order of keys and white space must come through as they are.
            let data = format!(r#"{{"n": {n}, "z":1.50,"a" :1e3, "text":"é\u0000\"{n}"}}"#);
            let key =
                if n % 2 == 0 { format!(r#","idempotencyKey":"key-{n}""#) } else { String::new() };
            let priority = ["HIGH", "normal", "Low"][n % 3];
            let request = format!(
                r#"{{"requestId":"r-{n}","appName":"sms","scheduledTime":{time},"jobData":{data},"priority":"{priority}","new":1{key}}}"#
            );
            expected.jobs.insert(format!("r-{n}"), (data, due_ms));
            // Without a key a request may come again once its job has ended.
            if n % 2 == 0 {
                requests.push(request.clone());
            }
            records.push(RawRecord::new(partition, request));
        }
    }
    records
}

/// `due` in one of the accepted forms, and the moment that it then means.
fn written(due: DateTime<Utc>, n: usize) -> (String, i64) {
    let second = due.with_nanosecond(0).unwrap_or(due);
    let local = second.naive_utc();
    let (date, time) = (local.date(), local.time());
    let (year, month, day) = (date.year(), date.month(), date.day());
    let (hour, minute, sec) = (time.hour(), time.minute(), time.second());
    match n % 6 {
        0 => (format!("\"{}\"", due.format("%Y-%m-%dT%H:%M:%S%.3fZ")), due.timestamp_millis()),
        1 => {
            let east = due.with_timezone(&chrono::FixedOffset::east_opt(6 * 3600).expect("a zone"));
            (format!("\"{}\"", east.format("%Y-%m-%d %H:%M:%S%.3f+0600")), due.timestamp_millis())
        }
        2 => (due.timestamp_millis().to_string(), due.timestamp_millis()),
        3 => (format!("\"{}\"", local.format("%Y-%m-%dT%H:%M:%S")), second.timestamp_millis()),
        4 => (
            format!(
                r#"{{"date":{{"year":{year},"month":{month},"day":{day}}},"time":{{"hour":{hour},"minute":{minute},"second":{sec},"nano":0}}}}"#
            ),
            second.timestamp_millis(),
        ),
        _ => (format!("[{year},{month},{day},{hour},{minute},{sec},0]"), second.timestamp_millis()),
    }
}

fn poison(n: usize) -> (Vec<u8>, &'static str) {
    let deep = "[".repeat(5000);
    match n / 10 % 12 {
        0 => (format!("not json {n}").into(), "invalid-json"),
        1 => ([b"\"\xff\xfe".to_vec(), n.to_string().into()].concat(), "invalid-encoding"),
        2 => (Vec::new(), "empty-value"),
        3 => (format!(r#"{{"appName":"sms","n":{n}}}"#).into(), "missing-field"),
        4 => (
            format!(r#"{{"appName":"sms","scheduledTime":"tomorrow {n}"}}"#).into(),
            "invalid-field",
        ),
        5 => (format!(r#"{{"appName":"nobody-{n}","scheduledTime":0}}"#).into(), "unknown-app"),
        6 => (
            format!(r#"{{"appName":"sms","scheduledTime":"2999-01-01T00:00:{:02}Z"}}"#, n % 60)
                .into(),
            "schedule-too-far",
        ),
        7 => (
            format!(
                r#"{{"appName":"sms","scheduledTime":0,"requestId":"{}{n}"}}"#,
                "x".repeat(200)
            )
            .into(),
            "invalid-field",
        ),
        8 => (
            format!(r#"{{"appName":"sms","scheduledTime":0,"jobData":{deep}{n}"#).into(),
            "invalid-json",
        ),
        9 => (
            format!(r#"{{"appName":"sms","appName":"sms","scheduledTime":{n}}}"#).into(),
            "duplicate-field",
        ),
        10 => (
            format!(r#"{{"appName":"sms","scheduledTime":0,"jobData":[{n}]}}"#).into(),
            "invalid-field",
        ),
        _ => (format!(r#"["an array",{n}]"#).into(), "invalid-json"),
    }
}

async fn check_fired(world: &World, expected: &Expected) {
    let fired = read_all(&world.fired).await;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for record in &fired {
        let body: Value = record.json();
        let request_id = body["requestId"].as_str().expect("a request id").to_owned();
        let (data, due_ms) = &expected.jobs[&request_id];
        let text = String::from_utf8(record.value.clone().expect("a value")).expect("text");
        assert!(text.contains(&format!(r#""jobData":{data}"#)), "{text} must hold {data}");
        let time = |field: &str| {
            let text = body[field].as_str().expect("a time");
            DateTime::parse_from_rfc3339(text).expect("RFC 3339").timestamp_millis()
        };
        assert_eq!(time("scheduledTime"), *due_ms, "{text}");
        assert!(time("firedTime") >= *due_ms, "early: {text}");
        assert!(record.timestamp_ms >= *due_ms, "early on the topic: {text}");
        assert_eq!(record.key.as_deref(), Some(request_id.as_bytes()));
        for header in ["job-id", "request-id", "app-name", "attempt", "fence"] {
            assert!(record.header(header).is_some(), "{header} is missing: {text}");
        }
        assert!(seen.insert(request_id), "fired twice: {text}");
    }
    assert_eq!(seen.len(), expected.jobs.len(), "every job fired");
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
}

async fn check_dead_letters(world: &World, expected: &Expected) {
    let letters = read_all(&world.dlq).await;
    assert_eq!(letters.len(), expected.poison.len());
    let mut of_topic: Vec<(Vec<u8>, String)> = Vec::new();
    let mut places: BTreeSet<(String, String)> = BTreeSet::new();
    for letter in &letters {
        let header = |name: &str| letter.header(name).unwrap_or_default().to_owned();
        of_topic.push((letter.value.clone().unwrap_or_default(), header("error-kind")));
        assert_eq!(header("original-topic"), world.topic);
        assert!(places.insert((header("original-partition"), header("original-offset"))));
        assert!(!header("error-message").is_empty());
        assert!(!header("error-timestamp").is_empty());
        assert!(!header("original-timestamp").is_empty());
    }
    let mut as_sent: Vec<(Vec<u8>, String)> =
        expected.poison.iter().map(|(value, kind)| (value.clone(), (*kind).to_owned())).collect();
    of_topic.sort();
    as_sent.sort();
    assert_eq!(of_topic, as_sent);
    let rows = world.database.count("select count(*) from scheduler_dead_letter").await;
    assert_eq!(rows as usize, expected.poison.len());
    assert_eq!(world.database.count("select count(*) from scheduler_outbox").await, 0);
}

/// Records read = jobs + duplicates + dead letters, by partition.
async fn check_ledger(world: &World, expected: &Expected) {
    let sum = async |column: &str| {
        let sql = format!(
            "select cast(sum({column}) as {}) from scheduler_ingest_offset",
            world.integer()
        );
        world.database.count(&sql).await as usize
    };
    assert_eq!(sum("next_offset").await, RECORDS);
    assert_eq!(sum("jobs").await, expected.jobs.len());
    assert_eq!(sum("duplicates").await, expected.duplicates);
    assert_eq!(sum("dead_letters").await, expected.poison.len());
    let wrong = "select count(*) from scheduler_ingest_offset \
                 where next_offset <> jobs + duplicates + operations + dead_letters";
    assert_eq!(world.database.count(wrong).await, 0);
}
