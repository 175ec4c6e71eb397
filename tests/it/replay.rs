//! Dead letters that are replayed: by the same admission, linked to the previous letter, and not
//! without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use infinite_scheduler::model::ids::JobId;
use infinite_scheduler::{
    AppConfig, ErrorKind, JobContext, JobError, JobHandler, OperationError, Replayed,
    ScheduleJobRequest, Scheduler,
};
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::proxy::Proxy;
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);

/// Succeeds when the test allows it.
#[derive(Debug, Default)]
struct Mended(AtomicBool);

impl JobHandler for Mended {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        assert!(context.job().max_attempts == Some(1), "the job's own limit is kept");
        match self.0.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(JobError::Retry("the provider is down".into())),
        }
    }
}

struct Post {
    world: World,
    scheduler: Scheduler,
    handler: Arc<Mended>,
}

impl Post {
    async fn new(database: Database) -> Self {
        let world = World::new(database, 1).await;
        let handler = Arc::new(Mended::default());
        let app = AppConfig::new("sms").required_fields(["to"]);
        let builder = world.builder_without_apps().register_app(app, handler.clone());
        let scheduler = builder.start().await.expect("a start");
        Self { world, scheduler, handler }
    }

    async fn send(&self, id: &str, data: &str) {
        produce(&self.world.topic, &[RawRecord::new(0, request(id, data))]).await;
    }

    /// The newest letter, once there are `count`.
    async fn letter(&self, count: i64) -> Uuid {
        let database = &self.world.database;
        wait_until(DEADLINE, "the letter", async || {
            database.count("select count(*) from scheduler_dead_letter").await == count
        })
        .await;
        newest_letter(database).await
    }

    async fn replay(
        &self,
        letter: Uuid,
        value: Option<String>,
    ) -> Result<Replayed, OperationError> {
        let value = value.map(String::into_bytes);
        let foreseen = self.scheduler.preview_replay(letter, value.clone()).await;
        let replayed = self.scheduler.replay(letter, value).await;
        assert_eq!(foreseen, replayed, "the dry run said so");
        replayed
    }

    async fn succeeded(&self, count: u64) {
        wait_until(DEADLINE, "the jobs' ends", async || {
            self.scheduler.ingest_metrics().apps["sms"].succeeded == count
        })
        .await;
    }
}

fn request(id: &str, data: &str) -> String {
    format!(
        r#"{{"requestId":"{id}","appName":"sms","scheduledTime":0,"maxAttempts":1,"jobData":{data}}}"#
    )
}

pub(crate) async fn newest_letter(database: &TestDatabase) -> Uuid {
    let connection = database.connect().await;
    let sql = "select id from scheduler_dead_letter order by replays desc, created_ms desc limit 1";
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await.expect("an answer").expect("a row");
    let id = row.try_get_by_index(0).expect("an id");
    connection.close().await.expect("a connection that closes");
    id
}

fn job(id: &str) -> JobId {
    JobId::derive("sms", id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_record_becomes_its_job_once() {
    for database in Database::all() {
        let post = Post::new(database).await;
        post.handler.0.store(true, Ordering::Release);
        post.send("one", "{}").await;
        let letter = post.letter(1).await;
        let refused = post.replay(letter, None).await;
        assert!(
            matches!(&refused, Err(OperationError::Refused(refusal)) if refusal.kind == ErrorKind::RefusedByApp),
            "{database:?}: nothing was mended: {refused:?}"
        );
        let no_json = post.replay(letter, Some("{".into())).await;
        assert!(
            matches!(&no_json, Err(OperationError::Refused(refusal)) if refusal.kind == ErrorKind::InvalidJson)
        );
        let dead = "select count(*) from scheduler_dead_letter where state = 0";
        assert_eq!(post.world.database.count(dead).await, 1, "{database:?}: it stays");

        let corrected = request("one", r#"{"to":"+49"}"#);
        let accepted = post.replay(letter, Some(corrected.clone())).await;
        assert_eq!(accepted, Ok(Replayed::Accepted { job_id: job("one") }), "{database:?}");
        post.succeeded(1).await;
        let again = post.replay(letter, Some(corrected)).await;
        assert!(
            matches!(&again, Err(OperationError::Conflict(why))
                if why.contains(&format!("was replayed as job {}", job("one")))),
            "{database:?}: {again:?}"
        );
        let unknown = post.replay(Uuid::nil(), None).await;
        assert!(
            matches!(&unknown, Err(OperationError::NotFound(why)) if why.contains("no dead letter"))
        );
        assert_eq!(post.world.database.count(dead).await, 0, "{database:?}");
        post.scheduler.shutdown(DRAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_is_replayed_with_its_data_and_limits_and_not_for_ever() {
    for database in Database::all() {
        let post = Post::new(database).await;
        post.send("one", r#"{"to":"+49","n":1.50}"#).await;
        let mut letters = vec![post.letter(1).await];
        for round in 1..=5 {
            let accepted = post.replay(letters[round - 1], None).await;
            assert_eq!(accepted, Ok(Replayed::Accepted { job_id: job("one") }), "{database:?}");
            letters.push(post.letter(round as i64 + 1).await);
        }
        let linked = "select count(*) from scheduler_dead_letter l where replays = (select replays + 1 \
                      from scheduler_dead_letter b where b.id = l.replay_of)";
        assert_eq!(
            post.world.database.count(linked).await,
            5,
            "{database:?}: each to the one before"
        );
        post.handler.0.store(true, Ordering::Release);
        let sixth = post.replay(letters[5], None).await;
        assert!(
            matches!(&sixth, Err(OperationError::Conflict(why)) if why.contains("max_replays")),
            "{database:?}: {sixth:?}"
        );
        post.scheduler.shutdown(DRAIN).await;

        let letters = read_all(&post.world.dlq).await;
        assert_eq!(letters.len(), 6, "{database:?}: each death is told");
        for letter in letters {
            assert_eq!(letter.header("error-kind"), Some("attempts-exhausted"));
            assert_eq!(letter.header("attempts"), Some("1"));
            assert!(letter.json()["jobData"]["n"].is_number());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_what_was_sent_again_is_a_duplicate() {
    let post = Post::new(Database::Postgres).await;
    post.handler.0.store(true, Ordering::Release);
    post.send("one", "{}").await;
    let letter = post.letter(1).await;
    let with_key =
        |id: &str| request(id, r#"{"to":"+49"}"#).replacen('{', r#"{"idempotencyKey":"k","#, 1);
    let sent = ScheduleJobRequest::from_json(with_key("two").as_bytes()).expect("a request");
    post.scheduler.schedule(sent).await.expect("accepted");
    let replayed = post.replay(letter, Some(with_key("one"))).await;
    let duplicate = Replayed::Duplicate { job_id: job("two"), of: "two".into() };
    assert_eq!(replayed, Ok(duplicate));
    let state = "select count(*) from scheduler_dead_letter where state = 2";
    assert_eq!(post.world.database.count(state).await, 1, "it has what it wanted");
    post.succeeded(1).await;
    post.scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_whose_answer_was_lost_is_known_as_its_own() {
    for database in Database::SERVERS {
        let world = World::new(database, 1).await;
        let proxy = Proxy::start(world.database.url()).await;
        let builder = world.builder().database_url(proxy.url(world.database.url()));
        let scheduler = builder.start().await.expect("a start");
        produce(&world.topic, &[RawRecord::new(0, "no request")]).await;
        wait_until(DEADLINE, "the letter", async || {
            world.database.count("select count(*) from scheduler_dead_letter").await == 1
        })
        .await;
        let letter = newest_letter(&world.database).await;
        proxy.cut_after_commit(b"lose-this-answer");
        let value = request("mended", r#"{"order":"lose-this-answer"}"#).into_bytes();
        let replayed = scheduler.replay(letter, Some(value)).await.expect("an answer");
        assert_eq!(proxy.cuts(), 1, "{database:?}");
        assert_eq!(replayed, Replayed::Accepted { job_id: job("mended") }, "{database:?}");
        wait_until(DEADLINE, "the job's end", async || {
            scheduler.ingest_metrics().apps["sms"].succeeded == 1
        })
        .await;
        scheduler.shutdown(DRAIN).await;
        assert_eq!(read_all(&world.fired).await.len(), 1, "{database:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_replay_a_letter_at_once_make_one_job() {
    for database in Database::all() {
        let post = Post::new(database).await;
        post.handler.0.store(true, Ordering::Release);
        post.send("one", "{}").await;
        let letter = post.letter(1).await;
        let value = |id: &str| Some(request(id, r#"{"to":"+49"}"#).into_bytes());
        let (first, second) = tokio::join!(
            post.scheduler.replay(letter, value("x")),
            post.scheduler.replay(letter, value("y")),
        );
        let accepted = [&first, &second]
            .iter()
            .filter(|answer| matches!(answer, Ok(Replayed::Accepted { .. })))
            .count();
        assert_eq!(accepted, 1, "{database:?}: {first:?} {second:?}");
        post.succeeded(1).await;
        post.scheduler.shutdown(DRAIN).await;
        assert_eq!(post.scheduler.ingest_metrics().messages_processed, 1, "{database:?}");
    }
}
