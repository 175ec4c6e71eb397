//! Admission on MariaDB and MySQL: locks the shards and advances the offset in one round trip, then
//! inserts rows by prepared statements of a few fixed sizes.

use futures::TryStreamExt;
use sqlx::mysql::{MySql, MySqlArguments, MySqlPool};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Either, MySqlTransaction, Row};
use uuid::Uuid;

use super::plan::names::NAME_CHANGED;
use super::plan::{Plan, Totals};
use super::{Admitted, Batch};
use crate::store::columns::jobs::Inserted;
use crate::store::columns::keys;
use crate::store::steps::run_mysql;
use crate::store::{Error, Result, ShardFence};

type Statement<'q> = Query<'q, MySql, MySqlArguments>;

/// The numbers of rows per statement. There are few, so that all of them stay prepared.
const SIZES: [usize; 4] = [500, 100, 10, 1];

pub(super) async fn write(pool: &MySqlPool, batch: &Batch, plan: Plan) -> Result<Admitted> {
    let mut transaction = pool.begin().await?;
    if !run_mysql(&mut transaction, plan.source_updates(batch)).await? {
        return Ok(Admitted::Fenced);
    }
    let (locked, advanced) = lock_and_advance(&mut transaction, batch, &plan).await?;
    if locked.len() != batch.fences.len() {
        return Ok(Admitted::ShardsMoved);
    }
    if batch.source.advance().is_some() && !advanced {
        return Ok(Admitted::Fenced);
    }
    run_mysql(&mut transaction, plan.total_updates(batch)).await?;
    if !run_mysql(&mut transaction, plan.name_writes.before.clone()).await? {
        return Err(Error::Raced(NAME_CHANGED.into()));
    }
    insert(&mut transaction, batch, &plan).await?;
    run_mysql(&mut transaction, plan.name_writes.after.clone()).await?;
    run_mysql(&mut transaction, plan.side_writes(batch)).await?;
    transaction.commit().await?;
    Ok(Admitted::Done(plan.decisions))
}

/// Inserts jobs and keys, and rolls back.
pub(super) async fn insert_and_roll_back(
    pool: &MySqlPool,
    batch: &Batch,
    plan: &Plan,
) -> Result<()> {
    let mut transaction = pool.begin().await?;
    insert(&mut transaction, batch, plan).await?;
    Ok(transaction.rollback().await?)
}

/// One point query for each shard: a range or list would lock more rows than it contains.
pub(in crate::store) fn fence_reads(fences: &[ShardFence]) -> String {
    fences.iter().fold(String::new(), |sql, fence| {
        let ShardFence { shard, owner, epoch } = fence;
        sql + &format!(
            "select id from scheduler_shard where id = {shard} and owner = {owner} and epoch = {epoch} \
             lock in share mode;"
        )
    })
}

/// Executes a text of several statements. Returns the ids that it read, and whether the last
/// statement changed a row.
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

async fn lock_and_advance(
    transaction: &mut MySqlTransaction<'_>,
    batch: &Batch,
    plan: &Plan,
) -> Result<(Vec<i32>, bool)> {
    let mut sql = fence_reads(&batch.fences);
    if let Some(advance) = batch.source.advance() {
        let Totals { records, jobs, duplicates, operations, dead, parked } = plan.totals(batch);
        let null = |value: Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
        sql += &format!(
            "update scheduler_ingest_offset set next_offset = {}, records = records + {records}, \
             jobs = jobs + {jobs}, duplicates = duplicates + {duplicates}, operations = operations + {operations}, \
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
    // In the order of the primary keys, by which the tables are clustered.
    let mut keyed = plan.keys(batch);
    keyed.sort_unstable_by_key(|row| (row.key.expires_ms, row.key.id.into_bytes()));
    let into = format!("insert into scheduler_idempotency_key ({}) values ", keys::COLUMNS);
    insert_rows(transaction, &into, keys::POSTGRES_TYPES.len(), "", &keyed, keys::bind_mysql)
        .await?;
    let mut admitted = plan.jobs(batch);
    admitted.sort_unstable_by_key(|job| (job.shard, job.priority.rank(), job.key()));
    let inserted = Inserted::of(&admitted);
    let into = format!("insert into scheduler_job ({}) values ", inserted.columns);
    insert_rows(transaction, &into, inserted.width(), "", &admitted, inserted.bind_mysql).await
}

/// Inserts rows by statements that begin with `into` and end with `end`.
pub(in crate::store) async fn insert_rows<'b, R: Copy>(
    transaction: &mut MySqlTransaction<'_>,
    into: &str,
    width: usize,
    end: &str,
    rows: &[R],
    bind: fn(Statement<'b>, R) -> Statement<'b>,
) -> Result<()> {
    let mut rest = rows;
    for size in SIZES {
        let sql = format!("{into}{}{end}", values(size, width));
        while rest.len() >= size {
            let (some, others) = rest.split_at(size);
            rest = others;
            let query = sqlx::query(AssertSqlSafe(sql.clone()));
            let query = some.iter().copied().fold(query, bind);
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
