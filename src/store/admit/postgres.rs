//! Admission on PostgreSQL: arrays in one statement where that is possible.

use sqlx::postgres::{PgArguments, PgPool, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgTransaction, Row};
use uuid::Uuid;

use super::{Admitted, Advance, Batch, Candidate, Plan};
use crate::store::commands::{self, LOOK};
use crate::store::rows::{COLUMNS, encode};
use crate::store::{Error, Result, ShardFence};

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Everything in one statement: lock the shards, move the offset if it is where we think,
/// insert keys and jobs if it moved. One trip, one commit, and nothing to roll back.
pub(super) async fn write_plain(pool: &PgPool, batch: &Batch, plan: Plan) -> Result<Admitted> {
    let Some(advance) = &batch.advance else { return write(pool, batch, plan).await };
    if plan.jobs(batch).any(|candidate| candidate.foreign) {
        return write(pool, batch, plan).await;
    }
    let sql = format!(
        "with fence as (select id from shard where (id, owner, epoch) in \
            (select * from unnest($1::integer[], $2::bigint[], $3::bigint[])) order by id for share), \
         moved as (update ingest_offset set next_offset = $4, jobs = jobs + $5, \
            duplicates = duplicates + $6, dead_letters = dead_letters + $7, \
            last_time_ms = $8, last_hash = $9 \
            where id = $10 and reader = $11 and next_offset = $12 \
            and (select count(*) from fence) = $13 returning id), \
         keyed as (insert into idempotency_key ({KEY_COLUMNS}) \
            select * from {} as k where exists (select 1 from moved)), \
         jobs as (insert into job ({COLUMNS}) \
            select * from {} as j where exists (select 1 from moved)) \
         select (select count(*) from fence), (select count(*) from moved)",
        unnest(14, &KEY_TYPES),
        unnest(14 + KEY_TYPES.len(), &JOB_TYPES),
    );
    let query = bind_fences(sqlx::query(AssertSqlSafe(sql)), &batch.fences);
    let query = bind_advance(query, advance, plan.totals()).bind(count(batch.fences.len()));
    let query = bind_keys(query, plan.keys(batch));
    let row = bind_jobs(query, plan.jobs(batch)).fetch_one(pool).await?;
    let (fenced, moved): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match (fenced == count(batch.fences.len()), moved) {
        (false, _) => Admitted::ShardsMoved,
        (true, 1) => Admitted::Done(plan.fates),
        (true, _) => Admitted::Fenced,
    })
}

/// The same steps one after another, with whatever else a batch may bring.
pub(super) async fn write(pool: &PgPool, batch: &Batch, plan: Plan) -> Result<Admitted> {
    let mut transaction = pool.begin().await?;
    if !lock_fences(&mut transaction, &batch.fences).await? {
        return Ok(Admitted::ShardsMoved);
    }
    if let Some(advance) = &batch.advance {
        let update = "update ingest_offset set next_offset = $1, jobs = jobs + $2, \
            duplicates = duplicates + $3, dead_letters = dead_letters + $4, \
            last_time_ms = $5, last_hash = $6 where id = $7 and reader = $8 and next_offset = $9";
        let moved = bind_advance(sqlx::query(update), advance, plan.totals());
        if moved.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Ok(Admitted::Fenced);
        }
    }
    insert(&mut transaction, batch, &plan).await?;
    transaction.commit().await?;
    Ok(Admitted::Done(plan.fates))
}

/// Locks our shards for sharing, ascending. False if one of them is not ours any more.
pub(in crate::store) async fn lock_fences(
    transaction: &mut PgTransaction<'_>,
    fences: &[ShardFence],
) -> Result<bool> {
    Ok(locked_fences(transaction, fences).await?.len() == fences.len())
}

/// Those of our shards that still are ours, locked for sharing until the transaction ends.
pub(in crate::store) async fn locked_fences(
    transaction: &mut PgTransaction<'_>,
    fences: &[ShardFence],
) -> Result<Vec<i32>> {
    if fences.is_empty() {
        return Ok(Vec::new());
    }
    let lock = "select id from shard where (id, owner, epoch) in \
        (select * from unnest($1::integer[], $2::bigint[], $3::bigint[])) order by id for share";
    let rows = bind_fences(sqlx::query(lock), fences).fetch_all(&mut **transaction).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn insert(transaction: &mut PgTransaction<'_>, batch: &Batch, plan: &Plan) -> Result<()> {
    for (key, expires_ms) in &plan.expired {
        let delete = "delete from idempotency_key where id = $1 and expires_ms = $2";
        let gone = sqlx::query(delete).bind(Uuid::from_bytes(key.into_bytes())).bind(expires_ms);
        if gone.execute(&mut **transaction).await?.rows_affected() != 1 {
            return Err(Error::Raced("an expired key was replaced".into()));
        }
    }
    if plan.keys(batch).next().is_some() {
        let unnested = unnest(1, &KEY_TYPES);
        let sql =
            format!("insert into idempotency_key ({KEY_COLUMNS}) select * from {unnested} as k");
        let query = bind_keys(sqlx::query(AssertSqlSafe(sql)), plan.keys(batch));
        query.execute(&mut **transaction).await?;
    }
    if plan.jobs(batch).next().is_some() {
        let unnested = unnest(1, &JOB_TYPES);
        let sql = format!("insert into job ({COLUMNS}) select * from {unnested} as j");
        let query = bind_jobs(sqlx::query(AssertSqlSafe(sql)), plan.jobs(batch));
        query.execute(&mut **transaction).await?;
    }
    for letter in &plan.letters {
        insert_letter(transaction, letter, Plan::lane(batch)).await?;
    }
    for (shard, jobs) in batch.looks(plan) {
        let command = "insert into command (shard, kind, args, state, created_ms) \
                       values ($1, $2, $3, 0, $4)";
        let look = sqlx::query(command).bind(shard.0).bind(LOOK);
        let look = look.bind(commands::encode_ids(&jobs)).bind(batch.now_ms);
        look.execute(&mut **transaction).await?;
    }
    Ok(())
}

/// Writes a letter and its outbox row; a letter that is there already stays as it is, and is
/// not published again: its outcome or batch is written twice when an answer was lost.
pub(in crate::store) async fn insert_letter(
    transaction: &mut PgTransaction<'_>,
    letter: &infinite_scheduler_entity::dead_letter::Model,
    lane: Option<i64>,
) -> Result<()> {
    let insert = "insert into dead_letter (id, kind, message, app, request_id, job, topic, number, \
        source_offset, source_time_ms, record_key, record_value, headers, attempts, created_ms) \
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
        on conflict (id) do nothing";
    let written = sqlx::query(insert)
        .bind(letter.id)
        .bind(&letter.kind)
        .bind(&letter.message)
        .bind(&letter.app)
        .bind(&letter.request_id)
        .bind(letter.job)
        .bind(&letter.topic)
        .bind(letter.number)
        .bind(letter.source_offset)
        .bind(letter.source_time_ms)
        .bind(&letter.record_key)
        .bind(&letter.record_value)
        .bind(&letter.headers)
        .bind(letter.attempts)
        .bind(letter.created_ms)
        .execute(&mut **transaction)
        .await?;
    if written.rows_affected() == 0 {
        return Ok(());
    }
    let outbox = "insert into outbox (lane, letter) values ($1, $2)";
    sqlx::query(outbox).bind(lane.unwrap_or(0)).bind(letter.id).execute(&mut **transaction).await?;
    Ok(())
}

const KEY_COLUMNS: &str = "id, app, name, job, request_id, fingerprint, scheduled_ms, expires_ms";
const KEY_TYPES: [&str; 8] =
    ["uuid", "integer", "text", "uuid", "text", "uuid", "bigint", "bigint"];
const JOB_TYPES: [&str; crate::store::rows::WIDTH] = [
    "uuid", "integer", "smallint", "bigint", "text", "bigint", "bigint", "bigint", "integer",
    "integer", "bigint", "text", "text", "text", "integer", "bigint", "bigint", "text", "uuid",
];

/// `unnest($first::type[], ...)`.
fn unnest(first: usize, types: &[&str]) -> String {
    let arrays: Vec<String> =
        types.iter().enumerate().map(|(i, name)| format!("${}::{name}[]", first + i)).collect();
    format!("unnest({})", arrays.join(", "))
}

fn bind_fences<'q>(query: Statement<'q>, fences: &[ShardFence]) -> Statement<'q> {
    query
        .bind(fences.iter().map(|fence| fence.shard.0).collect::<Vec<_>>())
        .bind(fences.iter().map(|fence| fence.owner.0).collect::<Vec<_>>())
        .bind(fences.iter().map(|fence| fence.epoch.0).collect::<Vec<_>>())
}

fn bind_advance<'q>(query: Statement<'q>, advance: &Advance, totals: [i64; 3]) -> Statement<'q> {
    let [jobs, duplicates, dead] = totals;
    query
        .bind(advance.next)
        .bind(jobs)
        .bind(duplicates)
        .bind(dead)
        .bind(advance.last.map(|last| last.time_ms))
        .bind(advance.last.map(|last| last.hash))
        .bind(advance.ledger.0)
        .bind(advance.reader.0)
        .bind(advance.expected)
}

fn bind_keys<'q, 'b>(
    query: Statement<'q>,
    keyed: impl Iterator<Item = &'b Candidate>,
) -> Statement<'q> {
    let keyed: Vec<_> = keyed.filter_map(|c| Some((c, c.key.as_ref()?))).collect();
    let uuid = Uuid::from_bytes;
    query
        .bind(keyed.iter().map(|(_, key)| uuid(key.id.into_bytes())).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(c, _)| c.app.0).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(_, key)| key.name.clone()).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(c, _)| c.job.id.uuid()).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(c, _)| c.job.request_id.clone()).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(c, _)| uuid(c.fingerprint.into_bytes())).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(c, _)| c.job.scheduled_ms).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(_, key)| key.expires_ms).collect::<Vec<_>>())
}

fn bind_jobs<'q, 'b>(
    query: Statement<'q>,
    candidates: impl Iterator<Item = &'b Candidate>,
) -> Statement<'q> {
    let jobs: Vec<_> = candidates.map(|c| (&c.job, encode(&c.job))).collect();
    macro_rules! column {
        (|$job:ident, $row:ident| $value:expr) => {
            jobs.iter().map(|($job, $row)| $value).collect::<Vec<_>>()
        };
    }
    query
        .bind(column!(|_job, row| row.id))
        .bind(column!(|job, _row| job.shard.0))
        .bind(column!(|job, _row| job.priority.rank()))
        .bind(column!(|job, _row| job.due_ms))
        .bind(column!(|job, _row| job.request_id.clone()))
        .bind(column!(|job, _row| job.scheduled_ms))
        .bind(column!(|job, _row| job.expires_ms))
        .bind(column!(|job, _row| job.created_ms))
        .bind(column!(|_job, row| row.attempts))
        .bind(column!(|_job, row| row.max_attempts))
        .bind(column!(|_job, row| row.timeout_ms))
        .bind(column!(|job, _row| job.data.as_str().to_owned()))
        .bind(column!(|_job, row| row.traceparent.map(str::to_owned)))
        .bind(column!(|_job, row| row.tracestate.map(str::to_owned)))
        .bind(column!(|_job, row| row.ledger))
        .bind(column!(|_job, row| row.source_offset))
        .bind(column!(|_job, row| row.source_time_ms))
        .bind(column!(|job, _row| job.last_error.clone()))
        .bind(column!(|job, _row| job.letter))
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
