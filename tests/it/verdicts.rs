//! Verdicts: every step of a request is published on the events topic, in order, and none is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::{
    AppConfig, JobContext, JobError, JobHandler, KafkaIngestConfig, OperationError, RequestStatus,
    ScheduleJobRequest, Scheduler, SchedulerBuilder, Submitted,
};
use serde_json::Value;

use crate::split_batches::REFUSE;
use crate::support::kafka::{RawRecord, create_topic, delete_topic, produce, read_all, set_topic};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::{OUTBOX_SCAN, World};

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);

/// A world whose verdicts go to a topic of their own.
struct Telling {
    world: World,
    events: String,
}

impl Telling {
    async fn new(database: Database) -> Self {
        let world = World::new(database, 2).await;
        let events = format!("{}.events", world.topic);
        create_topic(&events, 3, &[]).await;
        Self { world, events }
    }

    fn kafka(&self) -> KafkaIngestConfig {
        KafkaIngestConfig { events_topic: Some(self.events.clone()), ..self.world.kafka() }
    }

    fn builder(&self, handler: impl JobHandler) -> SchedulerBuilder {
        let delays_ms = vec![Duration::from_millis(20)];
        let mut app = AppConfig::new("sms");
        app.backoff = Backoff::Delays(delays_ms);
        app.max_attempts = 2.try_into().expect("not zero");
        self.world.builder_without_apps().with_kafka_ingest(self.kafka()).register_app(app, handler)
    }

    async fn all_published(&self) {
        wait_until(DEADLINE, "an empty outbox", async || {
            self.world.database.count("select count(*) from scheduler_outbox").await == 0
        })
        .await;
    }

    /// Verdicts by request, each once however often it came, in the order of its first coming.
    async fn by_request(&self) -> BTreeMap<String, Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in read_all(&self.events).await {
            let event = record.json();
            check_form(&record, &event);
            if seen.insert(text(&event["id"])) {
                let request = event["subject"].as_str().unwrap_or("nobody").to_owned();
                all.entry(request).or_default().push(text(&event["data"]["verdict"]));
            }
        }
        all
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// CloudEvents 1.0 in structured JSON, keyed by the request.
fn check_form(record: &RawRecord, event: &Value) {
    assert_eq!(record.header("content-type"), Some("application/cloudevents+json; charset=UTF-8"));
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["source"], "/infinite-scheduler");
    assert_eq!(event["datacontenttype"], "application/json");
    let verdict = text(&event["data"]["verdict"]);
    assert_eq!(text(&event["type"]), format!("io.infinitescheduler.{verdict}"));
    chrono::DateTime::parse_from_rfc3339(&text(&event["time"])).expect("a time");
    let key = record.key.as_deref().map(|key| std::str::from_utf8(key).expect("text"));
    assert_eq!(key, event["subject"].as_str(), "keyed by the request");
    assert_eq!(event["data"]["requestId"].as_str(), event["subject"].as_str());
}

fn request(id: &str, more: &str) -> RawRecord {
    let json = format!(r#"{{"requestId":"{id}","appName":"sms","scheduledTime":0{more}}}"#);
    RawRecord::new(0, json)
}

/// Fails once, or always, as the request's name says.
struct ByName;

impl JobHandler for ByName {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        let name = &context.job().request_id;
        let fails = name.starts_with("dies") || name.starts_with("twice") && context.attempt() == 1;
        if fails { Err(JobError::Retry(format!("{name} fails"))) } else { Ok(()) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdicts_of_every_request_are_published_in_order_on_sqlite() {
    the_verdicts_of_every_request_are_published_in_order(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdicts_of_every_request_are_published_in_order_on_mariadb() {
    the_verdicts_of_every_request_are_published_in_order(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdicts_of_every_request_are_published_in_order_on_mysql() {
    the_verdicts_of_every_request_are_published_in_order(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdicts_of_every_request_are_published_in_order_on_postgres() {
    the_verdicts_of_every_request_are_published_in_order(Database::Postgres).await;
}

async fn the_verdicts_of_every_request_are_published_in_order(database: Database) {
    let telling = Telling::new(database).await;
    let scheduler = telling.builder(ByName).start().await.expect("a start");
    let mut records: Vec<_> = (0..200).map(|n| request(&format!("good-{n}"), "")).collect();
    records.extend((0..50).map(|n| request(&format!("twice-{n}"), "")));
    records.extend((0..50).map(|n| request(&format!("dies-{n}"), "")));
    records.push(request("first", r#","idempotencyKey":"k""#));
    records.push(request("second", r#","idempotencyKey":"k""#));
    records.push(request("third", r#","idempotencyKey":"k","jobData":{"other":1}"#));
    records.push(request("expired", r#","expiresTime":1"#));
    records.push(RawRecord::new(0, r#"{"requestId":"timeless","appName":"sms"}"#));
    records.push(RawRecord::new(1, r#"{"requestId":"lost","appName":"nobody","scheduledTime":0}"#));
    records.push(RawRecord::new(1, "no JSON"));
    produce(&telling.world.topic, &records).await;
    wait_until(DEADLINE, "all letters", async || {
        telling
            .world
            .database
            .count("select count(*) from scheduler_dead_letter where state = 0")
            .await
            == 55
    })
    .await;
    wait_until(DEADLINE, "all jobs", async || {
        telling.world.database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
    let status = scheduler.request("sms", "dies-3").await.expect("an answer");
    assert!(matches!(&status, RequestStatus::Dead { message, .. } if message == "dies-3 fails"));
    assert_eq!(scheduler.request("sms", "no such").await, Ok(RequestStatus::Unknown));
    telling.all_published().await;
    let sent = scheduler.ingest_metrics().verdicts_sent;
    scheduler.shutdown(DRAIN).await;

    let told = telling.by_request().await;
    let all: usize = told.values().map(Vec::len).sum();
    assert_eq!(sent as usize, all, "nothing failed, so each was sent once");
    for (request, verdicts) in &told {
        let expected: &[&str] = match request.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "good-" | "first" => &["accepted", "fired", "succeeded"],
            "twice-" => &["accepted", "fired", "retrying", "fired", "succeeded"],
            "dies-" => &["accepted", "fired", "retrying", "fired", "dead"],
            "expired" => &["accepted", "dead"],
            "second" => &["duplicate"],
            "third" | "timeless" | "lost" | "nobody" => &["rejected"],
            other => panic!("{other}?"),
        };
        assert_eq!(verdicts, expected, "{request}");
    }
    assert_eq!(told.len(), 307, "nobody is left out");
    check_details(&telling, records.len()).await;
}

/// The further fields of the verdicts.
async fn check_details(telling: &Telling, records: usize) {
    let all = read_all(&telling.events).await;
    let of = |request: &str, verdict: &str| -> Value {
        let is = |event: &Value| {
            event["subject"].as_str().unwrap_or_default() == request
                && event["data"]["verdict"] == verdict
        };
        all.iter().map(RawRecord::json).find(is).expect("an event")["data"].clone()
    };
    let accepted = of("good-0", "accepted");
    assert_eq!((&accepted["partition"], &accepted["offset"]), (&0.into(), &0.into()));
    assert_eq!(accepted["topic"], *telling.world.topic);
    let fired = of("good-0", "fired");
    assert_eq!(fired["jobId"], accepted["jobId"]);
    assert_eq!(fired["attempt"], 1);
    assert!(fired["fence"].as_u64() > Some(0));
    assert_eq!(of("second", "duplicate")["duplicateOf"], "first");
    assert_eq!(of("third", "rejected")["kind"], "idempotency-conflict");
    assert_eq!(of("dies-0", "dead")["kind"], "attempts-exhausted");
    assert_eq!(of("dies-0", "retrying")["message"], "dies-0 fails");
    // Each record has exactly one verdict, by its offset.
    let admission = ["accepted", "duplicate", "rejected"];
    let places: Vec<_> = all
        .iter()
        .map(|record| record.json()["data"].clone())
        .filter(|data| admission.contains(&data["verdict"].as_str().unwrap_or_default()))
        .map(|data| (data["partition"].as_i64(), data["offset"].as_i64()))
        .collect();
    let distinct: BTreeSet<_> = places.iter().collect();
    assert_eq!((places.len(), distinct.len()), (records, records));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_have_verdicts_too() {
    for database in Database::all() {
        let telling = Telling::new(database).await;
        let scheduler = telling.builder(ByName).start().await.expect("a start");
        let request = |id: &str, key: &str, data: &str| {
            let request = ScheduleJobRequest::builder("sms").request_id(id).at("2020-01-01T00:00");
            request.idempotency_key(key).raw_job_data(data).build().expect("a request")
        };
        let accepted = scheduler.schedule(request("one", "k", "{}")).await;
        assert!(matches!(accepted, Ok(Submitted::Accepted { .. })), "{accepted:?}");
        let duplicate = scheduler.schedule(request("two", "k", "{}")).await;
        assert!(matches!(duplicate, Ok(Submitted::Duplicate { .. })), "{duplicate:?}");
        let conflict = scheduler.schedule(request("three", "k", r#"{"a":1}"#)).await;
        assert!(matches!(conflict, Err(OperationError::Refused(_))), "{conflict:?}");
        let far = ScheduleJobRequest::builder("sms").request_id("four").at("9999-01-01T00:00");
        let far = scheduler.schedule(far.build().expect("a request")).await;
        assert!(matches!(far, Err(OperationError::Refused(_))), "{far:?}");
        if database == Database::Postgres {
            for sql in REFUSE {
                telling.world.database.execute(sql).await;
            }
            let refused =
                scheduler.schedule(request("refused", "other", r#"{"a":"refuse"}"#)).await;
            assert!(matches!(refused, Err(OperationError::Refused(_))), "{refused:?}");
        }
        wait_until(DEADLINE, "the job's end", async || {
            scheduler.ingest_metrics().apps["sms"].succeeded == 1
        })
        .await;
        telling.all_published().await;
        scheduler.shutdown(DRAIN).await;
        let told = telling.by_request().await;
        let of = |request: &str| told[request].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(of("one"), ["accepted", "fired", "succeeded"], "{database:?}");
        assert_eq!(of("two"), ["duplicate"], "{database:?}");
        assert_eq!(of("three"), ["rejected"], "{database:?}");
        assert_eq!(of("four"), ["rejected"], "{database:?}");
        let by_database = usize::from(database == Database::Postgres);
        assert!(by_database == 0 || of("refused") == ["rejected"]);
        assert_eq!(told.len(), 4 + by_database, "{database:?}");
    }
}

/// The topic is missing for a while, and the actor that publishes panics: all is published in
/// the end, in order.
#[tokio::test(flavor = "multi_thread")]
async fn verdicts_wait_for_their_topic_and_survive_their_actor() {
    for database in Database::SERVERS {
        let telling = Telling::new(database).await;
        delete_topic(&telling.events).await;
        let events = telling.kafka().events_topic;
        let kafka =
            KafkaIngestConfig { events_topic: events, ..telling.world.kafka_without_topics() };
        let builder = telling.builder(ByName).with_kafka_ingest(kafka);
        let scheduler = builder.outbox_scan_interval(OUTBOX_SCAN).start().await.expect("a start");
        let records: Vec<_> = (0..100).map(|n| request(&format!("twice-{n}"), "")).collect();
        produce(&telling.world.topic, &records).await;
        wait_until(DEADLINE, "all jobs", async || {
            scheduler.ingest_metrics().apps["sms"].succeeded == 100
        })
        .await;
        let complains =
            || scheduler.health().sentences().iter().any(|said| said.starts_with("verdicts"));
        wait_until(DEADLINE, "a complaint", async || complains()).await;
        assert!(scheduler.ingest_metrics().verdicts_not_published > 0);
        assert_eq!(scheduler.break_actors("retry-dlq").await, 1);
        create_topic(&telling.events, 3, &[]).await;
        telling.all_published().await;
        wait_until(DEADLINE, "no complaint", async || !complains()).await;
        scheduler.shutdown(DRAIN).await;
        let told = telling.by_request().await;
        assert_eq!(told.len(), 100, "{database:?}");
        for (request, verdicts) in told {
            let expected = ["accepted", "fired", "retrying", "fired", "succeeded"];
            assert_eq!(verdicts, expected, "{database:?} {request}");
        }
    }
}

/// A verdict on a record that names no request has no key, and a compacted topic refuses it:
/// it alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_events_topic_takes_every_verdict_that_has_a_key() {
    let telling = Telling::new(Database::Postgres).await;
    set_topic(&telling.events, "cleanup.policy", "compact").await;
    let builder = telling.builder(ByName).outbox_scan_interval(OUTBOX_SCAN);
    let scheduler = builder.start().await.expect("a start");
    let nameless = |n| if n % 5 == 0 { RawRecord::new(1, "no JSON") } else { good(n) };
    fn good(n: i32) -> RawRecord {
        request(&format!("good-{n}"), "")
    }
    let records: Vec<_> = (0..200).map(nameless).collect();
    produce(&telling.world.topic, &records).await;
    wait_until(DEADLINE, "what is refused", async || {
        let said = scheduler.health().sentences();
        said.iter().any(|said| said.starts_with("verdicts: ") && said.contains("it has no key"))
    })
    .await;
    wait_until(DEADLINE, "all the others", async || {
        scheduler.ingest_metrics().verdicts_sent == 160 * 3
    })
    .await;
    assert_eq!(scheduler.ingest_metrics().verdicts_not_published, 40);
    set_topic(&telling.events, "cleanup.policy", "delete").await;
    telling.all_published().await;
    scheduler.shutdown(DRAIN).await;
    let told = telling.by_request().await;
    assert_eq!(told.len(), 161);
    for (request, verdicts) in told.iter().filter(|(request, _)| *request != "nobody") {
        assert_eq!(verdicts, &["accepted", "fired", "succeeded"], "{request}");
    }
}

/// Counts its jobs.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl JobHandler for Counting {
    async fn execute(&self, _: &JobContext) -> Result<(), JobError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_events_topic_nothing_is_published() {
    let world = World::new(Database::Sqlite, 1).await;
    let counting = Counting::default();
    let builder =
        world.builder_without_apps().register_app(AppConfig::new("sms"), counting.clone());
    let scheduler: Scheduler = builder.start().await.expect("a start");
    produce(&world.topic, &[request("one", ""), request("one", "")]).await;
    wait_until(DEADLINE, "both read", async || scheduler.ingest_metrics().messages_received == 2)
        .await;
    wait_until(DEADLINE, "the job", async || counting.0.load(Ordering::Relaxed) > 0).await;
    scheduler.shutdown(DRAIN).await;
    assert_eq!(world.database.count("select count(*) from scheduler_outbox").await, 0);
    assert_eq!(scheduler.ingest_metrics().verdicts_sent, 0);
}
