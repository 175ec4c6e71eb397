//! Operations that come by records and name their job: what becomes of them, in whatever order they
//! arrive, and what their producers are told.

mod by_key;
mod random_order;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use infinite_scheduler::{
    AppConfig, JobContext, JobError, KafkaIngestConfig, Scheduler, handler_fn,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::kafka::{RawRecord, create_topic, produce, read_all};
use crate::support::services::Database;
use crate::support::world::World;
use crate::support::{on_each_database, wait_until};

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);
const HOUR: i64 = 3_600_000;

on_each_database! {
    operations_by_records_are_decided_by_what_exists
    operations_and_their_job_in_one_batch_come_to_the_same
    a_job_that_waits_for_another_attempt_is_replaced_as_well
}

fn now_ms() -> i64 {
    let now: DateTime<Utc> = SystemTime::now().into();
    now.timestamp_millis()
}

/// What is fired: the `v` of the data, by request. Requests that begin with `held` wait, and the
/// first version of one that begins with `again` is to be tried again in an hour.
#[derive(Clone, Debug)]
struct Fired {
    all: Arc<Mutex<Vec<(String, i64)>>>,
    go: Arc<Semaphore>,
}

impl Fired {
    fn of(&self, request: &str) -> Vec<i64> {
        let all = self.all.lock().expect("a lock");
        all.iter().filter(|(id, _)| id == request).map(|(_, v)| *v).collect()
    }

    fn count(&self) -> usize {
        self.all.lock().expect("a lock").len()
    }
}

/// An instance that reads, with its events.
struct Named {
    world: World,
    events: String,
    fired: Fired,
    scheduler: Scheduler,
}

impl Named {
    async fn start(database: Database) -> Self {
        let world = World::new(database, 2).await;
        let events = format!("{}.events", world.topic);
        create_topic(&events, 1, &[]).await;
        let fired = Fired { all: Arc::default(), go: Arc::new(Semaphore::new(0)) };
        let scheduler = start(&world, &events, &fired).await;
        Self { world, events, fired, scheduler }
    }

    async fn send(&self, partition: i32, value: &Value) {
        produce(&self.world.topic, &[RawRecord::new(partition, value.to_string())]).await;
    }

    /// The verdicts by request, each once, in their order.
    async fn verdicts(&self) -> BTreeMap<String, Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in read_all(&self.events).await {
            let event = record.json();
            if seen.insert(event["id"].to_string()) {
                let request = event["subject"].as_str().unwrap_or("nobody").to_owned();
                let verdict = event["data"]["verdict"].as_str().expect("a verdict").to_owned();
                all.entry(request).or_default().push(verdict);
            }
        }
        all
    }

    async fn await_verdicts(&self, request: &str, verdicts: &[&str]) {
        let what = format!("the verdicts {verdicts:?} of {request}");
        wait_until(DEADLINE, &what, async || {
            self.verdicts().await.remove(request).unwrap_or_default() == verdicts
        })
        .await;
    }

    async fn count(&self, of: &str) -> i64 {
        self.world.database.count(&format!("select count(*) from {of}")).await
    }

    /// The totals of the ledger: records, jobs, duplicates, operations, dead letters.
    async fn totals(&self) -> [i64; 5] {
        let mut totals = [0; 5];
        let columns = ["records", "jobs", "duplicates", "operations", "dead_letters"];
        for (total, column) in totals.iter_mut().zip(columns) {
            let integer = match self.world.database.backend() {
                Database::MariaDb | Database::MySql => "signed",
                Database::Postgres | Database::Sqlite => "bigint",
            };
            let sum = format!(
                "select cast(coalesce(sum({column}), 0) as {integer}) from scheduler_ingest_offset"
            );
            *total = self.world.database.count(&sum).await;
        }
        totals
    }

    async fn await_records(&self, records: i64) {
        wait_until(DEADLINE, "all records", async || self.totals().await[0] == records).await;
        let waiting = "scheduler_command where state = 0";
        wait_until(DEADLINE, "the commands", async || self.count(waiting).await == 0).await;
    }
}

async fn start(world: &World, events: &str, fired: &Fired) -> Scheduler {
    let kafka = KafkaIngestConfig { events_topic: Some(events.to_owned()), ..world.kafka() };
    let fired = fired.clone();
    let handler = handler_fn(move |context: JobContext, data: Value| {
        let fired = fired.clone();
        async move {
            let request = context.job().request_id.clone();
            let v = data["v"].as_i64().unwrap_or_default();
            fired.all.lock().expect("a lock").push((request.clone(), v));
            if request.starts_with("held") {
                fired.go.acquire().await.expect("open").forget();
            }
            match request.starts_with("again") && v == 1 {
                true => Err(JobError::RetryAfter(Duration::from_secs(3600), "503".to_owned())),
                false => Ok(()),
            }
        }
    });
    let builder = world.builder_without_apps().with_kafka_ingest(kafka);
    builder.register_app(AppConfig::new("sms"), handler).start().await.expect("a start")
}

/// A schedule `in_ms` from now, with a key so that its job does not come again after a seek.
fn schedule(request: &str, version: Option<i64>, v: i64, in_ms: i64) -> Value {
    json!({
        "requestId": request, "appName": "sms", "scheduledTime": now_ms() + in_ms,
        "idempotencyKey": format!("key of {request}"), "version": version, "jobData": { "v": v },
    })
}

fn cancel(own: &str, target: &str, version: Option<i64>) -> Value {
    json!({
        "requestId": own, "appName": "sms", "operation": "cancel", "targetRequestId": target,
        "version": version,
    })
}

fn reschedule(own: &str, target: &str, version: Option<i64>, in_ms: i64) -> Value {
    json!({ "scheduledTime": now_ms() + in_ms, "requestId": own, "appName": "sms",
        "operation": "reschedule", "targetRequestId": target, "version": version })
}

async fn operations_by_records_are_decided_by_what_exists(database: Database) {
    let named = Named::start(database).await;

    // A cancellation before its schedule, from another partition.
    named.send(1, &cancel("c-early", "early", None)).await;
    named.await_verdicts("c-early", &["remembered"]).await;
    let awaited = "scheduler_job where priority = 3 and cancelled_ms is null";
    assert_eq!(named.count(awaited).await, 1);
    named.send(0, &schedule("early", None, 1, 0)).await;
    named.await_verdicts("early", &["accepted", "cancelled"]).await;

    // A reschedule before its schedule; another one on the job itself.
    named.send(1, &reschedule("m-moved", "moved", Some(5), HOUR)).await;
    named.await_verdicts("m-moved", &["remembered"]).await;
    named.send(0, &schedule("moved", Some(1), 1, 0)).await;
    named.await_verdicts("moved", &["accepted"]).await;
    named.send(1, &reschedule("m-moved-2", "moved", Some(6), 0)).await;
    named.await_verdicts("m-moved-2", &["applied"]).await;
    named.await_verdicts("moved", &["accepted", "rescheduled", "fired", "succeeded"]).await;

    // Versions do not go back, and what is cancelled lives again by a higher one.
    named.send(0, &schedule("back", Some(3), 3, HOUR)).await;
    named.await_verdicts("back", &["accepted"]).await;
    for (own, version, verdict) in
        [("c-back-2", 2, "superseded"), ("c-back-3", 3, "applied"), ("c-back-4", 4, "unchanged")]
    {
        named.send(1, &cancel(own, "back", Some(version))).await;
        named.await_verdicts(own, &[verdict]).await;
    }
    named.send(0, &schedule("back", Some(4), 4, HOUR)).await;
    named.await_verdicts("back", &["accepted", "cancelled", "duplicate"]).await;
    named.send(0, &schedule("back", Some(5), 5, 0)).await;
    let lives = ["accepted", "cancelled", "duplicate", "accepted", "fired", "succeeded"];
    named.await_verdicts("back", &lives).await;
    assert_eq!(named.fired.of("back"), [5]);

    // A higher version replaces a job that waits; the same version is compared.
    named.send(0, &schedule("new", Some(1), 1, HOUR)).await;
    named.await_verdicts("new", &["accepted"]).await;
    named.send(1, &schedule("new", Some(1), 1, HOUR)).await;
    named.await_verdicts("new", &["accepted", "duplicate"]).await;
    named.send(1, &schedule("new", Some(1), 9, HOUR)).await;
    named.await_verdicts("new", &["accepted", "duplicate", "rejected"]).await;
    named.send(1, &schedule("new", Some(2), 2, 0)).await;
    let replaced = ["accepted", "duplicate", "rejected", "replaced", "accepted"];
    named.await_verdicts("new", &[&replaced[..], &["fired", "succeeded"]].concat()).await;
    assert_eq!(named.fired.of("new"), [2]);

    // After it has fired, and while it runs.
    named.send(1, &cancel("c-new", "new", Some(9))).await;
    named.await_verdicts("c-new", &["already-fired"]).await;
    named.send(0, &schedule("held", None, 1, 0)).await;
    wait_until(DEADLINE, "its attempt", async || named.fired.of("held") == [1]).await;
    named.send(1, &reschedule("m-held", "held", None, HOUR)).await;
    named.await_verdicts("m-held", &["running"]).await;
    named.send(1, &cancel("c-held", "held", None)).await;
    named.await_verdicts("c-held", &["running"]).await;
    named.fired.go.add_permits(1);

    // What is malformed.
    named.send(1, &json!({ "requestId": "bad", "appName": "sms", "operation": "cancel" })).await;
    named.await_verdicts("bad", &["rejected"]).await;

    named.await_records(20).await;
    let totals = named.totals().await;
    let [records, jobs, duplicates, operations, dead] = totals;
    assert_eq!(records, jobs + duplicates + operations + dead, "{totals:?}");
    assert_eq!(totals, [20, 6, 2, 10, 2], "{totals:?}");
    wait_until(DEADLINE, "its end", async || {
        named.count("scheduler_job where priority < 3").await == 0
    })
    .await;

    // Everything again: nothing is fired, and nothing lives.
    let (fired, kept) = (named.fired.count(), named.count("scheduler_job").await);
    let Named { world, events, fired: receiver, scheduler } = named;
    scheduler.shutdown(DRAIN).await;
    world.database.execute("update scheduler_ingest_offset set next_offset = 0").await;
    let scheduler = start(&world, &events, &receiver).await;
    let named = Named { world, events, fired: receiver, scheduler };
    named.await_records(40).await;
    assert_eq!(named.fired.count(), fired);
    assert_eq!(named.count("scheduler_job where priority < 3").await, 0);
    assert_eq!(named.count("scheduler_job").await, kept);
    named.scheduler.shutdown(DRAIN).await;
}

async fn a_job_that_waits_for_another_attempt_is_replaced_as_well(database: Database) {
    let named = Named::start(database).await;
    let mut all = vec!["accepted", "fired", "retrying"];
    named.send(0, &schedule("again", Some(1), 1, 0)).await;
    named.await_verdicts("again", &all).await;
    named.send(1, &schedule("again", Some(1), 1, 0)).await;
    all.push("duplicate");
    named.await_verdicts("again", &all).await;
    named.send(1, &schedule("again", Some(2), 2, 0)).await;
    all.extend(["replaced", "accepted", "fired", "succeeded"]);
    named.await_verdicts("again", &all).await;
    assert_eq!(named.fired.of("again"), [1, 2]);
    // Each job has its own first attempt.
    let first = "scheduler_job_history where request_id = 'again' and attempt = 1";
    assert_eq!(named.count(first).await, 2);

    // A cancellation and a reschedule hold for such a job, too.
    named.send(0, &schedule("again-2", None, 1, 0)).await;
    named.await_verdicts("again-2", &["accepted", "fired", "retrying"]).await;
    named.send(1, &cancel("c-again", "again-2", None)).await;
    named.await_verdicts("c-again", &["applied"]).await;
    named.await_verdicts("again-2", &["accepted", "fired", "retrying", "cancelled"]).await;
    named.scheduler.shutdown(DRAIN).await;
}

async fn operations_and_their_job_in_one_batch_come_to_the_same(database: Database) {
    let named = Named::start(database).await;
    let all = [
        cancel("c-early", "early", None),
        schedule("early", None, 1, 0),
        reschedule("m-moved", "moved", Some(5), 2 * HOUR),
        schedule("moved", Some(1), 1, 0),
        schedule("later", None, 1, 0),
        reschedule("m-later", "later", None, 3 * HOUR),
        schedule("gone", Some(2), 1, 0),
        cancel("c-gone-1", "gone", Some(1)),
        cancel("c-gone", "gone", Some(2)),
        schedule("gone", Some(2), 1, 0),
        schedule("back", Some(2), 2, HOUR),
        cancel("c-back", "back", None),
        schedule("back", Some(3), 3, 4 * HOUR),
        schedule("new", Some(1), 1, 0),
        schedule("new", Some(3), 3, 5 * HOUR),
        schedule("new", Some(2), 2, 0),
        reschedule("m-never", "never", Some(1), HOUR),
    ];
    let records: Vec<RawRecord> =
        all.iter().map(|value| RawRecord::new(0, value.to_string())).collect();
    produce(&named.world.topic, &records).await;
    named.await_records(17).await;

    let verdicts: &[(&str, &[&str])] = &[
        ("c-early", &["remembered"]),
        ("early", &["accepted", "cancelled"]),
        ("m-moved", &["remembered"]),
        ("moved", &["accepted"]),
        ("m-later", &["applied"]),
        ("later", &["accepted", "rescheduled"]),
        ("c-gone-1", &["superseded"]),
        ("c-gone", &["applied"]),
        ("gone", &["accepted", "cancelled", "duplicate"]),
        ("c-back", &["applied"]),
        ("back", &["accepted", "cancelled", "accepted"]),
        ("new", &["accepted", "replaced", "accepted", "superseded"]),
        ("m-never", &["remembered"]),
    ];
    let told = |verdicts: &[&str]| {
        let mut verdicts: Vec<String> = verdicts.iter().map(|name| (*name).to_owned()).collect();
        verdicts.sort();
        verdicts
    };
    let count: usize = verdicts.iter().map(|(_, told)| told.len()).sum();
    wait_until(DEADLINE, "the verdicts", async || {
        named.verdicts().await.values().map(Vec::len).sum::<usize>() >= count
    })
    .await;
    let mut all = named.verdicts().await;
    for (request, expected) in verdicts {
        let mut given = all.remove(*request).unwrap_or_default();
        // Those of the job come by its shard, and the others by the partition.
        given.sort();
        assert_eq!(given, told(expected), "{request}");
    }
    assert!(all.is_empty(), "{all:?}");
    for (request, in_ms) in [("moved", 2), ("later", 3), ("back", 4), ("new", 5)] {
        let due = format!(
            "scheduler_job where request_id = '{request}' and priority = 1 \
             and due_ms between {} and {}",
            now_ms() + in_ms * HOUR - HOUR / 2,
            now_ms() + in_ms * HOUR
        );
        assert_eq!(named.count(&due).await, 1, "{request}");
    }
    assert_eq!(named.count("scheduler_job where priority < 3").await, 4);
    let [records, jobs, duplicates, operations, dead] = named.totals().await;
    assert_eq!([records, jobs, duplicates, operations, dead], [17, 7, 1, 9, 0]);
    assert_eq!(named.fired.count(), 0);
    named.scheduler.shutdown(DRAIN).await;
}
