//! Admission on MariaDB and MySQL: shards and offset in one packet, then rows in
//! prepared statements of a few fixed sizes.

use futures::TryStreamExt;
use sqlx::mysql::{MySql, MySqlArguments, MySqlPool};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Either, MySqlTransaction, Row};
use uuid::Uuid;

use super::plan::{Plan, Totals};
use super::{Admitted, Batch, PlacedCandidate};
use crate::store::rows::{COLUMNS, WIDTH, encode};
use crate::store::steps::run_mysql;
use crate::store::{Error, Result, ShardFence};

type Statement<'q> = Query<'q, MySql, MySqlArguments>;

/// Rows per statement. Few sizes, so that all of them stay prepared.
const SIZES: [usize; 4] = [500, 100, 10, 1];

pub(super) async fn write(pool: &MySqlPool, batch: &Batch, plan: Plan) -> Result<Admitted> {
    let mut transaction = pool.begin().await?;
    if !run_mysql(&mut transaction, plan.takes(batch)).await? {
        return Ok(Admitted::Fenced);
    }
    let (locked, moved) = lock_and_move(&mut transaction, batch, &plan).await?;
    if locked.len() != batch.fences.len() {
        return Ok(Admitted::ShardsMoved);
    }
    if batch.source.advance().is_some() && !moved {
        return Ok(Admitted::Fenced);
    }
    run_mysql(&mut transaction, plan.settles(batch)).await?;
    insert(&mut transaction, batch, &plan).await?;
    run_mysql(&mut transaction, plan.rest(batch)).await?;
    transaction.commit().await?;
    Ok(Admitted::Done(plan.decisions))
}

/// Inserts jobs and keys, and takes them back.
pub(super) async fn insert_in_vain(pool: &MySqlPool, batch: &Batch, plan: &Plan) -> Result<()> {
    let mut transaction = pool.begin().await?;
    insert(&mut transaction, batch, plan).await?;
    Ok(transaction.rollback().await?)
}

/// One point read for each shard: a range or a list would lock more rows than it names.
pub(in crate::store) fn fence_reads(fences: &[ShardFence]) -> String {
    fences.iter().fold(String::new(), |sql, fence| {
        let ShardFence { shard, owner, epoch } = fence;
        sql + &format!(
            "select id from scheduler_shard where id = {shard} and owner = {owner} and epoch = {epoch} \
             lock in share mode;"
        )
    })
}

/// Runs a text of several statements; gives back the ids that it read, and whether its
/// last statement changed a row.
pub(in crate::store) async fn run(
    transaction: &mut MySqlTransaction<'_>,
    sql: String,
) -> Result<(Vec<i32>, bool)> {
    let mut ids = Vec::new();
    let mut changed = false;
    let mut results = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(&mut **transaction);
    while let Some(result) = results.try_next().await? {
        match result {
            Either::Left(done) => changed = done.rows_affected() > 0,
            Either::Right(row) => ids.push(row.try_get(0)?),
        }
    }
    Ok((ids, changed))
}

async fn lock_and_move(
    transaction: &mut MySqlTransaction<'_>,
    batch: &Batch,
    plan: &Plan,
) -> Result<(Vec<i32>, bool)> {
    let mut sql = fence_reads(&batch.fences);
    if let Some(advance) = batch.source.advance() {
        let Totals { records, jobs, duplicates, dead, parked } = plan.totals(batch);
        let null = |value: Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
        sql += &format!(
            "update scheduler_ingest_offset set next_offset = {}, records = records + {records}, \
             jobs = jobs + {jobs}, duplicates = duplicates + {duplicates}, \
             dead_letters = dead_letters + {dead}, parked = parked + {parked}, last_time_ms = {}, last_hash = {} \
             where id = {} and reader = {} and next_offset = {}",
            advance.next,
            null(advance.last.map(|last| last.time_ms)),
            null(advance.last.map(|last| last.hash)),
            advance.ledger,
            advance.reader,
            advance.expected
        );
    }
    if sql.is_empty() {
        return Ok((Vec::new(), false));
    }
    run(transaction, sql).await
}

async fn insert(transaction: &mut MySqlTransaction<'_>, batch: &Batch, plan: &Plan) -> Result<()> {
    for (key, expires_ms) in &plan.expired {
        let delete = "delete from scheduler_idempotency_key where id = ? and expires_ms = ?";
        let gone = sqlx::query(delete).bind(Uuid::from_bytes(key.into_bytes())).bind(expires_ms);
        if gone.execute(&mut **transaction).await?.rows_affected() != 1 {
            return Err(Error::Raced("an expired key was replaced".into()));
        }
    }
    // In the order in which the tables keep them.
    let mut keyed: Vec<_> = plan.keys(batch).collect();
    keyed.sort_by_key(|candidate| candidate.key.as_ref().map(|key| key.expires_ms));
    let into = "insert into scheduler_idempotency_key \
                (id, app, name, job, request_id, fingerprint, scheduled_ms, expires_ms) values ";
    insert_rows(transaction, into, 8, &keyed, bind_key).await?;
    let mut jobs: Vec<_> = plan.jobs(batch).collect();
    jobs.sort_by_key(|PlacedCandidate { job, .. }| (job.shard, job.priority.rank(), job.key()));
    let into = format!("insert into scheduler_job ({COLUMNS}) values ");
    insert_rows(transaction, &into, WIDTH, &jobs, bind_job).await
}

async fn insert_rows<'b>(
    transaction: &mut MySqlTransaction<'_>,
    into: &str,
    width: usize,
    rows: &[&'b PlacedCandidate],
    bind: fn(Statement<'b>, &'b PlacedCandidate) -> Statement<'b>,
) -> Result<()> {
    let mut rest = rows;
    for size in SIZES {
        let sql = format!("{into}{}", values(size, width));
        while rest.len() >= size {
            let (some, others) = rest.split_at(size);
            rest = others;
            let query = sqlx::query(AssertSqlSafe(sql.clone()));
            let query = some.iter().fold(query, |query, row| bind(query, row));
            query.execute(&mut **transaction).await?;
        }
    }
    Ok(())
}

/// `(?, ?), (?, ?)`.
fn values(rows: usize, width: usize) -> String {
    let row = format!("({})", vec!["?"; width].join(","));
    vec![row; rows].join(",")
}

fn bind_key<'q>(query: Statement<'q>, candidate: &'q PlacedCandidate) -> Statement<'q> {
    let Some(key) = &candidate.key else { return query };
    query
        .bind(Uuid::from_bytes(key.id.into_bytes()))
        .bind(candidate.app.id.0)
        .bind(&key.name)
        .bind(candidate.job.id.uuid())
        .bind(&candidate.job.request_id)
        .bind(Uuid::from_bytes(candidate.fingerprint.into_bytes()))
        .bind(candidate.job.scheduled_ms)
        .bind(key.expires_ms)
}

fn bind_job<'q>(query: Statement<'q>, candidate: &'q PlacedCandidate) -> Statement<'q> {
    let job = &candidate.job;
    let row = encode(job);
    query
        .bind(row.id)
        .bind(job.shard.0)
        .bind(job.priority.rank())
        .bind(job.due_ms)
        .bind(&job.request_id)
        .bind(job.scheduled_ms)
        .bind(job.expires_ms)
        .bind(job.created_ms)
        .bind(row.attempts)
        .bind(row.max_attempts)
        .bind(row.timeout_ms)
        .bind(job.data.as_str())
        .bind(row.traceparent)
        .bind(row.tracestate)
        .bind(row.ledger)
        .bind(row.source_offset)
        .bind(row.source_time_ms)
        .bind(&job.last_error)
        .bind(job.letter)
}
