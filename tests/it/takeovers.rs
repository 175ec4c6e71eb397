//! What an instance does whose shards or whose lease go while it works.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::{AppConfig, JobContext, JobError, JobHandler};
use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};
use tokio::sync::Semaphore;

use crate::support::kafka::{RawRecord, produce};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

const DEADLINE: Duration = Duration::from_secs(90);
/// Servers, on which a test can hold up the heartbeat alone.
const SERVERS: [Database; 2] = [Database::MariaDb, Database::Postgres];

/// The first attempt runs until it may end or is told to stop; the others end at once.
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
        database.count("select count(*) from job").await == 0
    })
    .await;
}

async fn next_offset(database: &TestDatabase) -> i64 {
    database.count("select next_offset from ingest_offset").await
}

/// No heartbeat gets through until this ends.
async fn hold_heartbeats(database: &TestDatabase) -> DatabaseTransaction {
    let holder = database.connect().await.begin().await.expect("a transaction");
    holder.execute_unprepared("update instance set name = 'held'").await.expect("a lock");
    holder
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_shard_is_taken_is_told_and_its_job_fires_again() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        let watched = Watched::new();
        let builder = world.builder_without_apps();
        let builder = builder.register_app(AppConfig::new("sms"), watched.clone());
        let scheduler = builder.start().await.expect("a start");
        produce(&world.topic, &[record("r", 0)]).await;
        watched.await_firings(1).await;
        // By somebody who leaves again without a word.
        world.database.execute("update shard set owner = 5, epoch = epoch + 1").await;
        watched.await_firings(2).await;
        await_no_jobs(&world.database).await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(watched.told.load(Ordering::SeqCst), 1, "{backend:?}");
        let fences = watched.fences();
        assert!(fences.len() == 2 && fences[0] < fences[1], "{backend:?}: {fences:?}");
    }
}

/// It waits for other shards, and after some tries puts them where the owner is told to look.
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
        world.database.execute("update shard set epoch = epoch + 1").await;
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
        let passes = async |ms: i64| {
            wait_until(DEADLINE, "a moment", async || SystemClock.now_ms() > ms).await;
        };
        passes(held_ms + lease_ms).await;
        watched.may_end.add_permits(1);
        produce(&world.topic, &[record("read", 0)]).await;
        passes(due_ms.max(held_ms + lease_ms) + lease_ms / 2).await;
        assert_eq!(watched.fences().len(), 1, "{backend:?}: nothing is fired");
        let jobs = world.database.count("select count(*) from job").await;
        assert_eq!((jobs, next_offset(&world.database).await), (2, 2), "{backend:?}");

        holder.rollback().await.expect("a rollback");
        watched.await_firings(3).await;
        await_no_jobs(&world.database).await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(watched.fences().len(), 3, "{backend:?}: each once");
    }
}
