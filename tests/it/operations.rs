//! The same operations, called in every way that exists: the answers must be the same.
//!
//! `asks` defines the operations; each way is a file that gives its answers as JSON. A further
//! surface is a further file and one more arm in `Way`.

mod asks;
mod cases;
mod command;
mod handle;
mod http;

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use infinite_scheduler::operations::{LetterFilter, Operations, OperationsOptions, PageRequest};
use infinite_scheduler::{RequestStatus, ScheduleJobRequest, Scheduler};
use serde_json::{Value, json};

use self::asks::Ask;
use self::cases::CASES;
use self::command::CommandLine;
use self::handle::Groups;
use self::http::Http;
use crate::support::kafka::{RawRecord, produce};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);

/// Fired before anything is asked.
const DONE: &str = r#"{"requestId":"done","appName":"sms","scheduledTime":"2020-01-01T00:00:00Z","jobData":{"a":1}}"#;
const RECORDS: [&str; 6] = [
    "one is not JSON",
    "two is not JSON",
    "three is not JSON",
    "four is not JSON",
    r#"{"requestId":"no-time","appName":"sms"}"#,
    r#"{"requestId":"good","appName":"sms","scheduledTime":"2031-01-01T00:00:00Z"}"#,
];
const LETTERS: u64 = 5;

/// A way to ask.
enum Way {
    /// The command, with a running instance or on a database alone.
    Command(CommandLine, Option<Instance>),
    /// The HTTP API of an instance.
    Http(Http),
    /// The handle of a running scheduler.
    Handle(Scheduler),
    /// The operations on a database alone, in a program.
    Operations(Operations),
}

impl Way {
    async fn ask(&self, ask: &Ask, surroundings: &Surroundings) -> Value {
        match self {
            Self::Command(command, _) => command.ask(ask, surroundings).await,
            Self::Http(http) => http.ask(ask, surroundings).await,
            Self::Handle(scheduler) => Groups::of_scheduler(scheduler).ask(ask, surroundings).await,
            Self::Operations(operations) => Groups::of(operations).ask(ask, surroundings).await,
        }
    }

    async fn end(self) {
        match self {
            Self::Command(_, instance) => drop(instance),
            Self::Http(http) => drop(http),
            Self::Handle(scheduler) => scheduler.shutdown(DEADLINE).await,
            Self::Operations(operations) => operations.close().await,
        }
    }
}

/// The environment of one way: its own database and topics, with the same contents.
struct Surroundings {
    world: World,
    /// The letters' ids by the word that their record begins with.
    letters: HashMap<String, String>,
}

impl Surroundings {
    async fn new(database: Database) -> Self {
        let world = World::new(database, 1).await;
        let scheduler = world.builder().start().await.expect("a start");
        produce(&world.topic, &RECORDS.map(|value| RawRecord::new(0, value))).await;
        wait_until(DEADLINE, "every letter to be published", async || {
            let metrics = scheduler.ingest_metrics();
            metrics.messages_sent_to_dlq == LETTERS && metrics.messages_processed == 1
        })
        .await;
        let done = ScheduleJobRequest::from_json(DONE.as_bytes()).expect("a request");
        scheduler.schedule(done).await.expect("a job");
        wait_until(DEADLINE, "a job to end", async || {
            let status = scheduler.request("sms", "done").await.expect("a status");
            matches!(status, RequestStatus::Succeeded { .. })
        })
        .await;
        scheduler.shutdown(DEADLINE).await;
        let operations = Operations::connect(OperationsOptions::new(world.database.url()));
        let operations = operations.await.expect("a database");
        let filter = LetterFilter::default();
        let page = operations
            .dead_letters()
            .list(&filter, &PageRequest::default())
            .await
            .expect("letters");
        let mut letters = HashMap::new();
        for letter in page.items {
            let shown = operations.dead_letters().show(&letter.id.into()).await.expect("a letter");
            let value = String::from_utf8(shown.value.expect("a value")).expect("text");
            let word = value.split(' ').next().expect("a word").to_owned();
            letters.insert(word, letter.id.to_string());
        }
        operations.close().await;
        letters.insert("none".into(), "00000000-0000-0000-0000-000000000000".into());
        Self { world, letters }
    }

    fn id(&self, word: &str) -> &str {
        &self.letters[word]
    }

    /// The answer without what differs from one run to the next.
    fn comparable(&self, answer: Value) -> Value {
        match answer {
            Value::String(text) => json!(self.comparable_text(&text)),
            Value::Array(mut items) => {
                // Letters of one millisecond are in the order of their ids.
                items.sort_by_key(|item| item["offset"].as_i64());
                items.into_iter().map(|item| self.comparable(item)).collect()
            }
            Value::Object(fields) => fields
                .into_iter()
                .filter(|(name, _)| {
                    let differing = [
                        "owner",
                        "instances",
                        "ownedShards",
                        "etag",
                        "instance",
                        "latenessMs",
                        "durationMs",
                    ];
                    !differing.contains(&&**name)
                })
                .map(|(name, value)| (name, self.comparable(value)))
                .collect(),
            other => other,
        }
    }

    fn comparable_text(&self, text: &str) -> String {
        let mut text = text.replace(&self.world.topic, "TOPIC");
        // An instance that refuses an unknown app adds which ones it has itself.
        text = text.replace(" (this instance has sms)", "");
        for (word, id) in &self.letters {
            text = text.replace(id, &format!("letter {word}"));
        }
        let word = |word: &str| {
            let time: Result<chrono::DateTime<chrono::Utc>, _> =
                word.trim_end_matches([';', ',', ':']).parse();
            // Jobs are due later than anything that happens here.
            match time.is_ok_and(|time| time.timestamp_millis() < FAR_MS) {
                true => "TIME".to_owned(),
                false => word.to_owned(),
            }
        };
        text.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }
}

/// 2031-01-01T00:00:00Z
const FAR_MS: i64 = 1_924_992_000_000;

async fn every_way_gets_the_same_answers(database: Database) {
    let surroundings: Vec<Surroundings> =
        join_all((0..5).map(|_| Surroundings::new(database))).await;
    let [alone, beside, http, handle, operations] = &surroundings[..] else { unreachable!("five") };
    let instance = Instance::start(&beside.world.config()).await;
    let served = Http::start(&http.world.config()).await;
    let scheduler = handle.world.builder().start().await.expect("a start");
    let options = OperationsOptions::new(operations.world.database.url())
        .with_kafka_ingest(operations.world.kafka());
    let connected = Operations::connect(options).await.expect("a database");
    let ways = [
        ("the command alone", Way::Command(CommandLine::new(alone), None), alone),
        ("the command beside", Way::Command(CommandLine::new(beside), Some(instance)), beside),
        ("http", Way::Http(served), http),
        ("the handle", Way::Handle(scheduler), handle),
        ("operations", Way::Operations(connected), operations),
    ];
    let mut differences = Vec::new();
    for (case, ask) in CASES {
        let answers = ways.iter().map(async |(name, way, surroundings)| {
            (name, surroundings.comparable(way.ask(ask, surroundings).await))
        });
        let answers = join_all(answers).await;
        println!("{database:?}: {case}: {}", answers[0].1);
        if answers.iter().any(|(_, answer)| answer != &answers[0].1) {
            let all: Vec<_> =
                answers.iter().map(|(name, one)| format!("  {name}: {one}")).collect();
            differences.push(format!("{case}\n{}", all.join("\n")));
        }
    }
    assert!(differences.is_empty(), "{database:?}\n{}", differences.join("\n"));
    for (_, way, _) in ways {
        way.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_gets_the_same_answers_on_sqlite() {
    every_way_gets_the_same_answers(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_gets_the_same_answers_on_mariadb() {
    every_way_gets_the_same_answers(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_gets_the_same_answers_on_mysql() {
    every_way_gets_the_same_answers(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_gets_the_same_answers_on_postgres() {
    every_way_gets_the_same_answers(Database::Postgres).await;
}

/// What the table leaves out, since it depends on whether an instance runs.
#[tokio::test(flavor = "multi_thread")]
async fn apps_and_partitions_say_who_has_them() {
    let world = World::new(Database::Postgres, 1).await;
    let scheduler = world.builder().instance_id("one").start().await.expect("a start");
    let options = OperationsOptions::new(world.database.url()).with_kafka_ingest(world.kafka());
    let operations = Operations::connect(options).await.expect("a database");
    wait_until(DEADLINE, "the partition's reader", async || {
        let positions = scheduler.ingest().positions().await.expect("positions");
        positions.partitions[0].owner.as_deref() == Some("one")
    })
    .await;
    let apps = operations.apps().list().await.expect("apps");
    assert_eq!(apps, scheduler.apps().list().await.expect("apps"));
    assert_eq!((apps.len(), &*apps[0].app_name), (1, "sms"));
    assert_eq!(apps[0].instances, ["one"]);
    assert_eq!((apps[0].shards, apps[0].owned_shards), (8, 8));
    scheduler.shutdown(DEADLINE).await;
    let apps = operations.apps().list().await.expect("apps");
    assert_eq!((apps[0].instances.len(), apps[0].owned_shards), (0, 0));
    let positions = operations.ingest().positions().await.expect("positions");
    assert_eq!(positions.partitions[0].owner, None);
    operations.close().await;
}

/// A group is no handle: after the end of its scheduler it answers that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_every_group_says_so() {
    use infinite_scheduler::OperationError;
    let world = World::new(Database::Sqlite, 1).await;
    let scheduler = world.builder().start().await.expect("a start");
    scheduler.shutdown(DEADLINE).await;
    assert_eq!(scheduler.apps().list().await, Err(OperationError::ShutDown));
    assert_eq!(scheduler.ingest().positions().await, Err(OperationError::ShutDown));
    assert_eq!(scheduler.jobs().request("sms", "x").await, Err(OperationError::ShutDown));
    let filter = LetterFilter::default();
    let letters = scheduler.dead_letters().list(&filter, &PageRequest::default()).await;
    assert_eq!(letters, Err(OperationError::ShutDown));
}
