//! Locks of other clients: deadlocks whose victim we are, and waits that time out. The transaction
//! is rolled back as a whole and repeated.

use std::time::{SystemTime, UNIX_EPOCH};

use sea_orm::{ConnectionTrait, DatabaseTransaction, IsolationLevel, TransactionTrait};

use super::{DEADLINE, Flow, JOBS, PARTITIONS};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::World;

/// Deadlocks of one kind, one after another.
const DEADLOCKS: usize = 2;
/// When jobs are due that are to be locked before.
const SOON_MS: i64 = 5000;

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_undoes_a_batch_and_loses_nothing_on_mariadb() {
    a_deadlock_undoes_a_batch_and_loses_nothing(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_undoes_a_batch_and_loses_nothing_on_mysql() {
    a_deadlock_undoes_a_batch_and_loses_nothing(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_undoes_a_batch_and_loses_nothing_on_postgres() {
    a_deadlock_undoes_a_batch_and_loses_nothing(Database::Postgres).await;
}

async fn a_deadlock_undoes_a_batch_and_loses_nothing(database: Database) {
    let world = World::new(database, PARTITIONS).await;
    let builder = world.builder();
    let mut flow = Flow::start(world, builder).await;
    let before = deadlocks(flow.database()).await;
    for _ in 0..DEADLOCKS {
        let other = begin(flow.database()).await;
        lock(&other, "scheduler_ingest_offset where number = 0").await;
        flow.wave().await;
        await_waiting(flow.database(), "update scheduler_ingest_offset").await;
        // It has the shards, and waits for the offset that we have.
        lock(&other, "scheduler_shard").await;
        other.rollback().await.expect("a rollback");
        flow.waves.settle().await;
    }
    for _ in 0..DEADLOCKS {
        let other = begin(flow.database()).await;
        flow.waves.send(now_ms() + SOON_MS).await;
        flow.waves.read().await;
        lock(&other, "scheduler_job").await;
        let jobs = "select count(*) from scheduler_job";
        assert_eq!(flow.database().count(jobs).await as usize, JOBS, "before they are due");
        let delete = match database {
            Database::MariaDb | Database::MySql => "delete j from scheduler_job",
            Database::Postgres | Database::Sqlite => "delete from scheduler_job",
        };
        await_waiting(flow.database(), delete).await;
        // Outcomes have shards, and wait for the jobs.
        lock(&other, "scheduler_shard").await;
        other.rollback().await.expect("a rollback");
        flow.waves.settle().await;
    }
    let deadlocked = async || deadlocks(flow.database()).await - before;
    wait_until(DEADLINE, "deadlocks in the server's books", async || {
        deadlocked().await >= 2 * DEADLOCKS as i64
    })
    .await;
    flow.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_had_in_time_is_waited_for_again_on_mariadb() {
    let why = "Lock wait timeout exceeded";
    a_lock_that_is_not_had_in_time_is_waited_for_again(Database::MariaDb, why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_had_in_time_is_waited_for_again_on_mysql() {
    let why = "Lock wait timeout exceeded";
    a_lock_that_is_not_had_in_time_is_waited_for_again(Database::MySql, why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_had_in_time_is_waited_for_again_on_postgres() {
    let why = "canceling statement due to lock timeout";
    a_lock_that_is_not_had_in_time_is_waited_for_again(Database::Postgres, why).await;
}

async fn a_lock_that_is_not_had_in_time_is_waited_for_again(database: Database, why: &str) {
    let world = World::new(database, PARTITIONS).await;
    let builder = world.builder();
    let mut flow = Flow::start(world, builder).await;
    let other = begin(flow.database()).await;
    lock(&other, "scheduler_ingest_offset").await;
    flow.wave().await;
    flow.await_complaint("partition", why).await;
    // MariaDB undoes the statement only. The rest of the transaction is for us to undo: it had
    // locked shards.
    let third = flow.database().connect().await;
    wait_until(DEADLINE, "the shards unlocked", async || {
        // What fails on PostgreSQL ends its transaction.
        let transaction = third.begin().await.expect("a transaction");
        let lock = "select id from scheduler_shard for update nowait";
        let had = transaction.execute_unprepared(lock).await.is_ok();
        transaction.rollback().await.expect("a rollback");
        had
    })
    .await;
    assert_eq!(flow.complaint("database"), None, "it answers all the time");
    flow.wave().await;
    other.rollback().await.expect("a rollback");
    flow.finish().await;
}

/// A transaction of another client, which no server takes for the victim of a deadlock.
async fn begin(database: &TestDatabase) -> DatabaseTransaction {
    let connection = database.connect().await;
    let isolation = Some(IsolationLevel::ReadCommitted);
    let other = connection.begin_with_config(isolation, None).await.expect("a transaction");
    let weights: &[&str] = match database.backend() {
        // Who finds the deadlock is the victim, so we look for it last.
        Database::Postgres => &["set local deadlock_timeout = '60s'"],
        // Who has changed the least is the victim.
        _ => &[
            "create temporary table ballast (id integer) engine = innodb",
            "insert into ballast select 1 from information_schema.collations a, \
             information_schema.collations b limit 5000",
        ],
    };
    for sql in weights {
        other.execute_unprepared(sql).await.expect("weight");
    }
    other
}

async fn lock(other: &DatabaseTransaction, rows: &str) {
    let sql = format!("select * from {rows} for update");
    let had = tokio::time::timeout(DEADLINE, other.execute_unprepared(&sql)).await;
    had.expect("a lock in time").unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Waits until a statement that contains this waits for a lock.
async fn await_waiting(database: &TestDatabase, statement: &str) {
    let waiting = match database.backend() {
        Database::Postgres => format!(
            "select count(*) from pg_stat_activity where datname = current_database() \
             and wait_event_type = 'Lock' and query like '%{statement}%'"
        ),
        Database::MySql => format!(
            "select count(*) from performance_schema.data_lock_waits w \
             join performance_schema.threads t on t.thread_id = w.requesting_thread_id \
             where t.processlist_db = database() and t.processlist_info like '%{statement}%'"
        ),
        // InnoDB refreshes its table of waits only if it was not read for a while.
        _ => format!(
            "select count(*) from information_schema.processlist where db = database() \
             and command = 'Query' and time_ms > 300 and info like '%{statement}%'"
        ),
    };
    let what = "a statement that waits for a lock";
    wait_until(DEADLINE, what, async || database.count(&waiting).await > 0).await;
}

/// How many the server has resolved; MariaDB and MySQL count those of all databases.
async fn deadlocks(database: &TestDatabase) -> i64 {
    let count = match database.backend() {
        Database::Postgres => {
            "select deadlocks from pg_stat_database where datname = current_database()"
        }
        Database::MySql => {
            "select cast(count as signed) from information_schema.innodb_metrics \
             where name = 'lock_deadlocks'"
        }
        _ => {
            "select cast(variable_value as signed) from information_schema.global_status \
             where variable_name = 'innodb_deadlocks'"
        }
    };
    database.count(count).await
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock behind 1970");
    now.as_millis() as i64
}
