//! The service as a process: what it prints, answers and logs, and how it ends.

mod outages;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sea_orm::{ConnectOptions, Database as SeaOrm};
use serde_json::{Value, json};

use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::process::Instance;
use crate::support::proxy::Proxy;
use crate::support::services::{Database, TestDatabase, kafka, mariadb_url, temporary_folder};
use crate::support::world::World;
use crate::support::{wait_for, wait_until};

const DEADLINE: Duration = Duration::from_secs(120);
/// A password that must not be seen anywhere.
const HUSH: &str = "hush-7a1f";

/// Status and JSON body.
async fn get(instance: &Instance, path: &str) -> (u16, Value) {
    let answer = reqwest::get(instance.url(path)).await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

async fn listening(instance: &Instance) {
    wait_until(DEADLINE, "the line `listening on`", async || {
        instance.stdout().lines().any(|line| line.starts_with("listening on http://127.0.0.1:"))
    })
    .await;
}

fn check_hushed(instance: &Instance) {
    for said in [instance.stdout(), instance.stderr()] {
        assert!(!said.contains(HUSH), "{said}");
    }
}

fn record(partition: i32, id: &str) -> RawRecord {
    let request = format!(
        r#"{{"requestId":"{id}","idempotencyKey":"k-{id}","appName":"sms","scheduledTime":0}}"#
    );
    RawRecord::new(partition, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_says_that_it_is_ready_and_tells_its_counters() {
    let world = World::new(Database::Sqlite, 1).await;
    let instance = Instance::start(&world.config()).await;
    let said = instance.stdout();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert_eq!(lines[0], format!("listening on http://127.0.0.1:{}", instance.http_port()));
    assert_eq!(lines[1], "ready");
    assert_eq!(get(&instance, "/health/live").await, (200, json!({"alive": true})));
    let ready = json!({"ready": true, "reasons": [], "degraded": []});
    assert_eq!(get(&instance, "/health/ready").await, (200, ready));

    let mut records: Vec<_> = (0..20).map(|n| record(0, &format!("r-{n}"))).collect();
    records.extend((0..3).map(|n| record(0, &format!("r-{n}"))));
    records.extend((0..4).map(|n| RawRecord::new(0, format!("poison {n}"))));
    produce(&world.topic, &records).await;
    let metrics = wait_for(DEADLINE, "all of it in the counters", async || {
        let (status, metrics) = get(&instance, "/api/metrics").await;
        assert_eq!(status, 200);
        let done = metrics["apps.sms.succeeded"] == 20
            && metrics["messagesSentToDLQ"] == 4
            && metrics[format!("consumerLag.{}/0", world.topic)] == 0;
        done.then_some(metrics)
    })
    .await;
    for (name, count) in [
        ("messagesReceived", 27),
        ("messagesProcessed", 20),
        ("messagesFailed", 4),
        ("messagesSentToDLQ", 4),
        ("messagesDuplicate", 3),
        ("messagesRetried", 0),
        ("idempotencyCacheSize", 20),
        ("apps.sms.scheduled", 20),
        ("apps.sms.fired", 20),
        ("apps.sms.succeeded", 20),
        ("apps.sms.failed", 0),
        ("apps.sms.retried", 0),
        ("apps.sms.dead", 0),
    ] {
        assert_eq!(metrics[name], count, "{name} of {metrics}");
    }
    let flat = metrics.as_object().expect("an object").values().all(Value::is_number);
    assert!(flat, "{metrics}");

    let (status, problem) = get(&instance, "/nowhere").await;
    assert_eq!((status, &problem["status"]), (404, &json!(404)));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("/nowhere")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_asked_to_end_drains_and_loses_nothing_on_sqlite() {
    a_service_that_is_asked_to_end_drains_and_loses_nothing(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_asked_to_end_drains_and_loses_nothing_on_postgres() {
    a_service_that_is_asked_to_end_drains_and_loses_nothing(Database::Postgres).await;
}

/// Asked to end under load: outcomes of fired jobs are written, so the next one fires
/// the rest and nothing twice.
async fn a_service_that_is_asked_to_end_drains_and_loses_nothing(database: Database) {
    const RECORDS: usize = 6000;
    let world = World::new(database, 3).await;
    let mut first = Instance::start(&world.config()).await;
    let records: Vec<_> = (0..RECORDS).map(|n| record(n as i32 % 3, &format!("r-{n}"))).collect();
    let topic = world.topic.clone();
    let producing = tokio::spawn(async move { produce(&topic, &records).await });
    wait_until(DEADLINE, "the first firings", async || {
        let (_, metrics) = get(&first, "/api/metrics").await;
        metrics["apps.sms.fired"].as_u64().unwrap_or(0) > 100
    })
    .await;
    let status = first.terminate(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "{}", first.stderr());
    assert!(first.stderr().contains("SIGTERM") && first.stderr().contains("drained"));
    producing.await.expect("all records sent");
    let fired = read_all(&world.fired).await.len();
    assert!((100..RECORDS).contains(&fired), "{fired} of {RECORDS} fired: not in the middle");
    let alive = "select count(*) from scheduler_shard where owner is not null";
    assert_eq!(world.database.count(alive).await, 0, "the shards are handed back");

    let mut second = Instance::start(&world.config()).await;
    wait_until(DEADLINE, "the rest fired", async || {
        let (_, metrics) = get(&second, "/api/metrics").await;
        metrics["apps.sms.succeeded"].as_u64().unwrap_or(0) >= (RECORDS - fired) as u64
    })
    .await;
    assert_eq!(second.terminate(DEADLINE).await.code(), Some(0));
    let fired = read_all(&world.fired).await;
    let names: BTreeSet<_> = fired.iter().filter_map(|job| job.key.clone()).collect();
    assert_eq!((fired.len(), names.len()), (RECORDS, RECORDS), "each once");
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_is_one_sentence_and_code_two() {
    for (config, said) in [
        ("[kafka]\ntopik = 'x'", &["kafka.topik", "did you mean kafka.topic?"][..]),
        ("[kafak]", &["kafak", "did you mean kafka?"]),
        ("[apps.sms]\nmax_inflight = 1", &["apps.sms.max_inflight", "apps.sms.max_in_flight?"]),
        (
            "[kafka]\nmax_poll_records = 'many'",
            &["kafka.max_poll_records", "\"many\"", "whole number"],
        ),
        (
            "[apps.sms]\ndispatch = 'kafak'",
            &["apps.sms.dispatch", "\"kafak\"", "did you mean \"kafka\"?"],
        ),
        (
            "[http]\nlisten = '0.0.0.0:7070'",
            &["http.listen", "0.0.0.0:7070", "listen on 127.0.0.1"],
        ),
        (
            "[kafka]\nenable_auto_commit = true",
            &["kafka.enable_auto_commit = true", "leave it out"],
        ),
        (
            "[kafka]\n[apps.sms]\ndispatch = 'kafka'",
            &["apps.sms.dispatch", "\"kafka\"", "apps.sms.topic"],
        ),
        (
            "default_time_zone = 'Asia/Daka'",
            &["default_time_zone", "\"Asia/Daka\"", "\"Asia/Dhaka\""],
        ),
        (
            "[database]\nurl = 'oracle://u:hush-7a1f@h/d'",
            &["database.url", "oracle://", "postgres://"],
        ),
        (
            "[database]\nurl = 'postgres://u:hush-7a1f@h:port/d'",
            &["database.url", "u:***@h:port/d"],
        ),
        ("[instance]\nlease_ms = 500", &["instance.lease_ms", "500", "at least 1000"]),
        ("[kafka]\nproperties = { 'group.id' = 'x' }", &["group.id", "group_id"]),
        ("[kafka", &["infinite-scheduler.toml", "line 1"]),
    ] {
        let mut instance = Instance::spawn(config);
        let status = instance.exited(DEADLINE).await;
        let stderr = instance.stderr();
        assert_eq!(status.code(), Some(2), "{config}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{config}: {stderr}");
        let sentence = stderr.strip_prefix("infinite-scheduler: ").unwrap_or_default();
        for said in said {
            assert!(sentence.contains(said), "{config}: {said} must be in {stderr}");
        }
        assert!(!instance.stdout().contains("ready"), "{config}");
        check_hushed(&instance);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_or_a_database_file_in_use_is_said_with_code_two() {
    let database = Database::Sqlite.fresh().await;
    let config = format!(
        "[database]\nurl = \"{}\"\n[instance]\nlease_ms = 3000\n[apps.sms]\n",
        database.url()
    );
    let first = Instance::start(&config).await;
    let listen = format!("[http]\nlisten = \"127.0.0.1:{}\"", first.http_port());
    let mut second = Instance::spawn(&listen);
    assert_eq!(second.exited(DEADLINE).await.code(), Some(2));
    let said = second.stderr();
    assert!(said.contains("cannot listen on http.listen = 127.0.0.1:"), "{said}");

    let folder = temporary_folder();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "no database at all, but text that somebody wrote. ".repeat(100))
        .expect("a file");
    let mut other = Instance::spawn(&format!("[database]\nurl = 'sqlite://{}'", file.display()));
    assert_eq!(other.exited(DEADLINE).await.code(), Some(2), "{}", other.stderr());
    assert!(other.stderr().contains("not a database"), "{}", other.stderr());

    let mut second = Instance::spawn(&config);
    assert_eq!(second.exited(DEADLINE).await.code(), Some(2));
    let said = second.stderr();
    assert!(said.contains("in use by another instance") && said.contains("PostgreSQL"), "{said}");
    assert_eq!(get(&first, "/health/ready").await.0, 200, "the first one does not mind");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_actors_figures_are_logged_each_interval() {
    const KINDS: [(&str, &[&str]); 9] = [
        (
            "supervisor",
            &[
                "children",
                "restarts",
                "messagesReceived",
                "messagesProcessed",
                "messagesFailed",
                "messagesSentToDLQ",
                "messagesDuplicate",
                "messagesRetried",
                "idempotencyCacheSize",
            ],
        ),
        ("partition-reader", &["partition", "records", "next_offset", "lag"]),
        ("dedup", &["remembered", "asked", "recognised"]),
        (
            "app-scheduler",
            &[
                "app",
                "in_memory",
                "scheduled",
                "fired",
                "succeeded",
                "failed",
                "retried",
                "dead",
                "lateness_mean_ms",
                "lateness_max_ms",
            ],
        ),
        ("app-schedulers", &["apps", "quiet", "shards"]),
        ("outcomes", &["running", "in_flight", "written"]),
        ("retry-dlq", &["letters_published", "verdicts_published", "letter_lanes_waiting"]),
        ("shard-keeper", &["beats", "shards_held", "lease_valid"]),
        ("janitor", &["expired"]),
    ];
    let world = World::new(Database::Sqlite, 1).await;
    let config = world.config().replace("[log]", "[log]\nformat = \"json\"");
    let config =
        config.replace(r#""client.id""#, &format!(r#""sasl.password" = "{HUSH}", "client.id""#));
    let mut instance = Instance::start(&config).await;
    produce(&world.topic, &[record(0, "r"), RawRecord::new(0, "poison")]).await;
    wait_until(DEADLINE, "four reports of every actor", async || {
        let events = actor_events(&instance.stderr());
        // An app without activity since its last line has none.
        let enough = |kind| if kind == "app-scheduler" { 1 } else { 4 };
        let has_enough = |kind| events.get(kind).is_some_and(|all| all.len() >= enough(kind));
        KINDS.iter().all(|(kind, _)| has_enough(*kind))
            && events["app-scheduler"].last().is_some_and(|last| last["succeeded"] == 1)
    })
    .await;
    let events = actor_events(&instance.stderr());
    for (kind, fields) in KINDS {
        for event in &events[kind] {
            for field in fields {
                assert!(!event[*field].is_null(), "{kind} has no {field}: {event}");
            }
        }
    }
    let last = |kind: &str| events[kind].last().expect("an event");
    assert_eq!(last("supervisor")["messagesReceived"], 2);
    assert_eq!(last("supervisor")["restarts"], 0);
    assert_eq!(
        (&last("partition-reader")["records"], &last("partition-reader")["lag"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(
        (&last("app-scheduler")["app"], &last("app-scheduler")["succeeded"]),
        (&json!("sms"), &json!(1))
    );
    assert_eq!(
        (&last("retry-dlq")["letters_published"], &last("outcomes")["written"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        (&last("dedup")["remembered"], &last("shard-keeper")["shards_held"]),
        (&json!(1), &json!(8))
    );

    // Which rules of time zones are in force, once.
    assert_eq!(instance.stderr().matches("\"time_zones\":\"20").count(), 1);

    // One each interval, which is a second here; the machine may be slow, never hasty.
    let times: Vec<_> = events["supervisor"].iter().map(time_ms).collect();
    for pair in times.windows(2) {
        assert!((900..20_000).contains(&(pair[1] - pair[0])), "{times:?}");
    }
    assert_eq!(instance.terminate(DEADLINE).await.code(), Some(0));
    check_hushed(&instance);
}

/// The JSON events of each kind of actor. A line that is still being written is passed over.
fn actor_events(stderr: &str) -> BTreeMap<String, Vec<Value>> {
    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let whole = stderr.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON, {error}: {line}"));
        if let Some(actor) = event["actor"].as_str() {
            events.entry(actor.to_owned()).or_default().push(event);
        }
    }
    events
}

fn time_ms(event: &Value) -> i64 {
    let time = event["timestamp"].as_str().expect("a timestamp");
    chrono::DateTime::parse_from_rfc3339(time).expect("RFC 3339").timestamp_millis()
}
