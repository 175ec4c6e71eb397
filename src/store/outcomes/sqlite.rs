//! Outcomes on SQLite. The table is clustered in firing order, so rows are found by that key.

use rusqlite::{Connection, params};

use super::{Letters, OutcomeBatch, Written, attempts_of};
use crate::store::Result;
use crate::store::admit::sqlite::holds;
use crate::store::columns::history as columns;
use crate::store::steps::run_sqlite;

pub(super) fn write(
    connection: &Connection,
    batch: &OutcomeBatch,
    letters: &Letters,
) -> Result<Written> {
    let mut held = Vec::new();
    for fence in &batch.fences {
        if holds(connection, fence)? {
            held.push(fence.shard);
        }
    }
    let lost = batch.lost(|shard| held.contains(&shard));
    run_sqlite(connection, batch.published(&lost, letters))?;
    let (ended, retried) = (batch.ended_in_firing_order(&lost), batch.retried(&lost));
    let mut found = 0;
    let by_place = "where shard = ? and priority = ? and due_ms = ? and id = ? \
        and created_ms = ? and attempts = ?";
    let mut delete = connection.prepare_cached(&format!("delete from scheduler_job {by_place}"))?;
    for job in &ended {
        let rank = job.priority.rank();
        let (id, created) = (job.id.into_bytes(), job.created_ms);
        let version = attempts_of(job);
        found += delete.execute(params![job.shard.0, rank, job.due_ms, id, created, version])?;
    }
    let mut update = connection.prepare_cached(&format!(
        "update scheduler_job set due_ms = ?, attempts = ?, last_error = ?, started_ms = null, \
         started_by = null {by_place}"
    ))?;
    for (job, due_ms, attempts, error) in &retried {
        let (rank, id) = (job.priority.rank(), job.id.into_bytes());
        found += update.execute(params![
            due_ms,
            attempts,
            error,
            job.shard.0,
            rank,
            job.due_ms,
            id,
            job.created_ms,
            attempts_of(job),
        ])?;
    }
    let history = batch.history(&lost);
    if !history.is_empty() {
        let values = vec!["?"; columns::POSTGRES_TYPES.len()].join(", ");
        let mut insert = connection.prepare_cached(&format!(
            "insert into scheduler_job_history ({}) values ({values}) on conflict do nothing",
            columns::COLUMNS
        ))?;
        for row in history {
            columns::execute_sqlite(&mut insert, row)?;
        }
    }
    Ok(Written { unmatched: (ended.len() + retried.len()).saturating_sub(found), lost })
}
