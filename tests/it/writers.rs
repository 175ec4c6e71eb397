//! Each job has one writer and each partition one reader: the conditions under which each statement
//! of the store changes something. A late writer changes nothing.

mod ledger;
mod letters;
mod plans;
mod shards;
mod unmatched;

use std::sync::Arc;
use std::time::Duration;

use infinite_scheduler::model::ids::{InstanceId, JobId, ShardId};
use infinite_scheduler::store::{
    Batch, BatchSource, Entry, Membership, ShardFence, ShardRow, Store, StoreOptions,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};

use crate::support::fixture::Fixture;
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;

const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than locks are held here, since waits for a lock end after a lease.
const LEASE: Duration = Duration::from_secs(40);
/// Over as soon as it is looked at.
const NO_LEASE: Duration = Duration::from_millis(1);

/// Servers, on which more than one connection writes.
const SERVERS: [Database; 3] = Database::SERVERS;

async fn store(database: &TestDatabase) -> Store {
    let options = StoreOptions { url: database.url().into(), max_connections: 4, lease: LEASE };
    let store = Store::connect(&options).await.expect("a store");
    store.migrate().await.expect("tables");
    store
}

async fn ground_on(database: &TestDatabase) -> Fixture {
    let mut fixture = Fixture::new(database).await;
    fixture.store.close().await;
    fixture.store = store(database).await;
    fixture
}

async fn join(store: &Store, lease: Duration) -> InstanceId {
    let membership = Membership {
        name: "test".into(),
        apps: Vec::new(),
        time_zones: "2026f".into(),
        lease,
        process: None,
        is_drained: false,
    };
    store.join(&membership, 0).await.expect("joined")
}

async fn shard(store: &Store, id: ShardId) -> ShardRow {
    let seen = store.observe(InstanceId(1)).await.expect("an observation");
    seen.shards.into_iter().find(|row| row.id == id).expect("the shard")
}

/// Takes a shard for `me`, if it may have it.
async fn take(store: &Store, seen: &ShardRow, me: InstanceId) -> Option<ShardFence> {
    let taken = store.take_shards(&[*seen], me, 0).await.expect("an answer");
    assert!(taken.iter().all(|fence| (fence.shard, fence.owner) == (seen.id, me)), "{taken:?}");
    taken.first().copied()
}

/// Takes the shard of the fixture's job for a new instance.
async fn own(fixture: &Fixture) -> ShardFence {
    let me = join(&fixture.store, LEASE).await;
    let seen = shard(&fixture.store, fixture.app.shards[0]).await;
    take(&fixture.store, &seen, me).await.expect("taken")
}

/// The fixture's job by a name, for a shard that is ours.
fn job(fixture: &Fixture, name: &str) -> Entry {
    let Entry::Job(mut candidate) = fixture.job() else { panic!("not a job") };
    candidate.job.id = JobId::derive("sms", name);
    candidate.job.request_id = name.into();
    candidate.foreign = false;
    Entry::Job(candidate)
}

fn batch(source: BatchSource, entries: Vec<Entry>, fences: Vec<ShardFence>) -> Arc<Batch> {
    Arc::new(Batch {
        source,
        entries,
        fences,
        read_first: false,
        conflict_on_time: false,
        window_ms: 86_400_000,
        verdicts: false,
        now_ms: 8,
    })
}

/// Blocks inserts of this job: a copy of the seed's row under its id, uncommitted.
pub(crate) async fn hold_up_insert(database: &TestDatabase, name: &str) -> DatabaseTransaction {
    let id = JobId::derive("sms", name);
    let id = match database.backend() {
        Database::Postgres => format!("'{}'::uuid", id.uuid()),
        _ => format!("x'{:032x}'", id.as_u128()),
    };
    let seed = "select count(*) from scheduler_job where request_id = 'seed'";
    assert_eq!(database.count(seed).await, 1, "there is a seed");
    let columns = "shard, priority, due_ms, request_id, scheduled_ms, created_ms, attempts, data";
    hold(
        database,
        &format!(
            "insert into scheduler_job (id, {columns}) select {id}, {columns} from scheduler_job \
             where request_id = 'seed'"
        ),
    )
    .await
}

async fn hold(database: &TestDatabase, sql: &str) -> DatabaseTransaction {
    let transaction = database.connect().await.begin().await.expect("a transaction");
    transaction.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    transaction
}

/// Waits until this many statements wait for locks of others.
pub(crate) async fn await_held_up(database: &TestDatabase, count: i64) {
    let held_up = match database.backend() {
        Database::Postgres => {
            "select count(*) from pg_stat_activity where datname = current_database() \
             and wait_event_type = 'Lock'"
        }
        Database::MySql => {
            "select count(distinct requesting_thread_id) from performance_schema.data_lock_waits w \
             join performance_schema.threads t on t.thread_id = w.requesting_thread_id \
             where t.processlist_db = database()"
        }
        // Not `innodb_trx`: queried often, it returns the same result.
        _ => {
            "select count(*) from information_schema.processlist where db = database() \
             and id <> connection_id() and time_ms > 300 and info regexp \
             '^(insert into scheduler_job|delete|update .?scheduler_ingest_offset.? set .?reader)'"
        }
    };
    wait_until(DEADLINE, "statements that wait", async || database.count(held_up).await == count)
        .await;
}
