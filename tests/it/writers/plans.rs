//! A statement that runs for each job has one plan, whatever the planner's statistics are: a
//! queue's table is empty when it is analysed and full when it is read. The tests compare
//! the number of rows that the server reads, not the time.

use std::ops::Range;
use std::sync::Arc;

use infinite_scheduler::model::ids::{JobId, KeyId};
use infinite_scheduler::store::{
    Admitted, Batch, Decision, Ended, Entry, IdempotencyKey, KeyCursor, ListRange, Names,
    OrderingKey, Outcome, OutcomeBatch, ShardFence,
};
use infinite_scheduler::{Job, Priority};

use super::{DEADLINE, batch, ground_on, job, own};
use crate::support::fixture::Fixture;
use crate::support::servers::Server;
use crate::support::services::{Database, TestDatabase, temporary_folder};
use crate::support::wait_until;

const TABLES: [&str; 3] = ["scheduler_job", "scheduler_idempotency_key", "scheduler_outbox"];
const BATCHES: i64 = 100;
/// Jobs of a batch: few, so that one plan for the whole table shows in each.
const JOBS: i64 = 20;
/// Large batches.
const LARGE_BATCHES: i64 = 3;
const LARGE: i64 = 1000;

/// What the planner knows of each table and its indexes: pages, rows.
#[derive(Clone, Copy, Debug)]
enum Statistics {
    Empty,
    Tiny,
    Huge,
}

const ALL: [Statistics; 3] = [Statistics::Empty, Statistics::Tiny, Statistics::Huge];

impl Statistics {
    async fn set(self, database: &TestDatabase) {
        match database.backend() {
            Database::Postgres => self.set_on_postgres(database).await,
            _ => self.set_on_mysql(database).await,
        }
    }

    async fn set_on_mysql(self, database: &TestDatabase) {
        let (pages, rows) = match self {
            Self::Empty => (1, 0),
            Self::Tiny => (1, 1),
            Self::Huge => (10_000_000_i64, 1_000_000_000_i64),
        };
        for table in TABLES {
            database.execute(&format!("alter table {table} stats_auto_recalc = 0")).await;
            database.execute(&format!("analyze table {table}")).await;
            let of_table = "database_name = database() and table_name";
            let update = format!(
                "update mysql.innodb_table_stats set n_rows = {rows}, \
                 clustered_index_size = {pages} where {of_table} = '{table}'"
            );
            database.execute(&update).await;
            let update = format!(
                "update mysql.innodb_index_stats set stat_value = {rows} \
                 where {of_table} = '{table}' and stat_name like 'n_diff%'"
            );
            database.execute(&update).await;
            database.execute(&format!("flush table {table}")).await;
        }
    }

    async fn set_on_postgres(self, database: &TestDatabase) {
        let (pages, rows) = match self {
            Self::Empty => (5000, 0),
            Self::Tiny => (1, 1),
            Self::Huge => (10_000_000, 1_000_000_000),
        };
        for table in TABLES {
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
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_the_server_read_a_table_for_each_batch_on_postgres() {
    for statistics in ALL {
        check(statistics, &Database::Postgres.fresh().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_the_server_read_a_table_for_each_batch_on_mysql() {
    for statistics in ALL {
        check(statistics, &Database::MySql.fresh().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_the_server_read_a_table_for_each_batch_on_mariadb() {
    let logs = temporary_folder();
    // It counts the rows of each table only if asked to.
    let counting = [("INFINITE_SCHEDULER_TEST_MARIADB_OPTIONS", "--userstat=1")];
    let server =
        tokio::task::block_in_place(|| Server::start_with("mariadb", logs.path(), &counting));
    for statistics in ALL {
        let database = Database::MariaDb.fresh_on(server.address().to_owned()).await;
        check(statistics, &database).await;
    }
}

/// A batch may be as large as the table: then an index that has to be read as a whole for each id
/// seems cheap, and what is read is pages, not rows.
#[tokio::test(flavor = "multi_thread")]
async fn no_statistics_make_the_server_read_an_index_for_each_job_on_postgres() {
    for statistics in ALL {
        let database = Database::Postgres.fresh().await;
        let fixture = ground_on(&database).await;
        let fence = own(&fixture).await;
        statistics.set(&database).await;
        burst(&fixture, fence, 0..LARGE_BATCHES, LARGE).await;
        fixture.store.close().await;
        await_reports(&database).await;
        for table in TABLES {
            let pages = format!(
                "select (idx_blks_hit + idx_blks_read)::bigint from pg_statio_user_tables \
                 where relname = '{table}'"
            );
            let pages = database.count(&pages).await;
            println!("{statistics:?}: {pages} pages of indexes of {table}");
            // A look-up by id takes three of them, and each job is looked up a few times.
            let most = 30 * LARGE_BATCHES * LARGE;
            assert!(pages <= most, "{statistics:?}: {pages} pages of {table}, at most {most}");
        }
    }
}

async fn check(statistics: Statistics, database: &TestDatabase) {
    let fixture = ground_on(database).await;
    let fence = own(&fixture).await;
    statistics.set(database).await;
    let mut before = Vec::new();
    for table in TABLES {
        before.push(walked(database, table).await);
    }
    burst(&fixture, fence, 0..BATCHES, JOBS).await;
    fixture.store.close().await;
    await_reports(database).await;
    for (table, before) in TABLES.into_iter().zip(before) {
        let walked = walked(database, table).await - before;
        println!("{:?}, {statistics:?}: {walked} rows of {table}", database.backend());
        assert!(walked > 0, "{statistics:?}: rows of {table} are counted");
        // Each row is found a handful of times; one plan that walks the table in each batch
        // comes to fifty rows for each of them.
        let most = 12 * BATCHES * JOBS;
        assert!(walked <= most, "{statistics:?}: {walked} rows of {table}, at most {most}");
    }
}

/// A session reports what it has walked through when it ends.
async fn await_reports(database: &TestDatabase) {
    let others = match database.backend() {
        Database::Postgres => {
            "select count(*) from pg_stat_activity where datname = current_database() \
             and application_name = 'infinite-scheduler'"
        }
        // The process list would bring the statements of all sessions, whose bytes need not be
        // text.
        Database::MySql => {
            "select count(*) from performance_schema.threads where processlist_db = database() \
             and processlist_id <> connection_id()"
        }
        _ => {
            "select count(*) from information_schema.processlist where db = database() \
             and id <> connection_id()"
        }
    };
    wait_until(DEADLINE, "the end of every session", async || database.count(others).await == 0)
        .await;
}

/// How many rows of a table, or of its indexes, were read so far.
async fn walked(database: &TestDatabase, table: &str) -> i64 {
    let sql = match database.backend() {
        Database::Postgres => format!(
            "select (seq_tup_read + (select sum(idx_tup_read) from pg_stat_user_indexes \
             where relname = '{table}'))::bigint from pg_stat_user_tables \
             where relname = '{table}'"
        ),
        Database::MySql => format!(
            "select cast(coalesce(sum(count_fetch), 0) as signed) \
             from performance_schema.table_io_waits_summary_by_table \
             where object_schema = database() and object_name = '{table}'"
        ),
        _ => format!(
            "select cast(coalesce(sum(rows_read), 0) as signed) \
             from information_schema.table_statistics \
             where table_schema = database() and table_name = '{table}'"
        ),
    };
    database.count(&sql).await
}

/// Everything that is asked of these tables on the way of a job.
async fn burst(fixture: &Fixture, fence: ShardFence, numbers: Range<i64>, jobs_of_each: i64) {
    let store = &fixture.store;
    let count = numbers.end - numbers.start;
    let batches: Vec<Arc<Batch>> =
        numbers.map(|number| records(fixture, number, jobs_of_each, fence)).collect();
    for batch in &batches {
        let admitted = store.admit(batch).await.expect("an answer");
        let accepted = Admitted::Done(vec![Decision::Accepted; jobs_of_each as usize]);
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
        let (shard, limit) = (fence.shard, jobs_of_each as u32);
        let list = ListRange { shard, priority: Priority::Normal, after, limit };
        let page = store.pages(&[list], usize::MAX).await.expect("an answer");
        let page = page.pages.into_iter().next().expect("a page");
        let Some(last) = page.last() else { break };
        after = last.key();
        let ids: Vec<JobId> = page.iter().map(|job| job.id).collect();
        assert_eq!(store.jobs_by_id(&ids, usize::MAX).await.expect("an answer").0.len(), ids.len());
        jobs.extend(page);
    }
    assert_eq!(jobs.len() as i64, count * jobs_of_each);
    // Every job fails once and ends then.
    for some in jobs.chunks_mut(jobs_of_each as usize) {
        let retry = |job: &Job| Outcome::Retry {
            due_ms: job.due_ms + 1_000_000,
            attempts: 1,
            error: Some("no".into()),
        };
        write(fixture, fence, some, retry).await;
        for job in some {
            (job.due_ms, job.attempts) = (job.due_ms + 1_000_000, 1);
        }
    }
    for some in jobs.chunks(jobs_of_each as usize) {
        write(fixture, fence, some, |_| Outcome::Succeeded).await;
    }
    let ordering_keys = [OrderingKey::Shard(fence.shard)];
    loop {
        let rows = store.unpublished_verdicts(&ordering_keys, &[], 10).await.expect("an answer");
        if rows.is_empty() {
            break;
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        store.remove_published(&ids).await.expect("an answer");
    }
    let mut from = Some(KeyCursor::default());
    while let Some(cursor) = from {
        let (_, next) = store.forget_keys(cursor, 10_000_000).await.expect("a step");
        from = next;
    }
}

async fn write(
    fixture: &Fixture,
    fence: ShardFence,
    jobs: &[Job],
    outcome: impl Fn(&Job) -> Outcome,
) {
    let ended = |job: &Job| Ended {
        job: Arc::new(job.clone()),
        outcome: outcome(job),
        verdicts: Vec::new(),
        kept: None,
    };
    let outcomes = jobs.iter().map(ended).collect();
    let batch = Arc::new(OutcomeBatch { fences: vec![fence], outcomes });
    let written = fixture.store.write_outcomes(&batch).await.expect("an answer");
    assert_eq!((written.lost, written.unmatched), (Vec::new(), 0));
}

/// The records of one batch: jobs with keys, all of them with verdicts.
fn records(fixture: &Fixture, number: i64, jobs: i64, fence: ShardFence) -> Arc<Batch> {
    let first = number * jobs;
    let entries = (first..first + jobs).map(|number| {
        let name = format!("r{number}");
        let Entry::Job(mut candidate) = job(fixture, &name) else { panic!("not a job") };
        candidate.job.due_ms = number * 7919 % 100_000;
        let id = KeyId::derive("sms", &name);
        candidate.key = Some(IdempotencyKey { id, name, expires_ms: 1000 });
        Entry::Job(candidate)
    });
    let one = batch(fixture.records(number), entries.collect(), vec![fence]);
    let told = Batch { verdicts: true, ..Arc::unwrap_or_clone(one) };
    Arc::new(told)
}
