//! Answers that are lost to an admission that changes a row: that of a dead letter that is replayed,
//! or of a parked record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use infinite_scheduler::{
    AppConfig, JobContext, JobData, JobError, JobHandler, KafkaIngestConfig, Rejection, Replayed,
    RequestStatus, Scheduler,
};

use super::{DEADLINE, marker, request};
use crate::replay::newest_letter;
use crate::support::attempts::Attempts;
use crate::support::kafka::{RawRecord, produce};
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

/// Schedulers that do not learn the result of an admission read their shards after two of
/// these.
const LEASE: Duration = Duration::from_secs(15);

/// Accepts jobs once the test allows it, and counts the attempts at each.
#[derive(Clone, Debug, Default)]
struct Late {
    ready: Arc<AtomicBool>,
    attempts: Attempts,
}

impl JobHandler for Late {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        self.attempts.begin(&context.job().request_id);
        Ok(())
    }

    fn validate(&self, _: &JobData) -> Result<(), Rejection> {
        match self.ready.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(Rejection::NotYet("the templates are not loaded".into())),
        }
    }
}

async fn start(world: &World, proxy: &Proxy, handler: &Late) -> Scheduler {
    let kafka = KafkaIngestConfig { max_retries: 10, ..world.kafka() };
    let builder = world.builder_without_apps().with_kafka_ingest(kafka).lease(LEASE);
    let builder = builder.database_url(proxy.url(world.database.url()));
    let builder = builder.register_app(AppConfig::new("sms"), handler.clone());
    builder.start().await.expect("a start")
}

async fn fires_at_once(scheduler: &Scheduler, since: Instant) {
    wait_until(DEADLINE, "the job done", async || {
        scheduler.ingest_metrics().apps["sms"].succeeded == 1
    })
    .await;
    assert!(since.elapsed() < LEASE, "it fired after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_replay_is_known_and_its_job_fires_at_once() {
    for database in Database::SERVERS {
        let world = World::new(database, 1).await;
        let proxy = Proxy::start(world.database.url()).await;
        let handler = Late::default();
        handler.ready.store(true, Ordering::Release);
        let scheduler = start(&world, &proxy, &handler).await;
        produce(&world.topic, &[RawRecord::new(0, "poison".to_owned())]).await;
        wait_until(DEADLINE, "the letter", async || {
            scheduler.ingest_metrics().messages_sent_to_dlq == 1
        })
        .await;
        let letter = newest_letter(&world.database).await;

        proxy.cut_after_commit(marker(0).as_bytes());
        let asked = Instant::now();
        let value = request("mended", &marker(0)).into_bytes();
        let replayed = scheduler.replay(letter, Some(value)).await.expect("an answer");
        assert!(matches!(replayed, Replayed::Accepted { .. }), "{database:?}: {replayed:?}");
        assert_eq!(proxy.cuts(), 1, "{database:?}");
        fires_at_once(&scheduler, asked).await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(handler.attempts.of("mended"), 1, "{database:?}");
        let replayed = "select count(*) from scheduler_dead_letter where state = 2";
        assert_eq!(world.database.count(replayed).await, 1, "{database:?}");
        assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
        assert_eq!(scheduler.ingest_metrics().jobs_rescued, 0, "{database:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_parked_record_is_known_and_its_job_fires_at_once() {
    for database in Database::SERVERS {
        let world = World::new(database, 1).await;
        let proxy = Proxy::start(world.database.url()).await;
        let handler = Late::default();
        let scheduler = start(&world, &proxy, &handler).await;
        let record = RawRecord::new(0, request("late", &marker(0)));
        produce(&world.topic, &[record]).await;
        wait_until(DEADLINE, "a retry", async || scheduler.ingest_metrics().messages_retried > 0)
            .await;
        let status = scheduler.request("sms", "late").await.expect("an answer");
        assert!(matches!(status, RequestStatus::Parked { .. }), "{database:?}: {status:?}");

        proxy.cut_after_commit(marker(0).as_bytes());
        handler.ready.store(true, Ordering::Release);
        wait_until(DEADLINE, "the lost answer", async || proxy.cuts() == 1).await;
        fires_at_once(&scheduler, Instant::now()).await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(handler.attempts.of("late"), 1, "{database:?}");
        let totals = "select count(*) from scheduler_ingest_offset where records = 1 and jobs = 1 \
                      and duplicates = 0 and dead_letters = 0 and parked = 0";
        assert_eq!(world.database.count(totals).await, 1, "{database:?}");
        assert_eq!(world.database.count("select count(*) from scheduler_dead_letter").await, 0);
        assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
        assert_eq!(scheduler.ingest_metrics().jobs_rescued, 0, "{database:?}");
    }
}
