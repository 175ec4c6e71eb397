//! Admission on SQLite: prepared inserts of single rows on the writer's thread, where statements with
//! several rows would not be faster.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::plan::names::NAME_CHANGED;
use super::plan::{Plan, Totals};
use super::{Admitted, Batch};
use crate::store::columns::jobs::Inserted;
use crate::store::columns::keys;
use crate::store::steps::run_sqlite;
use crate::store::{Error, Result, ShardFence};

pub(super) fn write(connection: &Connection, batch: &Batch, plan: &Plan) -> Result<Admitted> {
    if !run_sqlite(connection, plan.source_updates(batch))? {
        return Ok(Admitted::Fenced);
    }
    for fence in &batch.fences {
        if !holds(connection, fence)? {
            return Ok(Admitted::ShardsMoved);
        }
    }
    if !advance(connection, batch, plan)? {
        return Ok(Admitted::Fenced);
    }
    run_sqlite(connection, plan.total_updates(batch))?;
    if !run_sqlite(connection, plan.name_writes.before.clone())? {
        return Err(Error::Raced(NAME_CHANGED.into()));
    }
    insert_keys(connection, batch, plan)?;
    insert_jobs(connection, batch, plan)?;
    run_sqlite(connection, plan.name_writes.after.clone())?;
    run_sqlite(connection, plan.side_writes(batch))?;
    Ok(Admitted::Done(plan.decisions.clone()))
}

/// Whether the shard has this owner and epoch. No other transaction can change it before this one
/// commits.
pub(in crate::store) fn holds(connection: &Connection, fence: &ShardFence) -> Result<bool> {
    let mut read = connection
        .prepare_cached("select 1 from scheduler_shard where id = ? and owner = ? and epoch = ?")?;
    let found = read.query_row(params![fence.shard.0, fence.owner.0, fence.epoch.0], |_| Ok(()));
    Ok(found.optional()?.is_some())
}

fn advance(connection: &Connection, batch: &Batch, plan: &Plan) -> Result<bool> {
    let Some(advance) = batch.source.advance() else { return Ok(true) };
    let Totals { records, jobs, duplicates, operations, dead, parked } = plan.totals(batch);
    let mut update = connection.prepare_cached(
        "update scheduler_ingest_offset set next_offset = ?, records = records + ?, jobs = jobs + ?, \
         duplicates = duplicates + ?, operations = operations + ?, dead_letters = dead_letters + ?, parked = parked + ?, \
         last_time_ms = ?, last_hash = ? \
         where id = ? and reader = ? and next_offset = ?",
    )?;
    let moved = update.execute(params![
        advance.next.0,
        records,
        jobs,
        duplicates,
        operations,
        dead,
        parked,
        advance.last.map(|last| last.time_ms),
        advance.last.map(|last| last.hash),
        advance.ledger.0,
        advance.reader.0,
        advance.expected.0,
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
    let mut insert = prepare_insert(
        connection,
        "scheduler_idempotency_key",
        keys::COLUMNS,
        keys::POSTGRES_TYPES.len(),
    )?;
    for row in plan.keys(batch) {
        keys::execute_sqlite(&mut insert, row)?;
    }
    Ok(())
}

fn insert_jobs(connection: &Connection, batch: &Batch, plan: &Plan) -> Result<()> {
    let mut jobs = plan.jobs(batch);
    // In the order of the table, so that neighbours are written to the same page.
    jobs.sort_unstable_by_key(|job| (job.shard, job.priority.rank(), job.key()));
    let inserted = Inserted::of(&jobs);
    let mut insert =
        prepare_insert(connection, "scheduler_job", inserted.columns, inserted.width())?;
    for job in jobs {
        (inserted.execute_sqlite)(&mut insert, job)?;
    }
    Ok(())
}

fn prepare_insert<'c>(
    connection: &'c Connection,
    table: &str,
    columns: &str,
    width: usize,
) -> Result<CachedStatement<'c>> {
    let values = vec!["?"; width].join(", ");
    Ok(connection.prepare_cached(&format!("insert into {table} ({columns}) values ({values})"))?)
}
