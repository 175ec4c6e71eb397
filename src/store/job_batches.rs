//! Changes of several jobs of one shard by a bulk action, in one transaction.
//!
//! Cancellations of jobs that wait, of which there may be a million, are two statements on a server
//! whatever their number. Other changes are one statement for each job.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, MySqlTransaction, PgTransaction};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::claims::Claim;
use super::columns::history;
use super::history_row::AttemptState;
use super::job_changes::{JobWrite, JobWritten};
use super::job_rows::TOMBSTONE_COLUMNS;
use super::letters::{LONGEST_NAME, truncated};
use super::outbox::{self, OrderingKey};
use super::steps::{Step, run_mysql, run_postgres, run_sqlite};
use super::{Driver, Result, Store, bulk};
use crate::model::change::remembered_until;
use crate::model::job::{Cancellation, Job};
use crate::model::verdict::{Event, pack};

/// What one transaction writes of a bulk action.
#[derive(Clone, Debug)]
pub struct JobsWrite {
    /// The bulk action, which counts them.
    pub bulk: i64,
    /// The changes, of different jobs of one shard: without a command, an entry of the audit and a
    /// bulk action of their own.
    pub writes: Vec<JobWrite>,
}

/// Cancellations of jobs that wait, all with the same words.
struct SameCancellation<'a> {
    jobs: Vec<&'a Job>,
    first: &'a Cancellation,
    /// For how long the jobs are remembered after their times, milliseconds.
    window_ms: i64,
}

impl Store {
    /// Changes jobs, all of them or none.
    ///
    /// # Errors
    /// As [`change_job`](Self::change_job).
    pub async fn change_jobs(&self, claim: &Claim, write: &Arc<JobsWrite>) -> Result<JobWritten> {
        match &self.inner.driver {
            Driver::Postgres(pool) => {
                let mut transaction = pool.begin().await?;
                let written = on_postgres(&mut transaction, claim, write).await?;
                match written {
                    JobWritten::Done => transaction.commit().await?,
                    _ => transaction.rollback().await?,
                }
                Ok(written)
            }
            Driver::MySql(pool) => {
                let mut transaction = pool.begin().await?;
                let turns = &self.inner.batch_turns;
                // The turn ends after the commit.
                let (written, _turn) = on_mysql(&mut transaction, claim, write, turns).await?;
                match written {
                    JobWritten::Done => transaction.commit().await?,
                    _ => transaction.rollback().await?,
                }
                Ok(written)
            }
            Driver::Sqlite(file) => {
                let (claim, write) = (*claim, write.clone());
                let is_done = |written: &JobWritten| *written == JobWritten::Done;
                let run = move |connection: &_| on_sqlite(connection, &claim, &write);
                file.write_if(is_done, run).await
            }
        }
    }
}

async fn on_postgres(
    transaction: &mut PgTransaction<'_>,
    claim: &Claim,
    write: &JobsWrite,
) -> Result<JobWritten> {
    if !claim.holds_on_postgres(transaction).await? {
        return Ok(JobWritten::NotOurs);
    }
    let are_as_read = match write.same_cancellation() {
        Some(same) => same.write_to_postgres(transaction).await?,
        None => {
            let changed = run_postgres(transaction, write.updates()).await?;
            changed && run_postgres(transaction, write.histories()).await?
        }
    };
    if !are_as_read {
        return Ok(JobWritten::Changed);
    }
    run_postgres(transaction, write.told(claim)).await?;
    Ok(JobWritten::Done)
}

/// An update moves rows in the primary key, and so in the index of ids, too, where it locks the
/// neighbours of each: two batches that lock hundreds of rows, each among those of the other, would
/// end in a deadlock. So one at a time has its turn to update rows until it is committed.
async fn on_mysql<'a>(
    transaction: &mut MySqlTransaction<'_>,
    claim: &Claim,
    write: &JobsWrite,
    turns: &'a Mutex<()>,
) -> Result<(JobWritten, Option<MutexGuard<'a, ()>>)> {
    if !claim.holds_on_mysql(transaction).await? {
        return Ok((JobWritten::NotOurs, None));
    }
    let same = write.same_cancellation();
    if let Some(same) = &same {
        same.keep_history_on_mysql(transaction).await?;
    }
    let turn = Some(turns.lock().await);
    let are_as_read = match &same {
        Some(same) => same.bury_on_mysql(transaction).await?,
        None => {
            let changed = run_mysql(transaction, write.updates()).await?;
            changed && run_mysql(transaction, write.histories()).await?
        }
    };
    if !are_as_read {
        return Ok((JobWritten::Changed, turn));
    }
    run_mysql(transaction, write.told(claim)).await?;
    Ok((JobWritten::Done, turn))
}

fn on_sqlite(
    connection: &rusqlite::Connection,
    claim: &Claim,
    write: &JobsWrite,
) -> Result<JobWritten> {
    if !claim.holds_on_sqlite(connection)? {
        return Ok(JobWritten::NotOurs);
    }
    if !run_sqlite(connection, write.updates())? {
        return Ok(JobWritten::Changed);
    }
    run_sqlite(connection, write.histories())?;
    run_sqlite(connection, write.told(claim))?;
    Ok(JobWritten::Done)
}

impl JobsWrite {
    fn updates(&self) -> Vec<Step> {
        self.writes.iter().map(JobWrite::update).collect()
    }

    fn histories(&self) -> Vec<Step> {
        self.writes.iter().filter_map(JobWrite::history).collect()
    }

    /// The verdicts, and the count of the bulk action. Its row is the same for many batches: the
    /// lock on it is taken last.
    fn told(&self, claim: &Claim) -> Vec<Step> {
        let events: Vec<Event> =
            self.writes.iter().flat_map(|write| write.verdicts.iter().cloned()).collect();
        let key = OrderingKey::Shard(claim.shard());
        let verdicts = (!events.is_empty()).then(|| outbox::insert_verdicts(key, pack(&events)));
        verdicts.into_iter().chain([bulk::count(self.bulk, self.writes.len())]).collect()
    }

    fn same_cancellation(&self) -> Option<SameCancellation<'_>> {
        let of = |write: &JobWrite| {
            write.tombstone_until.map(|ms| ms - remembered_until(&write.before, 0))
        };
        let one = self.writes.first()?;
        let (first, window_ms) = (one.after.changes.cancelled.as_deref()?, of(one)?);
        let is_same = |write: &JobWrite| {
            of(write) == Some(window_ms)
                && !write.was_tombstone
                && write.before.memory() == write.after.memory()
                && write.before.changes.cancelled.is_none()
                && write.after.changes.cancelled.as_deref() == Some(first)
        };
        let jobs = self.writes.iter().map(|write| &write.before).collect();
        self.writes.iter().all(is_same).then_some(SameCancellation { jobs, first, window_ms })
    }
}

/// The row of the history of a job `j` that is cancelled while it waits; the placeholders are the
/// time, and by whom.
const HISTORY: &str = "j.id, j.created_ms, j.attempts, {state}, (select app from scheduler_shard \
     where id = j.shard), j.request_id, j.scheduled_ms, j.due_ms, null, {at}, null, null, null, \
     null, {by}, j.priority, j.max_attempts, j.timeout_ms, j.data, j.ledger, j.source_offset";

fn history_of(at: &str, by: &str) -> String {
    let state = AttemptState::Cancelled.code().to_string();
    HISTORY.replace("{state}", &state).replace("{at}", at).replace("{by}", by)
}

/// The index is forced: for a list of rows the optimizer may choose a table scan, which waits for
/// rows that other transactions insert.
const MYSQL_TABLE: &str = "scheduler_job as j force index (scheduler_job_by_id)";

impl SameCancellation<'_> {
    fn by(&self) -> String {
        truncated(&self.first.by, LONGEST_NAME)
    }

    /// False if one of the jobs is not as it was read.
    async fn write_to_postgres(&self, transaction: &mut PgTransaction<'_>) -> Result<bool> {
        // Rows are found by their ids first, and their versions are compared then.
        let these = "j.id = any($1::uuid[]) and j.priority <> 3 \
             and ((j.id, j.created_ms, j.revision, j.attempts) in (select * from \
             unnest($1::uuid[], $2::bigint[], $3::integer[], $4::integer[]))) is true";
        let insert = format!(
            "insert into scheduler_job_history ({}) select {} from scheduler_job as j where {these} \
             on conflict do nothing",
            history::COLUMNS,
            history_of("$5", "$6"),
        );
        let columns = TOMBSTONE_COLUMNS
            .replacen("due_ms = ?", "due_ms = greatest(created_ms, due_ms, scheduled_ms) + $7", 1)
            .replacen("revision = ?", "revision = revision + 1", 1)
            .replacen("cancelled_ms = ?", "cancelled_ms = $5", 1)
            .replacen("cancelled_by = ?", "cancelled_by = $6", 1);
        let update = format!("update scheduler_job as j set {columns} where {these}");
        let ids: Vec<Uuid> = self.jobs.iter().map(|job| job.id.uuid()).collect();
        let created: Vec<i64> = self.jobs.iter().map(|job| job.created_ms).collect();
        let revisions: Vec<i32> =
            self.jobs.iter().map(|job| signed(job.changes.revision)).collect();
        let attempts: Vec<i32> = self.jobs.iter().map(|job| signed(job.attempts)).collect();
        let mut changed = 0;
        for (sql, has_window) in [(insert, false), (update, true)] {
            let query = sqlx::query(AssertSqlSafe(sql))
                .bind(&ids)
                .bind(&created)
                .bind(&revisions)
                .bind(&attempts)
                .bind(self.first.at_ms)
                .bind(self.by());
            let query = if has_window { query.bind(self.window_ms) } else { query };
            changed = query.execute(&mut **transaction).await?.rows_affected();
        }
        Ok(changed == self.jobs.len() as u64)
    }

    async fn keep_history_on_mysql(&self, transaction: &mut MySqlTransaction<'_>) -> Result<()> {
        let insert = format!(
            "insert into scheduler_job_history ({}) select {} from {MYSQL_TABLE} where {}",
            history::COLUMNS,
            history_of("?", "?"),
            self.these_on_mysql(),
        );
        let insert = sqlx::query(AssertSqlSafe(insert)).persistent(false);
        let insert = insert.bind(self.first.at_ms).bind(self.by());
        insert.execute(&mut **transaction).await?;
        Ok(())
    }

    /// False if one of the jobs is not as it was read.
    async fn bury_on_mysql(&self, transaction: &mut MySqlTransaction<'_>) -> Result<bool> {
        let columns = TOMBSTONE_COLUMNS
            .replacen("due_ms = ?", "due_ms = greatest(created_ms, due_ms, scheduled_ms) + ?", 1)
            .replacen("revision = ?", "revision = revision + 1", 1);
        let update = format!("update {MYSQL_TABLE} set {columns} where {}", self.these_on_mysql());
        let update = sqlx::query(AssertSqlSafe(update)).persistent(false);
        let update = update.bind(self.window_ms).bind(self.first.at_ms).bind(self.by());
        let changed = update.execute(&mut **transaction).await?.rows_affected();
        Ok(changed == self.jobs.len() as u64)
    }

    /// Their rows, if they are as they were read.
    fn these_on_mysql(&self) -> String {
        let ids: Vec<String> =
            self.jobs.iter().map(|job| format!("x'{:032x}'", job.id.as_u128())).collect();
        let version = |job: &&Job| {
            let (id, created_ms) = (job.id.as_u128(), job.created_ms);
            format!("(x'{id:032x}',{created_ms},{},{})", job.changes.revision, job.attempts)
        };
        let versions: Vec<String> = self.jobs.iter().map(version).collect();
        format!(
            "j.id in ({}) and j.priority <> 3 \
             and (j.id, j.created_ms, j.revision, j.attempts) in ({})",
            ids.join(","),
            versions.join(",")
        )
    }
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
