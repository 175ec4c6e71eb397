//! Outcomes on MariaDB and MySQL. The table is clustered in firing order, so that jobs which were
//! fired together are stored together: a delete scans the range of a list from the first of its
//! jobs to the last. That range has few other rows, because a list is fired in this order.

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Either, MySqlTransaction};

use super::{Letters, OutcomeBatch, Written, attempts_of};
use crate::model::job::Job;
use crate::store::Result;
use crate::store::admit::mysql::{fence_reads, insert_rows, run};
use crate::store::columns::history as columns;
use crate::store::steps::run_mysql;

/// The most jobs of one statement.
const CHUNK: usize = 500;

pub(super) async fn write(
    pool: &sqlx::MySqlPool,
    batch: &OutcomeBatch,
    letters: &Letters,
) -> Result<Written> {
    let mut transaction = pool.begin().await?;
    let (held, _) = run(&mut transaction, fence_reads(&batch.fences)).await?;
    let lost = batch.lost(|shard| held.contains(&shard.0));
    run_mysql(&mut transaction, batch.published(&lost, letters)).await?;
    let (ended, retried) = (batch.ended_in_firing_order(&lost), batch.retried(&lost));
    let mut found = 0;
    if !ended.is_empty() {
        let lists = ended.chunk_by(|one, next| list_of(one) == list_of(next));
        let deletes: Vec<String> =
            lists.flat_map(|list| list.chunks(CHUNK)).map(delete_of).collect();
        found += run_all(&mut transaction, deletes.join(";")).await?;
    }
    for (job, due_ms, attempts, error) in &retried {
        let update = "update scheduler_job set due_ms = ?, attempts = ?, last_error = ?, \
            started_ms = null, started_by = null \
            where shard = ? and priority = ? and due_ms = ? and id = ? \
            and created_ms = ? and attempts = ?";
        let update = sqlx::query(update)
            .bind(due_ms)
            .bind(attempts)
            .bind(error)
            .bind(job.shard.0)
            .bind(job.priority.rank())
            .bind(job.due_ms)
            .bind(job.id.uuid())
            .bind(job.created_ms)
            .bind(attempts_of(job));
        found += update.execute(&mut *transaction).await?.rows_affected();
    }
    // The update of a row that is there already changes nothing; `insert ignore` would also store
    // values that do not fit.
    let into = format!("insert into scheduler_job_history ({}) values ", columns::COLUMNS);
    let end = " on duplicate key update state = scheduler_job_history.state";
    let history = batch.history(&lost);
    insert_rows(
        &mut transaction,
        &into,
        columns::POSTGRES_TYPES.len(),
        end,
        &history,
        columns::bind_mysql,
    )
    .await?;
    transaction.commit().await?;
    let expected = ended.len() + retried.len();
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    Ok(Written { unmatched: expected.saturating_sub(found), lost })
}

fn list_of(job: &Job) -> (i32, i16) {
    (job.shard.0, job.priority.rank())
}

/// Deletes jobs of one list, given in its order. The index is forced: for a list of rows the
/// optimizer may choose a table scan, which waits for rows that other transactions insert.
fn delete_of(jobs: &[&Job]) -> String {
    let [Some(first), Some(last)] = [jobs.first(), jobs.last()] else { return String::new() };
    let version = |job: &&Job| {
        format!("(x'{:032x}',{},{})", job.id.as_u128(), job.created_ms, attempts_of(job))
    };
    let versions: Vec<String> = jobs.iter().map(version).collect();
    format!(
        "delete j from scheduler_job as j force index (primary) where shard = {} \
         and priority = {} and due_ms between {} and {} and (id, created_ms, attempts) in ({})",
        first.shard,
        first.priority.rank(),
        first.due_ms,
        last.due_ms,
        versions.join(",")
    )
}

/// Executes a text of several statements, and returns how many rows they changed.
async fn run_all(transaction: &mut MySqlTransaction<'_>, sql: String) -> Result<u64> {
    let mut changed = 0;
    let mut results = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(&mut **transaction);
    while let Some(result) = results.try_next().await? {
        if let Either::Left(done) = result {
            changed += done.rows_affected();
        }
    }
    Ok(changed)
}
