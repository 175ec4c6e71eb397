//! An instance loses shards or its lease while it works.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::{
    AppConfig, JobContext, JobError, JobHandler, KafkaIngestConfig, Replayed, ScheduleJobRequest,
    Submitted,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};
use tokio::sync::Semaphore;

use crate::replay::newest_letter;
use crate::support::attempts::Attempts;
use crate::support::kafka::{RawRecord, produce};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

const DEADLINE: Duration = Duration::from_secs(90);
/// Servers, on which a test can hold up the heartbeat alone.
const SERVERS: [Database; 3] = Database::SERVERS;

/// The first attempt runs until it may end or is asked to stop; the others end at once.
#[derive(Clone)]
struct Watched {
    fences: Arc<Mutex<Vec<u64>>>,
    may_end: Arc<Semaphore>,
    told: Arc<AtomicUsize>,
}

impl Watched {
    fn new() -> Self {
        let may_end = Arc::new(Semaphore::new(0));
        Self { fences: Arc::default(), may_end, told: Arc::default() }
    }

    fn fences(&self) -> Vec<u64> {
        self.fences.lock().expect("a lock").clone()
    }

    async fn await_firings(&self, count: usize) {
        wait_until(DEADLINE, "firings", async || self.fences().len() == count).await;
    }
}

impl JobHandler for Watched {
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let firing = {
            let mut fences = self.fences.lock().expect("a lock");
            fences.push(ctx.fence().get());
            fences.len()
        };
        if firing == 1 {
            tokio::select! {
                ended = self.may_end.acquire() => drop(ended),
                () = ctx.cancelled().cancelled() => {
                    self.told.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        Ok(())
    }
}

fn record(id: &str, due_ms: i64) -> RawRecord {
    let json = format!(r#"{{"requestId":"{id}","appName":"sms","scheduledTime":{due_ms}}}"#);
    RawRecord::new(0, json)
}

async fn await_no_jobs(database: &TestDatabase) {
    wait_until(DEADLINE, "the end of every job", async || {
        database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
}

async fn next_offset(database: &TestDatabase) -> i64 {
    database.count("select next_offset from scheduler_ingest_offset").await
}

/// Returns after this moment.
async fn passes(ms: i64) {
    wait_until(DEADLINE, "a moment", async || SystemClock.now_ms() > ms).await;
}

/// No heartbeat gets through until this ends.
async fn hold_heartbeats(database: &TestDatabase) -> DatabaseTransaction {
    let holder = database.connect().await.begin().await.expect("a transaction");
    holder.execute_unprepared("update scheduler_instance set name = 'held'").await.expect("a lock");
    holder
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_shard_is_taken_is_cancelled_and_its_job_fires_again() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        let watched = Watched::new();
        let builder = world.builder_without_apps();
        let builder = builder.register_app(AppConfig::new("sms"), watched.clone());
        let scheduler = builder.start().await.expect("a start");
        produce(&world.topic, &[record("r", 0)]).await;
        watched.await_firings(1).await;
        // By a program that ends at once.
        world.database.execute("update scheduler_shard set owner = 5, epoch = epoch + 1").await;
        watched.await_firings(2).await;
        await_no_jobs(&world.database).await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(watched.told.load(Ordering::SeqCst), 1, "{backend:?}");
        let fences = watched.fences();
        assert!(fences.len() == 2 && fences[0] < fences[1], "{backend:?}: {fences:?}");
    }
}

/// It waits for other shards, and after some tries puts them where a command asks the owner to look.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_shards_were_taken_goes_elsewhere() {
    for backend in SERVERS {
        let world = World::new(backend, 1).await;
        // The heartbeat is silent for a while, and the lease must not end with that.
        let scheduler = world.builder().lease(DEADLINE).start().await.expect("a start");
        produce(&world.topic, &[record("first", 0)]).await;
        wait_until(DEADLINE, "the first job", async || {
            scheduler.ingest_metrics().apps["sms"].succeeded == 1
        })
        .await;
        let holder = hold_heartbeats(&world.database).await;
        world.database.execute("update scheduler_shard set epoch = epoch + 1").await;
        let records: Vec<_> = (0..20).map(|n| record(&format!("r-{n}"), 0)).collect();
        produce(&world.topic, &records).await;
        wait_until(DEADLINE, "the records", async || next_offset(&world.database).await == 21)
            .await;
        holder.rollback().await.expect("a rollback");
        await_no_jobs(&world.database).await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(scheduler.ingest_metrics().apps["sms"].succeeded, 21, "{backend:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_nothing_is_read_fired_or_written() {
    for backend in SERVERS {
        let world = World::new(backend, 1).await;
        let watched = Watched::new();
        let builder = world.builder_without_apps();
        let builder = builder.register_app(AppConfig::new("sms"), watched.clone());
        let scheduler = builder.start().await.expect("a start");
        let lease_ms = i64::try_from(LEASE.as_millis()).expect("a lease");
        produce(&world.topic, &[record("runs", 0)]).await;
        watched.await_firings(1).await;
        let due_ms = SystemClock.now_ms() + 4 * lease_ms;
        produce(&world.topic, &[record("soon", due_ms)]).await;
        wait_until(DEADLINE, "both read", async || next_offset(&world.database).await == 2).await;

        let holder = hold_heartbeats(&world.database).await;
        let held_ms = SystemClock.now_ms();
        passes(held_ms + lease_ms).await;
        watched.may_end.add_permits(1);
        produce(&world.topic, &[record("read", 0)]).await;
        passes(due_ms.max(held_ms + lease_ms) + lease_ms / 2).await;
        assert_eq!(watched.fences().len(), 1, "{backend:?}: nothing is fired");
        let jobs = world.database.count("select count(*) from scheduler_job").await;
        assert_eq!((jobs, next_offset(&world.database).await), (2, 2), "{backend:?}");

        holder.rollback().await.expect("a rollback");
        watched.await_firings(3).await;
        await_no_jobs(&world.database).await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(watched.fences().len(), 3, "{backend:?}: each once");
    }
}

/// Does what the names of its jobs say, and counts how often each was fired: those that are
/// slow run until they may end, one that fails does so once.
#[derive(Clone)]
struct Obedient {
    fired: Attempts,
    may_end: Arc<Semaphore>,
}

impl Obedient {
    fn new() -> Self {
        Self { fired: Attempts::default(), may_end: Arc::new(Semaphore::new(0)) }
    }
}

impl JobHandler for Obedient {
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let id = &ctx.job().request_id;
        let times = self.fired.begin(id);
        if id == "fails" && times == 1 {
            return Err(JobError::fail("as its name says"));
        }
        if id.starts_with("slow") {
            drop(self.may_end.acquire().await);
        }
        Ok(())
    }
}

/// Others wait for a shard until nothing runs of it; what is due there meanwhile fires.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_not_given_up_while_its_jobs_run_and_goes_on() {
    /// Longer than a release waits, and what comes before it.
    const PASSES_MS: i64 = 5000;
    for backend in SERVERS {
        let world = World::new(backend, 1).await;
        let slow = Obedient::new();
        let start = async || {
            let mut app = AppConfig::new("sms");
            app.shards = NonZeroU32::new(2).expect("not zero");
            // None of them loses it meanwhile: what runs then fires again.
            let builder = world.builder_without_apps().lease(LEASE * 10);
            let builder = builder.register_app(app, slow.clone());
            builder.start().await.expect("a start")
        };
        let send = async |name: &str| {
            let records: Vec<_> = (0..20).map(|n| record(&format!("{name}-{n}"), 0)).collect();
            produce(&world.topic, &records).await;
        };
        let first = start().await;
        send("slow").await;
        wait_until(DEADLINE, "both shards at work", async || slow.fired.all().len() == 20).await;
        let second = start().await;
        passes(SystemClock.now_ms() + PASSES_MS).await;
        send("quick").await;
        wait_until(DEADLINE, "jobs beside those", async || slow.fired.all().len() == 40).await;
        slow.may_end.close();
        await_no_jobs(&world.database).await;
        wait_until(DEADLINE, "a shard of each", async || {
            let owners =
                "select count(distinct owner) from scheduler_shard where owner is not null";
            world.database.count(owners).await == 2
        })
        .await;
        second.shutdown(DEADLINE).await;
        first.shutdown(DEADLINE).await;
        let fired = slow.fired.all();
        assert!(fired.values().all(|times| *times == 1), "{backend:?}: {fired:?}");
    }
}

/// Calls and replays leave their jobs to the owner of the shard, which a command asks to look; parked
/// records wait.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_no_shard_is_taken_for_ours() {
    for backend in SERVERS {
        let world = World::new(backend, 1).await;
        let kafka = KafkaIngestConfig { max_retries: 10, ..world.kafka() };
        let told = Obedient::new();
        let builder = world.builder_without_apps().with_kafka_ingest(kafka);
        let builder = builder.register_app(AppConfig::new("sms"), told.clone());
        let scheduler = builder.start().await.expect("a start");
        produce(&world.topic, &[record("fails", 0)]).await;
        let letters = "select count(*) from scheduler_dead_letter where state = 0";
        wait_until(DEADLINE, "a letter", async || world.database.count(letters).await == 1).await;
        let letter = newest_letter(&world.database).await;
        let nobody = r#"{"requestId":"parked","appName":"nobody","scheduledTime":0}"#;
        produce(&world.topic, &[RawRecord::new(0, nobody)]).await;
        let parked = "select count(*) from scheduler_dead_letter where state = 1";
        wait_until(DEADLINE, "a row", async || world.database.count(parked).await == 1).await;

        let holder = hold_heartbeats(&world.database).await;
        let lease_ms = i64::try_from(LEASE.as_millis()).expect("a lease");
        let over_ms = SystemClock.now_ms() + lease_ms;
        passes(over_ms).await;
        let integer = world.integer();
        let tries = format!(
            "select cast(attempts as {integer}) from scheduler_dead_letter where state = 1"
        );
        let tried = world.database.count(&tries).await;
        let call = ScheduleJobRequest::builder("sms").at("2025-01-01T00:00:00Z").request_id("call");
        let call = scheduler.schedule(call.build().expect("a request")).await;
        assert!(matches!(call, Ok(Submitted::Accepted { .. })), "{backend:?}: {call:?}");
        let replayed = scheduler.replay(letter, None).await;
        assert!(matches!(replayed, Ok(Replayed::Accepted { .. })), "{backend:?}: {replayed:?}");
        let looks = world.database.count("select count(*) from scheduler_command").await;
        assert_eq!(looks, 2, "{backend:?}: the owner is told of both");
        let due_ms =
            world.database.count("select due_ms from scheduler_dead_letter where state = 1").await;
        passes(due_ms + lease_ms / 3).await;
        assert_eq!(world.database.count(&tries).await, tried, "{backend:?}: it waits");

        holder.rollback().await.expect("a rollback");
        await_no_jobs(&world.database).await;
        wait_until(DEADLINE, "another try", async || world.database.count(&tries).await > tried)
            .await;
        scheduler.shutdown(DEADLINE).await;
        let fired: Vec<_> = told.fired.all().into_iter().collect();
        assert_eq!(fired, [("call".to_owned(), 1), ("fails".to_owned(), 2)], "{backend:?}");
    }
}
