//! A statement on the path of a job has one plan, whatever the planner's statistics say: a
//! queue's table is empty when it is analysed and full when it is read. What is compared is
//! how many rows the server walks through, never how long that takes.

use std::sync::Arc;

use infinite_scheduler::model::ids::{JobId, KeyId};
use infinite_scheduler::store::{
    Admitted, Batch, Decision, Ended, Entry, IdempotencyKey, KeyCursor, Lane, ListRange, Names,
    Outcome, OutcomeBatch, ShardFence,
};
use infinite_scheduler::{Job, Priority};

use super::{DEADLINE, batch, ground_on, job, own};
use crate::support::ground::Ground;
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;

const TABLES: [&str; 3] = ["scheduler_job", "scheduler_idempotency_key", "scheduler_outbox"];
const BATCHES: i64 = 100;
/// Jobs of a batch: few, so that one plan for the whole table shows in each.
const JOBS: i64 = 20;

/// What the planner is told of each table and its indexes: pages, rows.
#[derive(Clone, Copy, Debug)]
enum Statistics {
    Empty,
    Tiny,
    Huge,
}

impl Statistics {
    async fn set(self, database: &TestDatabase) {
        let (pages, rows) = match self {
            Self::Empty => (5000, 0),
            Self::Tiny => (1, 1),
            Self::Huge => (10_000_000, 1_000_000_000),
        };
        for table in TABLES {
            match database.backend() {
                Database::Postgres => Self::set_on_postgres(database, table, pages, rows).await,
                Database::MariaDb | Database::MySql => {
                    Self::set_on_mysql(database, table, pages, rows).await;
                }
                Database::Sqlite => unreachable!("SQLite keeps no statistics unless it is told to"),
            }
        }
    }

    async fn set_on_postgres(database: &TestDatabase, table: &str, pages: i64, rows: i64) {
        database.execute(&format!("alter table {table} set (autovacuum_enabled = off)")).await;
        // First what a clean-up of an emptied table leaves, so that the columns' own
        // statistics are those of no rows.
        database.execute(&format!("analyze {table}")).await;
        let update = format!(
            "update pg_class set relpages = {pages}, reltuples = {rows} where oid in \
             (select indexrelid from pg_index where indrelid = '{table}'::regclass \
             union select '{table}'::regclass)"
        );
        database.execute(&update).await;
    }

    async fn set_on_mysql(database: &TestDatabase, table: &str, pages: i64, rows: i64) {
        let name = database.name();
        let of_table = format!("where database_name = '{name}' and table_name = '{table}'");
        database.execute(&format!("alter table {table} stats_auto_recalc = 0")).await;
        for update in [
            format!("analyze table {name}.{table}"),
            format!(
                "update mysql.innodb_table_stats set n_rows = {rows}, \
                 clustered_index_size = {pages}, sum_of_other_index_sizes = {pages} {of_table}"
            ),
            format!(
                "update mysql.innodb_index_stats set stat_value = {rows} {of_table} \
                 and stat_name like 'n_diff%'"
            ),
            format!("flush tables {name}.{table}"),
        ] {
            database.execute_on_server(&update).await;
        }
    }
}

/// How many rows of `table` the server has read for anybody, whichever way it came to them.
async fn rows_read(database: &TestDatabase, table: &str) -> i64 {
    let name = database.name();
    let sql = match database.backend() {
        Database::Postgres => format!(
            "select (seq_tup_read + (select sum(idx_tup_read) from pg_stat_user_indexes \
             where relname = '{table}'))::bigint from pg_stat_user_tables where relname = '{table}'"
        ),
        Database::MariaDb => format!(
            "select cast(coalesce(sum(rows_read), 0) as signed) from \
             information_schema.table_statistics where table_schema = '{name}' \
             and table_name = '{table}'"
        ),
        Database::MySql => format!(
            "select cast(sum(count_fetch) as signed) from \
             performance_schema.table_io_waits_summary_by_table \
             where object_schema = '{name}' and object_name = '{table}'"
        ),
        Database::Sqlite => unreachable!("SQLite does not count"),
    };
    database.count(&sql).await
}

/// The sessions of `database` that are ours.
async fn sessions(database: &TestDatabase) -> i64 {
    let sql = match database.backend() {
        Database::Postgres => "select count(*) from pg_stat_activity where datname = \
             current_database() and application_name = 'infinite-scheduler'"
            .to_owned(),
        Database::MariaDb | Database::MySql => format!(
            "select count(*) from information_schema.processlist where db = '{}' \
             and id <> connection_id()",
            database.name()
        ),
        Database::Sqlite => unreachable!("SQLite has no sessions"),
    };
    database.count(&sql).await
}

async fn check(backend: Database) {
    for statistics in [Statistics::Empty, Statistics::Tiny, Statistics::Huge] {
        let database = backend.fresh().await;
        if backend == Database::MariaDb {
            // Counts what is read of each table, which MariaDB does not unless it is asked.
            database.execute_on_server("set global userstat = on").await;
        }
        let ground = ground_on(&database).await;
        let fence = own(&ground).await;
        statistics.set(&database).await;
        burst(&ground, fence).await;
        ground.store.close().await;
        // A session reports what it has walked through when it ends.
        wait_until(DEADLINE, "the end of every session", async || sessions(&database).await == 0)
            .await;
        for table in TABLES {
            let walked = rows_read(&database, table).await;
            // Each row is found a handful of times; one plan that walks the table in each batch
            // comes to fifty rows for each of them.
            let most = 12 * BATCHES * JOBS;
            assert!(walked <= most, "{statistics:?}: {walked} rows of {table}, at most {most}");
            assert!(walked > 0 || table != TABLES[0], "{statistics:?}: nothing was counted");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_the_server_read_a_table_for_each_batch_on_postgres() {
    check(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_the_server_read_a_table_for_each_batch_on_mariadb() {
    check(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_the_server_read_a_table_for_each_batch_on_mysql() {
    check(Database::MySql).await;
}

/// Everything that is asked of these tables on the way of a job.
async fn burst(ground: &Ground, fence: ShardFence) {
    let store = &ground.store;
    let batches: Vec<Arc<Batch>> =
        (0..BATCHES).map(|number| records(ground, number, fence)).collect();
    for batch in &batches {
        let admitted = store.admit(batch).await.expect("an answer");
        let accepted = Admitted::Done(vec![Decision::Accepted; JOBS as usize]);
        assert_eq!(admitted, accepted);
    }
    // What is known of names that come again.
    for batch in &batches {
        let decisions = store.foresee(batch, &mut Names::default()).await.expect("an answer");
        assert!(
            decisions.iter().all(|decision| matches!(decision, Decision::Duplicate { .. })),
            "{decisions:?}"
        );
    }
    let mut after = (i64::MIN, JobId::from_bytes([0; 16]));
    let mut jobs: Vec<Job> = Vec::new();
    loop {
        let (shard, limit) = (fence.shard, JOBS as u32);
        let list = ListRange { shard, priority: Priority::Normal, after, limit };
        let page = store.pages(&[list], usize::MAX).await.expect("an answer");
        let page = page.pages.into_iter().next().expect("a page");
        let Some(last) = page.last() else { break };
        after = last.key();
        let ids: Vec<JobId> = page.iter().map(|job| job.id).collect();
        assert_eq!(store.jobs_by_id(&ids, usize::MAX).await.expect("an answer").0.len(), ids.len());
        jobs.extend(page);
    }
    assert_eq!(jobs.len() as i64, BATCHES * JOBS);
    // Every job fails once and ends then.
    for some in jobs.chunks_mut(JOBS as usize) {
        let retry = |job: &Job| Outcome::Retry {
            due_ms: job.due_ms + 1_000_000,
            attempts: 1,
            error: Some("no".into()),
        };
        write(ground, fence, some, retry).await;
        for job in some {
            (job.due_ms, job.attempts) = (job.due_ms + 1_000_000, 1);
        }
    }
    for some in jobs.chunks(JOBS as usize) {
        write(ground, fence, some, |_| Outcome::Succeeded).await;
    }
    let lanes = [Lane::Shard(fence.shard)];
    loop {
        let rows = store.unpublished_verdicts(&lanes, &[], 10).await.expect("an answer");
        if rows.is_empty() {
            break;
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        store.published(&ids).await.expect("an answer");
    }
    let mut from = Some(KeyCursor::default());
    while let Some(cursor) = from {
        let (_, next) = store.forget_keys(cursor, 10_000_000).await.expect("a step");
        from = next;
    }
}

async fn write(
    ground: &Ground,
    fence: ShardFence,
    jobs: &[Job],
    outcome: impl Fn(&Job) -> Outcome,
) {
    let ended = |job: &Job| Ended {
        job: Arc::new(job.clone()),
        outcome: outcome(job),
        verdicts: Vec::new(),
    };
    let outcomes = jobs.iter().map(ended).collect();
    let batch = Arc::new(OutcomeBatch { fences: vec![fence], outcomes });
    let written = ground.store.write_outcomes(&batch).await.expect("an answer");
    assert_eq!((written.lost, written.unmatched), (Vec::new(), 0));
}

/// The records of one batch: jobs with keys, all of them told.
fn records(ground: &Ground, number: i64, fence: ShardFence) -> Arc<Batch> {
    let first = number * JOBS;
    let entries = (first..first + JOBS).map(|number| {
        let name = format!("r{number}");
        let Entry::Job(mut candidate) = job(ground, &name) else { panic!("not a job") };
        candidate.job.due_ms = number * 7919 % 100_000;
        let id = KeyId::derive("sms", &name);
        candidate.key = Some(IdempotencyKey { id, name, expires_ms: 1000 });
        Entry::Job(candidate)
    });
    let one = batch(ground.records(number), entries.collect(), vec![fence]);
    let told = Batch { verdicts: true, ..Arc::unwrap_or_clone(one) };
    Arc::new(told)
}
