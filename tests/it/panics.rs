//! Panics of handlers and of every kind of actor: a handler's panic affects only its job, and a
//! replaced actor continues where the previous one ended.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use chrono::DateTime;
use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::{AppConfig, JobContext, JobError, JobHandler, Scheduler};

use crate::support::attempts::Attempts;
use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 3;

/// How many attempts of a job panic before one does not, by the job's number.
const PANICS: [u32; 6] = [0, 0, 1, 0, 2, 99];
/// After these a job is dead.
const MOST: u32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_has_failed_an_attempt_and_nothing_else_on_sqlite() {
    a_handler_that_panics_has_failed_an_attempt(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_has_failed_an_attempt_and_nothing_else_on_postgres() {
    a_handler_that_panics_has_failed_an_attempt(Database::Postgres).await;
}

async fn a_handler_that_panics_has_failed_an_attempt(database: Database) {
    const JOBS: usize = 300;
    let world = World::new(database, PARTITIONS).await;
    let attempts = Attempts::default();
    let mut app = AppConfig::new("sms");
    app.max_attempts = NonZeroU32::new(MOST).expect("not zero");
    app.backoff = Backoff::Delays(vec![Duration::from_millis(50)]);
    let builder = world.builder_without_apps().register_app(app, Obedient(attempts.clone()));
    let scheduler = builder.start().await.expect("a start");
    let panics = |n: usize| PANICS[n % PANICS.len()];
    let records: Vec<_> = (0..JOBS)
        .map(|n| {
            let data = format!(r#"{{"panics": {}, "n":1.50}}"#, panics(n));
            let value = format!(
                r#"{{"requestId":"r-{n}","appName":"sms","scheduledTime":1000,"jobData":{data},"priority":"low"}}"#
            );
            RawRecord::new(n as i32 % PARTITIONS, value).with_header("traceparent", "00-1-2-01")
        })
        .collect();
    let offsets = produce(&world.topic, &records).await;

    let dead: BTreeSet<usize> = (0..JOBS).filter(|n| panics(*n) >= MOST).collect();
    let alive = JOBS - dead.len();
    wait_until(DEADLINE, "every job's end", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["sms"].succeeded as usize >= alive
            && metrics.messages_sent_to_dlq as usize >= dead.len()
    })
    .await;
    let metrics = scheduler.ingest_metrics();
    let app = &metrics.apps["sms"];
    let failed: u32 = (0..JOBS).map(|n| panics(n).min(MOST)).sum();
    assert_eq!((app.succeeded as usize, app.dead as usize), (alive, dead.len()));
    assert_eq!(app.failed, u64::from(failed));
    assert_eq!(app.retried as usize, failed as usize - dead.len());
    assert_eq!(app.fired as usize, failed as usize + alive);
    assert_eq!((metrics.messages_failed, metrics.jobs_rescued), (0, 0));
    scheduler.shutdown(DEADLINE).await;

    for n in 0..JOBS {
        let expected = (panics(n) + 1).min(MOST);
        assert_eq!(attempts.of(&format!("r-{n}")), expected, "attempts at r-{n}");
    }
    let letters = read_all(&world.dlq).await;
    assert_eq!(letters.len(), dead.len(), "each dead job is one letter");
    let mut seen = BTreeSet::new();
    for letter in &letters {
        let id = letter.header("request-id").expect("a request id");
        let n: usize = id.trim_start_matches("r-").parse().expect("one of ours");
        assert!(dead.contains(&n) && seen.insert(n), "{id}");
        check_letter(&world, letter, n, offsets[n]);
    }
    check_ledger(&world, [JOBS, 0, 0]).await;
}

/// The value is the body that a receiver would have got.
fn check_letter(world: &World, letter: &RawRecord, n: usize, offset: i64) {
    let header = |name: &str| letter.header(name).unwrap_or_else(|| panic!("no header {name}"));
    assert_eq!(header("error-kind"), "attempts-exhausted");
    assert!(header("error-message").contains("panicked"), "{}", header("error-message"));
    assert_eq!(header("attempts"), MOST.to_string());
    assert_eq!(header("original-topic"), world.topic);
    assert_eq!(header("original-partition"), (n as i32 % PARTITIONS).to_string());
    assert_eq!(header("original-offset"), offset.to_string());
    assert!(header("original-timestamp").parse::<i64>().is_ok_and(|time| time > 0));
    assert!(header("error-timestamp").parse::<i64>().is_ok_and(|time| time > 0));
    assert_eq!(header("traceparent"), "00-1-2-01");
    assert_eq!(letter.key.as_deref(), Some(format!("r-{n}").as_bytes()));

    let body = letter.json();
    let names: BTreeSet<&str> =
        body.as_object().expect("an object").keys().map(String::as_str).collect();
    let wanted = [
        "appName",
        "attempt",
        "firedTime",
        "jobData",
        "jobId",
        "priority",
        "requestId",
        "scheduledTime",
    ];
    assert_eq!(names, BTreeSet::from(wanted));
    assert_eq!((&body["requestId"], &body["appName"]), (&format!("r-{n}").into(), &"sms".into()));
    assert_eq!((&body["attempt"], &body["priority"]), (&MOST.into(), &"low".into()));
    assert_eq!(body["scheduledTime"], "1970-01-01T00:00:01.000Z");
    let fired = body["firedTime"].as_str().expect("a time");
    assert!(DateTime::parse_from_rfc3339(fired).is_ok(), "{fired}");
    assert!(body["jobId"].as_str().is_some_and(|id| uuid::Uuid::parse_str(id).is_ok()));
    let text = String::from_utf8(letter.value.clone().expect("a value")).expect("text");
    assert!(text.contains(r#""jobData":{"panics": 99, "n":1.50}"#), "{text}");
}

/// One test for each kind of actor on each backend.
macro_rules! panics_of {
    ($($name:ident: $role:literal on $database:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            panics_lose_and_double_nothing($role, Database::$database).await;
        }
    )*};
}

panics_of! {
    panics_of_readers_lose_and_double_nothing_on_sqlite: "partition-reader" on Sqlite;
    panics_of_readers_lose_and_double_nothing_on_postgres: "partition-reader" on Postgres;
    panics_of_dedup_lose_and_double_nothing_on_sqlite: "dedup" on Sqlite;
    panics_of_dedup_lose_and_double_nothing_on_postgres: "dedup" on Postgres;
    panics_of_the_publisher_of_dead_letters_lose_nothing_on_sqlite: "retry-dlq" on Sqlite;
    panics_of_the_publisher_of_dead_letters_lose_nothing_on_postgres: "retry-dlq" on Postgres;
    panics_of_schedulers_lose_and_double_nothing_on_sqlite: "app-scheduler" on Sqlite;
    panics_of_schedulers_lose_and_double_nothing_on_postgres: "app-scheduler" on Postgres;
    panics_of_outcomes_lose_and_double_nothing_on_sqlite: "outcomes" on Sqlite;
    panics_of_outcomes_lose_and_double_nothing_on_postgres: "outcomes" on Postgres;
    panics_of_the_shard_keeper_lose_and_double_nothing_on_sqlite: "shard-keeper" on Sqlite;
    panics_of_the_shard_keeper_lose_and_double_nothing_on_postgres: "shard-keeper" on Postgres;
    panics_of_all_actors_at_once_lose_nothing_on_sqlite: "" on Sqlite;
    panics_of_all_actors_at_once_lose_nothing_on_postgres: "" on Postgres;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_panics_while_draining_starts_nothing_more() {
    const JOBS: usize = 50;
    let world = World::new(Database::Sqlite, PARTITIONS).await;
    let attempts = Attempts::default();
    let mut app = AppConfig::new("sms");
    app.max_in_flight = NonZeroU32::new(2).expect("not zero");
    let builder = world.builder_without_apps().register_app(app, Obedient(attempts.clone()));
    let scheduler = builder.start().await.expect("a start");
    let value = |n| {
        format!(
            r#"{{"requestId":"r-{n}","appName":"sms","scheduledTime":{n},"jobData":{{"takes":1500}}}}"#
        )
    };
    let records: Vec<_> = (0..JOBS).map(|n| RawRecord::new(0, value(n))).collect();
    produce(&world.topic, &records).await;
    wait_until(DEADLINE, "the first attempts", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.messages_received as usize == JOBS && metrics.apps["sms"].fired >= 2
    })
    .await;

    let leaving = tokio::spawn({
        let scheduler = scheduler.clone();
        async move { scheduler.shutdown(DEADLINE).await }
    });
    wait_until(DEADLINE, "the drain", async || !scheduler.is_running()).await;
    // The successor meets due jobs and two attempts that still run.
    assert_eq!(scheduler.break_actors("app-scheduler").await, 1);
    assert_eq!(scheduler.break_actors("outcomes").await, 1);
    leaving.await.expect("a drain");

    let fired = attempts.all();
    assert!(fired.len() <= 4, "started while draining: {fired:?}");
    let left = world.database.count("select count(*) from scheduler_job").await as usize;
    assert_eq!(left + fired.len(), JOBS);
    let held = "select count(*) from scheduler_shard where owner is not null";
    assert_eq!(world.database.count(held).await, 0);
}

/// How often the actors panic in one test, and how many records come around each time. The
/// wait before a successor doubles: it must stay shorter than a lease.
const ROUNDS: usize = 5;
const ROUND: usize = 240;

async fn panics_lose_and_double_nothing(role: &str, database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let attempts = Attempts::default();
    let mut app = AppConfig::new("sms");
    // Of those that fail at first and those that always do, outcomes are more than deletions.
    app.max_attempts = NonZeroU32::new(2).expect("not zero");
    app.backoff = Backoff::Delays(vec![Duration::from_millis(300)]);
    let builder = world.builder_without_apps().register_app(app, Obedient(attempts.clone()));
    let scheduler = builder.start().await.expect("a start");

    let mut expected = Expected::default();
    for round in 0..ROUNDS {
        let records: Vec<_> = (0..ROUND).map(|n| expected.record(round, n)).collect();
        produce(&world.topic, &records).await;
        // Some records are read, some attempts run, and some outcomes are on their way.
        let flowing = round * ROUND + ROUND / 4;
        wait_until(DEADLINE, "records and attempts to flow", async || {
            let metrics = scheduler.ingest_metrics();
            let app = &metrics.apps["sms"];
            let settled = app.succeeded + app.retried + app.dead;
            metrics.messages_received as usize > flowing && app.fired > settled + 30
        })
        .await;
        wait_until(DEADLINE, "an actor to break", async || scheduler.break_actors(role).await > 0)
            .await;
    }
    expected.await_all(&scheduler).await;
    wait_until(DEADLINE, "every dead letter published", async || {
        world.database.count("select count(*) from scheduler_outbox").await == 0
    })
    .await;
    let metrics = scheduler.ingest_metrics();
    assert_eq!(metrics.jobs_rescued, 0);
    scheduler.shutdown(DEADLINE).await;

    assert_eq!(attempts.all(), expected.attempts);
    check_ledger(&world, [expected.attempts.len(), expected.duplicates, expected.poison]).await;
    let letters = read_all(&world.dlq).await;
    let values: BTreeSet<_> = letters.iter().map(|letter| letter.value.clone()).collect();
    assert_eq!(values.len(), expected.poison + expected.dead);
    // What was sent and not yet noted is sent again.
    if !role.is_empty() && role != "retry-dlq" {
        assert_eq!(letters.len(), values.len(), "each dead letter once");
    }
    let rows = world.database.count("select count(*) from scheduler_dead_letter").await as usize;
    assert_eq!(rows, expected.poison + expected.dead);
    // All is released at the end.
    let held = "select count(*) from scheduler_shard where owner is not null";
    assert_eq!(world.database.count(held).await, 0);
}

/// What each record must become.
#[derive(Default)]
struct Expected {
    attempts: BTreeMap<String, u32>,
    duplicates: usize,
    poison: usize,
    dead: usize,
}

impl Expected {
    fn record(&mut self, round: usize, n: usize) -> RawRecord {
        let partition = n as i32 % PARTITIONS;
        // Of each twelve, one is poison, one fails always, one fails once, and one comes twice.
        let (id, order) = match n % 12 {
            5 => {
                self.poison += 1;
                return RawRecord::new(partition, format!("poison {round} {n}"));
            }
            7 => (n, "fail always"),
            8 => (n, "fail once"),
            11 => (n - 1, "succeed"),
            _ => (n, "succeed"),
        };
        let name = format!("r-{round}-{id}");
        match order {
            _ if n % 12 == 11 => self.duplicates += 1,
            "fail always" | "fail once" => drop(self.attempts.insert(name.clone(), 2)),
            _ => drop(self.attempts.insert(name.clone(), 1)),
        }
        self.dead += usize::from(order == "fail always");
        let due = SystemClock.now_ms() + (id % 3) as i64 * 400;
        // Attempts end all the time, and some outlast a scheduler and its successor's start.
        let takes = if id % 12 == 0 { 1500 } else { id % 10 * 15 };
        let value = format!(
            r#"{{"requestId":"{name}","appName":"sms","scheduledTime":{due},"idempotencyKey":"key of {name}","jobData":{{"order":"{order}","takes":{takes}}}}}"#
        );
        RawRecord::new(partition, value)
    }

    async fn await_all(&self, scheduler: &Scheduler) {
        let jobs = self.attempts.len();
        wait_until(DEADLINE, "every job's end", async || {
            let app = scheduler.ingest_metrics().apps["sms"].clone();
            (app.succeeded + app.dead) as usize >= jobs
        })
        .await;
    }
}

/// Does what its jobs say, and counts the attempts at each.
#[derive(Clone, Default)]
struct Obedient(Attempts);

impl JobHandler for Obedient {
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let job = ctx.job();
        let attempt = self.0.begin(&job.request_id);
        let order = job.data.as_str();
        let data: serde_json::Value = serde_json::from_str(order)?;
        if data["panics"].as_u64().is_some_and(|panics| u64::from(attempt) <= panics) {
            panic!("as it was told");
        }
        // Some are under way whenever something breaks.
        let (done, end) = tokio::sync::oneshot::channel::<()>();
        let takes = Duration::from_millis(data["takes"].as_u64().unwrap_or(20));
        tokio::time::timeout(takes, end).await.ok();
        drop(done);
        if order.contains("fail always") || (order.contains("fail once") && attempt == 1) {
            return Err(JobError::retry("as it was told"));
        }
        Ok(())
    }
}

/// Jobs, duplicates and dead letters over all partitions; no row is left behind.
async fn check_ledger(world: &World, expected: [usize; 3]) {
    let mut totals = [0; 3];
    for (total, column) in totals.iter_mut().zip(["jobs", "duplicates", "dead_letters"]) {
        let sql = format!(
            "select cast(sum({column}) as {}) from scheduler_ingest_offset",
            world.integer()
        );
        *total = world.database.count(&sql).await as usize;
    }
    assert_eq!(totals, expected, "jobs, duplicates, dead letters");
    let wrong = "select count(*) from scheduler_ingest_offset \
                 where next_offset <> jobs + duplicates + operations + dead_letters";
    assert_eq!(world.database.count(wrong).await, 0);
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
    assert_eq!(world.database.count("select count(*) from scheduler_outbox").await, 0);
}
