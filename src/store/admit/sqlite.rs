//! Admission on SQLite: prepared single rows on the writer's thread, which is as quick
//! there as anything larger.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Admitted, Batch, Plan};
use crate::store::commands::{self, LOOK};
use crate::store::rows::{COLUMNS, encode};
use crate::store::{Error, Result, ShardFence};

pub(super) fn write(connection: &Connection, batch: &Batch, plan: Plan) -> Result<Admitted> {
    for fence in &batch.fences {
        if !holds(connection, fence)? {
            return Ok(Admitted::ShardsMoved);
        }
    }
    if !advance(connection, batch, &plan)? {
        return Ok(Admitted::Fenced);
    }
    insert_keys(connection, batch, &plan)?;
    insert_jobs(connection, batch, &plan)?;
    for letter in &plan.letters {
        insert_letter(connection, letter, Plan::lane(batch))?;
    }
    for (shard, jobs) in batch.looks(&plan) {
        let mut insert = connection.prepare_cached(
            "insert into command (shard, kind, args, state, created_ms) values (?, ?, ?, 0, ?)",
        )?;
        insert.execute(params![shard.0, LOOK, commands::encode_ids(&jobs), batch.now_ms])?;
    }
    Ok(Admitted::Done(plan.fates))
}

/// Whether the shard still is ours at that epoch; nobody can change it before we commit.
pub(in crate::store) fn holds(connection: &Connection, fence: &ShardFence) -> Result<bool> {
    let mut read = connection
        .prepare_cached("select 1 from shard where id = ? and owner = ? and epoch = ?")?;
    let found = read.query_row(params![fence.shard.0, fence.owner.0, fence.epoch.0], |_| Ok(()));
    Ok(found.optional()?.is_some())
}

fn advance(connection: &Connection, batch: &Batch, plan: &Plan) -> Result<bool> {
    let Some(advance) = &batch.advance else { return Ok(true) };
    let [jobs, duplicates, dead] = plan.totals();
    let mut update = connection.prepare_cached(
        "update ingest_offset set next_offset = ?, jobs = jobs + ?, duplicates = duplicates + ?, \
         dead_letters = dead_letters + ?, last_time_ms = ?, last_hash = ? \
         where id = ? and reader = ? and next_offset = ?",
    )?;
    let moved = update.execute(params![
        advance.next,
        jobs,
        duplicates,
        dead,
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
        let mut delete = connection
            .prepare_cached("delete from idempotency_key where id = ? and expires_ms = ?")?;
        if delete.execute(params![key.into_bytes(), expires_ms])? != 1 {
            return Err(Error::Raced("an expired key was replaced".into()));
        }
    }
    let mut insert = connection.prepare_cached(
        "insert into idempotency_key \
         (id, app, name, job, request_id, fingerprint, scheduled_ms, expires_ms) \
         values (?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for candidate in plan.keys(batch) {
        let Some(key) = &candidate.key else { continue };
        insert.execute(params![
            key.id.into_bytes(),
            candidate.app.0,
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
        "insert into job ({COLUMNS}) \
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

/// Writes a letter and its outbox row; a letter that is there already stays as it is, and is
/// not published again: its outcome is written twice when an answer was lost.
pub(in crate::store) fn insert_letter(
    connection: &Connection,
    letter: &infinite_scheduler_entity::dead_letter::Model,
    lane: Option<i64>,
) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "insert or ignore into dead_letter (id, kind, message, app, request_id, job, topic, \
         number, source_offset, source_time_ms, record_key, record_value, headers, attempts, \
         created_ms) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    let written = insert.execute(params![
        letter.id.into_bytes(),
        letter.kind,
        letter.message,
        letter.app,
        letter.request_id,
        letter.job.map(|job| job.into_bytes()),
        letter.topic,
        letter.number,
        letter.source_offset,
        letter.source_time_ms,
        letter.record_key,
        letter.record_value,
        letter.headers,
        letter.attempts,
        letter.created_ms,
    ])?;
    if written == 0 {
        return Ok(());
    }
    let mut outbox =
        connection.prepare_cached("insert into outbox (lane, letter) values (?, ?)")?;
    outbox.execute(params![lane.unwrap_or(0), letter.id.into_bytes()])?;
    Ok(())
}
