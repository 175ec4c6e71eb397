//! Admission on SQLite: prepared single rows on the writer's thread, which is as quick
//! there as anything larger.

use rusqlite::{Connection, OptionalExtension, params};

use super::plan::{Plan, Totals};
use super::{Admitted, Batch};
use crate::store::rows::{COLUMNS, encode};
use crate::store::steps::run_sqlite;
use crate::store::{Error, Result, ShardFence};

pub(super) fn write(connection: &Connection, batch: &Batch, plan: Plan) -> Result<Admitted> {
    if !run_sqlite(connection, plan.takes(batch))? {
        return Ok(Admitted::Fenced);
    }
    for fence in &batch.fences {
        if !holds(connection, fence)? {
            return Ok(Admitted::ShardsMoved);
        }
    }
    if !advance(connection, batch, &plan)? {
        return Ok(Admitted::Fenced);
    }
    run_sqlite(connection, plan.settles(batch))?;
    insert_keys(connection, batch, &plan)?;
    insert_jobs(connection, batch, &plan)?;
    run_sqlite(connection, plan.rest(batch))?;
    Ok(Admitted::Done(plan.decisions))
}

/// Whether the shard still is ours at that epoch; nobody can change it before we commit.
pub(in crate::store) fn holds(connection: &Connection, fence: &ShardFence) -> Result<bool> {
    let mut read = connection
        .prepare_cached("select 1 from scheduler_shard where id = ? and owner = ? and epoch = ?")?;
    let found = read.query_row(params![fence.shard.0, fence.owner.0, fence.epoch.0], |_| Ok(()));
    Ok(found.optional()?.is_some())
}

fn advance(connection: &Connection, batch: &Batch, plan: &Plan) -> Result<bool> {
    let Some(advance) = batch.source.advance() else { return Ok(true) };
    let Totals { records, jobs, duplicates, dead, parked } = plan.totals(batch);
    let mut update = connection.prepare_cached(
        "update scheduler_ingest_offset set next_offset = ?, records = records + ?, jobs = jobs + ?, \
         duplicates = duplicates + ?, dead_letters = dead_letters + ?, parked = parked + ?, \
         last_time_ms = ?, last_hash = ? \
         where id = ? and reader = ? and next_offset = ?",
    )?;
    let moved = update.execute(params![
        advance.next,
        records,
        jobs,
        duplicates,
        dead,
        parked,
        advance.last.map(|last| last.time_ms),
        advance.last.map(|last| last.hash),
        advance.ledger.0,
        advance.reader.0,
        advance.expected,
    ])?;
    Ok(moved == 1)
}

fn insert_keys(connection: &Connection, batch: &Batch, plan: &Plan) -> Result<()> {
    for (key, expires_ms) in &plan.expired {
        let mut delete = connection.prepare_cached(
            "delete from scheduler_idempotency_key where id = ? and expires_ms = ?",
        )?;
        if delete.execute(params![key.into_bytes(), expires_ms])? != 1 {
            return Err(Error::Raced("an expired key was replaced".into()));
        }
    }
    let mut insert = connection.prepare_cached(
        "insert into scheduler_idempotency_key \
         (id, app, name, job, request_id, fingerprint, scheduled_ms, expires_ms) \
         values (?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for candidate in plan.keys(batch) {
        let Some(key) = &candidate.key else { continue };
        insert.execute(params![
            key.id.into_bytes(),
            candidate.app.id.0,
            key.name,
            candidate.job.id.into_bytes(),
            candidate.job.request_id,
            candidate.fingerprint.into_bytes(),
            candidate.job.scheduled_ms,
            key.expires_ms,
        ])?;
    }
    Ok(())
}

fn insert_jobs(connection: &Connection, batch: &Batch, plan: &Plan) -> Result<()> {
    let mut insert = connection.prepare_cached(&format!(
        "insert into scheduler_job ({COLUMNS}) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))?;
    for candidate in plan.jobs(batch) {
        let job = &candidate.job;
        let row = encode(job);
        insert.execute(params![
            row.id.into_bytes(),
            job.shard.0,
            job.priority.rank(),
            job.due_ms,
            job.request_id,
            job.scheduled_ms,
            job.expires_ms,
            job.created_ms,
            row.attempts,
            row.max_attempts,
            row.timeout_ms,
            job.data.as_str(),
            row.traceparent,
            row.tracestate,
            row.ledger,
            row.source_offset,
            row.source_time_ms,
            job.last_error,
            job.letter.map(|letter| letter.into_bytes()),
        ])?;
    }
    Ok(())
}
