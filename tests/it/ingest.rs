//! The command `ingest`: what it shows of each partition, and how it changes the offset, with and
//! without a running instance.

mod seek;

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::{KafkaIngestConfig, OnOffsetLost, Scheduler};
use serde_json::Value;

use crate::support::kafka::{RawRecord, delete_records_before, make_again, produce, read_all};
use crate::support::services::{Database, kafka, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn the_listing_says_what_became_of_each_partition() {
    for backend in Database::all() {
        let world = World::new(backend, 3).await;
        let scheduler = world.builder().instance_id("reader-1").start().await.expect("a start");
        let mut first: Vec<RawRecord> = (0..20).map(|n| later(0, n)).collect();
        first.extend((0..5).map(|n| later(0, n)));
        produce(&world.topic, &first).await;
        let mut second: Vec<RawRecord> = (100..110).map(|n| later(1, n)).collect();
        second.extend((0..3).map(|_| RawRecord::new(1, "no JSON")));
        produce(&world.topic, &second).await;
        wait_until(DEADLINE, "all records", async || received(&scheduler) == 38).await;

        let lines = listing(&world).await;
        assert_eq!(lines.len(), 3, "{backend:?}");
        for (line, fates) in lines.iter().zip([[25, 20, 5, 0], [13, 10, 0, 3], [0, 0, 0, 0]]) {
            let [records, jobs, duplicates, dead_letters] = fates;
            assert_eq!(line["topic"], world.topic.as_str(), "{line}");
            assert_eq!(line["owner"], "reader-1", "{line}");
            assert_eq!([number(line, "nextOffset"), number(line, "endOffset")], [records; 2]);
            assert_eq!(number(line, "lag"), 0, "{line}");
            assert_eq!(number(line, "jobs"), jobs, "{line}");
            assert_eq!(number(line, "duplicates"), duplicates, "{line}");
            assert_eq!(number(line, "operations"), 0, "{line}");
            assert_eq!(number(line, "deadLetters"), dead_letters, "{line}");
            assert_eq!(number(line, "parked"), 0, "{line}");
        }
        totals_add_up(&world, &[25, 13, 0]).await;

        scheduler.shutdown(DEADLINE).await;
        produce(&world.topic, &[later(2, 200), later(2, 201)]).await;
        let lines = listing(&world).await;
        assert_eq!(lines[2]["owner"], Value::Null, "{backend:?}: {}", lines[2]);
        assert_eq!(number(&lines[2], "lag"), 2, "{backend:?}: {}", lines[2]);
        let shown = ingest(&world, &[]).await;
        assert_eq!(shown.status.code(), Some(0), "{backend:?}: {}", text(&shown.stderr));
        let shown = text(&shown.stdout);
        let rows: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0][..6], ["topic", "partition", "owner", "next", "end", "lag"], "{shown}");
        assert_eq!(rows[1][1..6], ["0", "nobody", "25", "25", "0"], "{shown}");
        assert_eq!(rows[3][1..6], ["2", "nobody", "0", "2", "2"], "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_does_not_say_is_named_and_the_rest_is_shown() {
    let world = World::new(Database::Sqlite, 2).await;
    produce(&world.topic, &(0..9).map(|n| later(0, n)).collect::<Vec<_>>()).await;
    read(&world, world.kafka(), 9).await;
    let config = world.config().replace(&kafka(), "127.0.0.1:1");
    let shown = run(&config, &["ingest", "--json"]).await;
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown.stderr));
    assert!(text(&shown.stderr).contains("END and LAG are missing"), "{}", text(&shown.stderr));
    let shown = json(&shown);
    let why = shown["missing"].as_str().unwrap_or_default();
    assert!(why.contains("127.0.0.1:1") && why.contains("refused"), "{shown}");
    let line = &shown["items"][0];
    assert_eq!([number(line, "nextOffset"), number(line, "jobs")], [9, 9], "{line}");
    assert_eq!([&line["endOffset"], &line["lag"]], [&Value::Null; 2], "{line}");
    let elsewhere = world.config().replace(&world.topic, "no-such-topic");
    let shown = run(&elsewhere, &["ingest"]).await;
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown.stderr));
    assert!(text(&shown.stderr).contains("topic no-such-topic does not exist"));
    let sought = run(&config, &["ingest", "seek", "--to-beginning", "--yes"]).await;
    assert_eq!(sought.status.code(), Some(4));
    assert!(text(&sought.stderr).contains("kafka is not available"), "{}", text(&sought.stderr));
}

/// A log that is not the one that the row knows is remarked on, whether or not an instance reads it.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_on_without_us_is_remarked_on() {
    let world = World::new(Database::Sqlite, 1).await;
    produce(&world.topic, &(0..10).map(|n| later(0, n)).collect::<Vec<_>>()).await;
    read(&world, world.kafka(), 10).await;
    produce(&world.topic, &(10..30).map(|n| later(0, n)).collect::<Vec<_>>()).await;
    delete_records_before(&world.topic, 0, 25).await;
    let shown = text(&ingest(&world, &[]).await.stdout);
    assert!(shown.contains("begins at 25: records 10 to 24 are gone"), "{shown}");
    assert_eq!(number(&listing(&world).await[0], "lag"), 5);
}

/// By partition: every record that was read is counted once. A record that was read again counts again.
async fn totals_add_up(world: &World, read: &[i64]) {
    let lines = listing(world).await;
    let fates = ["jobs", "duplicates", "operations", "deadLetters", "parked"];
    let sums: Vec<i64> =
        lines.iter().map(|line| fates.iter().map(|fate| number(line, fate)).sum()).collect();
    assert_eq!(sums, read, "{lines:?}");
    for (line, sum) in lines.iter().zip(sums) {
        assert_eq!(number(line, "records"), sum, "{line}");
    }
}

/// Request `r-n`, due far from now: its job stays.
fn later(partition: i32, n: usize) -> RawRecord {
    let due = (SystemClock.now() + HOUR).timestamp_millis();
    let value = format!(r#"{{"requestId":"r-{n}","appName":"sms","scheduledTime":{due}}}"#);
    RawRecord::new(partition, value)
}

/// Request `r-n` with a key, due at once: only its key stays.
fn keyed(n: usize) -> RawRecord {
    let value = format!(
        r#"{{"requestId":"r-{n}","appName":"sms","scheduledTime":0,"idempotencyKey":"k-{n}"}}"#
    );
    RawRecord::new(0, value)
}

async fn start(world: &World, config: KafkaIngestConfig) -> Scheduler {
    world.builder().with_kafka_ingest(config).start().await.expect("a start")
}

/// Reads `count` records and stops; more than those would show in the totals.
async fn read(world: &World, config: KafkaIngestConfig, count: usize) {
    let scheduler = start(world, config).await;
    wait_until(DEADLINE, "the records", async || received(&scheduler) >= count).await;
    scheduler.shutdown(DEADLINE).await;
}

fn received(scheduler: &Scheduler) -> usize {
    scheduler.ingest_metrics().messages_received as usize
}

fn fired_and_done(scheduler: &Scheduler, count: u64) -> bool {
    let app = scheduler.ingest_metrics().apps["sms"].clone();
    app.fired == count && app.succeeded == count
}

async fn check_fired(world: &World, count: usize) {
    let records = read_all(&world.fired).await;
    let id = |record: &RawRecord| record.json()["requestId"].as_str().expect("an id").to_owned();
    let ids: BTreeSet<String> = records.iter().map(id).collect();
    assert_eq!((ids.len(), records.len()), (count, count));
}

async fn next_offset(world: &World) -> i64 {
    let next = format!(
        "select cast(coalesce(sum(next_offset), 0) as {}) from scheduler_ingest_offset",
        world.integer()
    );
    world.database.count(&next).await
}

/// The partitions as `ingest --json` has them.
async fn listing(world: &World) -> Vec<Value> {
    let shown = ingest(world, &["--json"]).await;
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    json(&shown)["items"].as_array().expect("items").clone()
}

/// What `ingest seek --json` says when it has done what it was asked.
async fn seek(world: &World, arguments: &[&str]) -> Value {
    let sought = ingest(world, &[&["seek", "--json"], arguments].concat()).await;
    assert_eq!(sought.status.code(), Some(0), "{}", text(&sought.stderr));
    json(&sought)
}

/// From, to, read again and skipped of the only partition that was sought.
fn one_move(sought: &Value) -> [i64; 4] {
    let moves = sought["partitions"].as_array().expect("partitions");
    assert_eq!(moves.len(), 1, "{sought}");
    ["from", "to", "readAgain", "skipped"].map(|field| number(&moves[0], field))
}

async fn ingest(world: &World, arguments: &[&str]) -> Output {
    run(&world.config(), &[&["ingest"], arguments].concat()).await
}

/// Runs the binary with `config`; the option comes last, as both commands have it.
async fn run(config: &str, arguments: &[&str]) -> Output {
    let folder = temporary_folder();
    let file = folder.path().join("infinite-scheduler.toml");
    std::fs::write(&file, config).expect("a configuration file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
    command.args(arguments).arg("--config").arg(file).current_dir(folder.path());
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("no panic")
        .expect("the binary")
}

fn number(line: &Value, field: &str) -> i64 {
    line[field].as_i64().unwrap_or_else(|| panic!("{field} of {line}"))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr))
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
