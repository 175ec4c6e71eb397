//! Admission on PostgreSQL: one statement with arrays, where that is possible.

use sqlx::postgres::{PgArguments, PgPool, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgTransaction, Row};
use uuid::Uuid;

use super::plan::names::NAME_CHANGED;
use super::plan::{Plan, Totals};
use super::{Admitted, Advance, Batch};
use crate::store::columns::jobs::Inserted;
use crate::store::columns::keys;
use crate::store::steps::run_postgres;
use crate::store::{Error, OrderingKey, Result, ShardFence};

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// The first placeholder of each part of the statement: after the three arrays of the fences come
/// the values of the offset, the number of fences, keys, jobs, and, behind as many as these have,
/// verdicts.
const ADVANCE: usize = 4;
const FENCES: usize = ADVANCE + ADVANCE_WIDTH;
const KEYS: usize = FENCES + 1;
const JOBS: usize = KEYS + keys::POSTGRES_TYPES.len();

/// Admits a plain batch in one statement: locks the shards, advances the offset if it is as
/// expected, and if so inserts keys, jobs and verdicts. That is one round trip and one commit, and
/// there is nothing to roll back.
pub(super) async fn write_plain(pool: &PgPool, batch: &Batch, plan: Plan) -> Result<Admitted> {
    let Some(advance) = batch.source.advance() else { return write(pool, batch, plan).await };
    if plan.candidates(batch).any(|candidate| candidate.foreign) {
        return write(pool, batch, plan).await;
    }
    let admitted = plan.jobs(batch);
    let inserted = Inserted::of(&admitted);
    let verdicts = plan.verdicts(batch);
    let verdict_insert = match verdicts.is_empty() {
        true => String::new(),
        false => format!(
            ", verdicts as (insert into scheduler_outbox (ordering_key, letter, verdicts) select ordering_key, '{}', packed \
             from {} as v(ordering_key, packed) where exists (select 1 from moved))",
            Uuid::nil(),
            unnest(JOBS + inserted.width(), &["bigint", "text"]),
        ),
    };
    let sql = format!(
        "with fence as ({}), \
         moved as ({} and (select count(*) from fence) = ${FENCES} returning id), \
         keyed as (insert into scheduler_idempotency_key ({}) \
            select * from {} as k where exists (select 1 from moved)), \
         jobs as (insert into scheduler_job ({}) \
            select * from {} as j where exists (select 1 from moved)){verdict_insert} \
         select (select count(*) from fence), (select count(*) from moved)",
        fences_from(1),
        advance_from(ADVANCE),
        keys::COLUMNS,
        unnest(KEYS, keys::POSTGRES_TYPES),
        inserted.columns,
        unnest(JOBS, inserted.postgres_types),
    );
    let query = bind_fences(sqlx::query(AssertSqlSafe(sql)), &batch.fences);
    let query = bind_advance(query, advance, plan.totals(batch)).bind(count(batch.fences.len()));
    let query = keys::bind_postgres(query, &plan.keys(batch));
    let query = (inserted.bind_postgres)(query, &admitted);
    let query = if verdicts.is_empty() { query } else { bind_verdicts(query, verdicts) };
    let row = query.fetch_one(pool).await?;
    let (fenced, moved): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match (fenced == count(batch.fences.len()), moved) {
        (false, _) => Admitted::ShardsMoved,
        (true, 1) => Admitted::Done(plan.decisions),
        (true, _) => Admitted::Fenced,
    })
}

/// Admits any batch, by one statement after another.
pub(super) async fn write(pool: &PgPool, batch: &Batch, plan: Plan) -> Result<Admitted> {
    let mut transaction = pool.begin().await?;
    if !run_postgres(&mut transaction, plan.source_updates(batch)).await? {
        return Ok(Admitted::Fenced);
    }
    if !lock_fences(&mut transaction, &batch.fences).await? {
        return Ok(Admitted::ShardsMoved);
    }
    if let Some(advance) = batch.source.advance() {
        let moved = sqlx::query(AssertSqlSafe(advance_from(1)));
        let moved = bind_advance(moved, advance, plan.totals(batch));
        if moved.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Ok(Admitted::Fenced);
        }
    }
    run_postgres(&mut transaction, plan.total_updates(batch)).await?;
    if !run_postgres(&mut transaction, plan.name_writes.before.clone()).await? {
        return Err(Error::Raced(NAME_CHANGED.into()));
    }
    insert(&mut transaction, batch, &plan).await?;
    run_postgres(&mut transaction, plan.name_writes.after.clone()).await?;
    run_postgres(&mut transaction, plan.side_writes(batch)).await?;
    transaction.commit().await?;
    Ok(Admitted::Done(plan.decisions))
}

/// Inserts jobs and keys, and rolls back.
pub(super) async fn insert_and_roll_back(pool: &PgPool, batch: &Batch, plan: &Plan) -> Result<()> {
    let mut transaction = pool.begin().await?;
    insert(&mut transaction, batch, plan).await?;
    Ok(transaction.rollback().await?)
}

/// Takes shared locks on the shards, ascending. Returns false if one of them has another owner or
/// epoch.
pub(in crate::store) async fn lock_fences(
    transaction: &mut PgTransaction<'_>,
    fences: &[ShardFence],
) -> Result<bool> {
    Ok(locked_fences(transaction, fences).await?.len() == fences.len())
}

/// Takes shared locks on the shards that have the expected owner and epoch, until the transaction
/// ends, and returns their ids.
pub(in crate::store) async fn locked_fences(
    transaction: &mut PgTransaction<'_>,
    fences: &[ShardFence],
) -> Result<Vec<i32>> {
    if fences.is_empty() {
        return Ok(Vec::new());
    }
    let rows = bind_fences(sqlx::query(AssertSqlSafe(fences_from(1))), fences)
        .fetch_all(&mut **transaction)
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn insert(transaction: &mut PgTransaction<'_>, batch: &Batch, plan: &Plan) -> Result<()> {
    for (key, expires_ms) in &plan.expired {
        let delete = "delete from scheduler_idempotency_key where id = $1 and expires_ms = $2";
        let gone = sqlx::query(delete).bind(Uuid::from_bytes(key.into_bytes())).bind(expires_ms);
        if gone.execute(&mut **transaction).await?.rows_affected() != 1 {
            return Err(Error::Raced("an expired key was replaced".into()));
        }
    }
    let keyed = plan.keys(batch);
    if !keyed.is_empty() {
        let insert = insert_into("scheduler_idempotency_key", keys::COLUMNS, keys::POSTGRES_TYPES);
        let query = keys::bind_postgres(sqlx::query(AssertSqlSafe(insert)), &keyed);
        query.execute(&mut **transaction).await?;
    }
    let admitted = plan.jobs(batch);
    if !admitted.is_empty() {
        let inserted = Inserted::of(&admitted);
        let insert = insert_into("scheduler_job", inserted.columns, inserted.postgres_types);
        let query = (inserted.bind_postgres)(sqlx::query(AssertSqlSafe(insert)), &admitted);
        query.execute(&mut **transaction).await?;
    }
    Ok(())
}

fn insert_into(table: &str, columns: &str, types: &[&str]) -> String {
    format!("insert into {table} ({columns}) select * from {} as r", unnest(1, types))
}

/// The number of values of the update of the offset.
const ADVANCE_WIDTH: usize = 12;

/// The update of the offset, whose placeholders are numbered from `first`.
fn advance_from(first: usize) -> String {
    let [
        next,
        records,
        jobs,
        duplicates,
        operations,
        dead,
        parked,
        time,
        hash,
        id,
        reader,
        expected,
    ]: [usize; ADVANCE_WIDTH] = std::array::from_fn(|place| first + place);
    format!(
        "update scheduler_ingest_offset set next_offset = ${next}, records = records + ${records}, \
         jobs = jobs + ${jobs}, duplicates = duplicates + ${duplicates}, operations = operations + ${operations}, \
         dead_letters = dead_letters + ${dead}, parked = parked + ${parked}, \
         last_time_ms = ${time}, last_hash = ${hash} \
         where id = ${id} and reader = ${reader} and next_offset = ${expected}"
    )
}

/// `unnest($first::type[], ...)`.
pub(in crate::store) fn unnest(first: usize, types: &[&str]) -> String {
    let arrays: Vec<String> =
        types.iter().enumerate().map(|(i, name)| format!("${}::{name}[]", first + i)).collect();
    format!("unnest({})", arrays.join(", "))
}

/// The query that locks the shards with the expected owner and epoch, whose arrays are numbered from
/// `first`. Rows are found by id; owner and epoch are compared separately, so that the planner
/// cannot choose a join, whatever the statistics are.
pub(in crate::store) fn fences_from(first: usize) -> String {
    let [ids, owners, epochs] = [first, first + 1, first + 2];
    format!(
        "select id from scheduler_shard where id = any(${ids}::integer[]) \
         and ((id, owner, epoch) in (select * from unnest(${ids}::integer[], \
         ${owners}::bigint[], ${epochs}::bigint[]))) is true order by id for share"
    )
}

pub(in crate::store) fn bind_fences<'q>(
    query: Statement<'q>,
    fences: &[ShardFence],
) -> Statement<'q> {
    query
        .bind(fences.iter().map(|fence| fence.shard.0).collect::<Vec<_>>())
        .bind(fences.iter().map(|fence| fence.owner.0).collect::<Vec<_>>())
        .bind(fences.iter().map(|fence| fence.epoch.0).collect::<Vec<_>>())
}

fn bind_advance<'q>(query: Statement<'q>, advance: &Advance, totals: Totals) -> Statement<'q> {
    query
        .bind(advance.next.0)
        .bind(totals.records)
        .bind(totals.jobs)
        .bind(totals.duplicates)
        .bind(totals.operations)
        .bind(totals.dead)
        .bind(totals.parked)
        .bind(advance.last.map(|last| last.time_ms))
        .bind(advance.last.map(|last| last.hash))
        .bind(advance.ledger.0)
        .bind(advance.reader.0)
        .bind(advance.expected.0)
}

fn bind_verdicts(query: Statement<'_>, verdicts: Vec<(OrderingKey, String)>) -> Statement<'_> {
    let verdicts = verdicts.into_iter().map(|(key, packed)| (key.number(), packed));
    let (keys, packed): (Vec<i64>, Vec<String>) = verdicts.unzip();
    query.bind(keys).bind(packed)
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
