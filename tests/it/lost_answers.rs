//! Commits whose answer is lost or late, and batches that commit late: no job is doubled or lost.

mod late;
mod taken;
mod by_api;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use infinite_scheduler::model::request::RequestBuilder;
use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::{
    AppConfig, JobContext, JobError, JobHandler, OperationError, ScheduleJobRequest, Scheduler,
    Submitted,
};

use crate::support::attempts::Attempts;
use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

const DEADLINE: Duration = Duration::from_secs(120);
/// Answers that are lost in one test, one after another.
const LOSSES: usize = 3;
/// Records around each of them.
const WAVE: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_an_admission_doubles_and_strands_nothing_on_mariadb() {
    a_lost_answer_to_an_admission(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_an_admission_doubles_and_strands_nothing_on_mysql() {
    a_lost_answer_to_an_admission(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_an_admission_doubles_and_strands_nothing_on_postgres() {
    a_lost_answer_to_an_admission(Database::Postgres).await;
}

/// New jobs only: on PostgreSQL that is one statement in autocommit.
async fn a_lost_answer_to_an_admission(database: Database) {
    let world = World::new(database, 2).await;
    let proxy = Proxy::start(world.database.url()).await;
    let scheduler = start(&world, &proxy).await;
    let mut tokens = BTreeSet::new();
    for loss in 0..LOSSES {
        proxy.cut_after_commit(marker(loss).as_bytes());
        let records: Vec<_> = (0..WAVE)
            .map(|n| {
                let data = if n == WAVE / 2 { marker(loss) } else { String::new() };
                RawRecord::new(n as i32 % 2, request(&format!("r-{loss}-{n}"), &data))
            })
            .collect();
        produce(&world.topic, &records).await;
        wait_until(DEADLINE, "the lost answer", async || proxy.cuts() == loss + 1).await;
        let jobs = (loss + 1) * WAVE;
        wait_until(DEADLINE, "every job fired", async || succeeded(&scheduler) >= jobs).await;
        tokens.insert(
            world
                .database
                .count("select reader from scheduler_ingest_offset where number = 0")
                .await,
        );
    }
    assert_eq!(
        tokens.len(),
        LOSSES,
        "under the token of a lost answer nothing is written any more"
    );
    scheduler.shutdown(DEADLINE).await;
    let jobs = LOSSES * WAVE;

    let wanted = (0..LOSSES).flat_map(|loss| (0..WAVE).map(move |n| format!("r-{loss}-{n}")));
    check_fired(&world, wanted).await;
    check_ledger(&world, [jobs, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_mixed_batch_doubles_and_strands_nothing_on_mariadb() {
    a_lost_answer_to_a_mixed_batch(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_mixed_batch_doubles_and_strands_nothing_on_mysql() {
    a_lost_answer_to_a_mixed_batch(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_mixed_batch_doubles_and_strands_nothing_on_postgres() {
    a_lost_answer_to_a_mixed_batch(Database::Postgres).await;
}

/// Jobs, duplicates and dead letters together: an explicit transaction on each backend,
/// as the marker is in a dead letter.
async fn a_lost_answer_to_a_mixed_batch(database: Database) {
    let world = World::new(database, 1).await;
    let proxy = Proxy::start(world.database.url()).await;
    let scheduler = start(&world, &proxy).await;
    for loss in 0..LOSSES {
        proxy.cut_after_commit(marker(loss).as_bytes());
        let records: Vec<_> = (0..WAVE)
            .map(|n| {
                let value = match n % 3 {
                    0 => keyed(&format!("r-{loss}-{n}")),
                    1 => keyed(&format!("r-{loss}-{}", n - 1)),
                    _ => format!("poison {}, {n}", marker(loss)),
                };
                RawRecord::new(0, value)
            })
            .collect();
        produce(&world.topic, &records).await;
        wait_until(DEADLINE, "the lost answer", async || proxy.cuts() == loss + 1).await;
        // The last letters come with a lost answer, too: nothing after them helps them on.
        let letters = (loss + 1) * WAVE / 3;
        wait_until(DEADLINE, "every dead letter published", async || {
            scheduler.ingest_metrics().messages_sent_to_dlq as usize >= letters
        })
        .await;
    }
    let each = LOSSES * WAVE / 3;
    wait_until(DEADLINE, "every job fired", async || succeeded(&scheduler) >= each).await;
    scheduler.shutdown(DEADLINE).await;

    let ids = |loss| (0..WAVE).step_by(3).map(move |n| format!("r-{loss}-{n}"));
    check_fired(&world, (0..LOSSES).flat_map(ids)).await;
    check_ledger(&world, [each, each, each]).await;
    let letters = read_all(&world.dlq).await;
    let values: BTreeSet<_> = letters.iter().map(|letter| letter.value.clone()).collect();
    assert_eq!((letters.len(), values.len()), (each, each));
    assert_eq!(
        world.database.count("select count(*) from scheduler_dead_letter").await as usize,
        each
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_outcomes_fires_nothing_again_on_mariadb() {
    a_lost_answer_to_outcomes(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_outcomes_fires_nothing_again_on_mysql() {
    a_lost_answer_to_outcomes(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_outcomes_fires_nothing_again_on_postgres() {
    a_lost_answer_to_outcomes(Database::Postgres).await;
}

const DELETE: &str = "delete from scheduler_job";

/// For each kind of outcome: a text that is in its transaction, what the jobs
/// do, and the attempts that each of them has then had.
const OUTCOMES: [(&str, &str, u32); 3] = [
    (DELETE, "succeed", 1),
    ("update scheduler_job set due_ms", "fail once", 2),
    ("attempts-exhausted", "fail always", 2),
];

async fn a_lost_answer_to_outcomes(database: Database) {
    let world = World::new(database, 2).await;
    let proxy = Proxy::start(world.database.url()).await;
    let attempts = Attempts::default();
    let scheduler = world
        .builder_without_apps()
        .database_url(proxy.url(world.database.url()))
        .register_app(failing_app(), Obedient(attempts.clone()))
        .start()
        .await
        .expect("a start");
    for (loss, (marker, order, _)) in OUTCOMES.into_iter().enumerate() {
        let marker = match database {
            Database::MariaDb | Database::MySql if marker == DELETE => {
                "delete j from scheduler_job"
            }
            _ => marker,
        };
        // Sessions that know a statement do not send its text again.
        proxy.cut_all();
        proxy.cut_after_commit(marker.as_bytes());
        let records: Vec<_> = (0..WAVE)
            .map(|n| RawRecord::new(n as i32 % 2, request(&format!("{order}-{n}"), order)))
            .collect();
        produce(&world.topic, &records).await;
        wait_until(DEADLINE, "the lost answer", async || proxy.cuts() == loss + 1).await;
        wait_until(DEADLINE, "the end of each job", async || {
            let app = scheduler.ingest_metrics().apps["sms"].clone();
            (app.succeeded + app.dead) as usize >= (loss + 1) * WAVE
        })
        .await;
    }
    wait_until(DEADLINE, "every dead letter published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq as usize >= WAVE
    })
    .await;
    let app = scheduler.ingest_metrics().apps["sms"].clone();
    assert_eq!((app.succeeded, app.retried, app.dead), (120, 120, 60));
    scheduler.shutdown(DEADLINE).await;

    for (_, order, expected) in OUTCOMES {
        for n in 0..WAVE {
            let id = format!("{order}-{n}");
            assert_eq!(attempts.of(&id), expected, "attempts at {id}");
        }
    }
    check_ledger(&world, [OUTCOMES.len() * WAVE, 0, 0]).await;
    assert_eq!(
        world.database.count("select count(*) from scheduler_dead_letter").await as usize,
        WAVE
    );
    assert_eq!(read_all(&world.dlq).await.len(), WAVE, "each dead letter once");
}

/// Its app is known by its row alone, which cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_could_not_be_judged_are_read_again() {
    for database in Database::SERVERS {
        let world = World::new(database, 1).await;
        let owner = world.builder_without_apps();
        let owner = owner.register_app(AppConfig::new("mail"), Obedient::default());
        owner.start().await.expect("a start").shutdown(DEADLINE).await;
        let proxy = Proxy::start(world.database.url()).await;
        let scheduler = start(&world, &proxy).await;
        produce(&world.topic, &[RawRecord::new(0, request("before", ""))]).await;
        wait_until(DEADLINE, "the first job", async || succeeded(&scheduler) == 1).await;

        proxy.set_unavailable(true);
        let mail = request("mail", "").replace("sms", "mail");
        produce(&world.topic, &[RawRecord::new(0, mail)]).await;
        wait_until(DEADLINE, "a complaint of the reader", async || {
            scheduler
                .health()
                .sentences()
                .iter()
                .any(|complaint| complaint.starts_with("partition"))
        })
        .await;
        proxy.set_unavailable(false);
        produce(&world.topic, &[RawRecord::new(0, request("after", ""))]).await;
        wait_until(DEADLINE, "the last job", async || succeeded(&scheduler) == 2).await;
        scheduler.shutdown(DEADLINE).await;
        let read =
            "select count(*) from scheduler_ingest_offset where next_offset = 3 and jobs = 3";
        assert_eq!(world.database.count(read).await, 1, "{database:?}");
        let waits = "select count(*) from scheduler_job where request_id = 'mail'";
        assert_eq!(world.database.count(waits).await, 1, "{database:?}");
    }
}

/// A scheduler on the other side of the proxy, which fires onto the world's topic.
async fn start(world: &World, proxy: &Proxy) -> Scheduler {
    let builder = world.builder().database_url(proxy.url(world.database.url()));
    builder.start().await.expect("a start")
}

fn succeeded(scheduler: &Scheduler) -> usize {
    scheduler.ingest_metrics().apps["sms"].succeeded as usize
}

fn marker(loss: usize) -> String {
    format!("lose-the-answer-{loss}.")
}

/// One by API that is due at once.
fn api_request(order: &str) -> RequestBuilder {
    let data = format!(r#"{{"order":"{order}"}}"#);
    ScheduleJobRequest::builder("sms").at("2025-01-01T00:00:00Z").raw_job_data(&data)
}

/// The name of a request that was accepted.
fn accepted(answer: Result<Submitted, OperationError>) -> String {
    match answer.expect("an answer") {
        Submitted::Accepted { request_id, .. } => request_id,
        other => panic!("our own try is no duplicate: {other:?}"),
    }
}

/// A request that is due at once.
fn request(id: &str, order: &str) -> String {
    format!(
        r#"{{"requestId":"{id}","appName":"sms","scheduledTime":0,"jobData":{{"order":"{order}"}}}}"#
    )
}

fn keyed(id: &str) -> String {
    format!(
        r#"{{"requestId":"{id}","appName":"sms","scheduledTime":0,"idempotencyKey":"key of {id}"}}"#
    )
}

/// Two attempts, the second soon.
fn failing_app() -> AppConfig {
    let mut app = AppConfig::new("sms");
    app.max_attempts = std::num::NonZeroU32::new(2).expect("not zero");
    app.backoff = Backoff::Delays(vec![Duration::from_millis(100)]);
    app
}

/// Does what its jobs say, and counts the attempts at each.
#[derive(Clone, Default)]
struct Obedient(Attempts);

impl JobHandler for Obedient {
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let attempt = self.0.begin(&ctx.job().request_id);
        let order = ctx.job().data.as_str();
        if order.contains("fail always") || (order.contains("fail once") && attempt == 1) {
            return Err(JobError::retry("as it was told"));
        }
        Ok(())
    }
}

/// Each of these went onto the topic once, and nothing else did.
async fn check_fired(world: &World, wanted: impl IntoIterator<Item = String>) {
    let mut fired: BTreeMap<String, usize> = BTreeMap::new();
    for record in read_all(&world.fired).await {
        let id = record.json()["requestId"].as_str().expect("a request id").to_owned();
        *fired.entry(id).or_default() += 1;
    }
    let wanted: BTreeSet<String> = wanted.into_iter().collect();
    let twice: Vec<_> = fired.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "fired more than once: {twice:?}");
    let fired: BTreeSet<String> = fired.into_keys().collect();
    let lost: Vec<_> = wanted.difference(&fired).collect();
    let made_up: Vec<_> = fired.difference(&wanted).collect();
    assert!(lost.is_empty() && made_up.is_empty(), "lost {lost:?}, made up {made_up:?}");
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
