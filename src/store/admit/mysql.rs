//! Admission on MariaDB and MySQL: shards and offset in one packet, then rows in
//! prepared statements of a few fixed sizes.

use futures::TryStreamExt;
use sqlx::mysql::{MySql, MySqlArguments, MySqlPool};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Either, MySqlTransaction, Row};
use uuid::Uuid;

use super::{Admitted, Batch, Candidate, Plan};
use crate::store::commands::{self, LOOK};
use crate::store::rows::{COLUMNS, WIDTH, encode};
use crate::store::{Error, Result, ShardFence};

type Statement<'q> = Query<'q, MySql, MySqlArguments>;

/// Rows per statement. Few sizes, so that all of them stay prepared.
const SIZES: [usize; 4] = [500, 100, 10, 1];

pub(super) async fn write(pool: &MySqlPool, batch: &Batch, plan: Plan) -> Result<Admitted> {
    let mut transaction = pool.begin().await?;
    let (locked, moved) = lock_and_move(&mut transaction, batch, &plan).await?;
    if locked.len() != batch.fences.len() {
        return Ok(Admitted::ShardsMoved);
    }
    if batch.advance.is_some() && !moved {
        return Ok(Admitted::Fenced);
    }
    insert(&mut transaction, batch, &plan).await?;
    transaction.commit().await?;
    Ok(Admitted::Done(plan.fates))
}

/// One point read for each shard: a range or a list would lock more rows than it names.
pub(in crate::store) fn fence_reads(fences: &[ShardFence]) -> String {
    fences.iter().fold(String::new(), |sql, fence| {
        let ShardFence { shard, owner, epoch } = fence;
        sql + &format!(
            "select id from shard where id = {shard} and owner = {owner} and epoch = {epoch} \
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
    if let Some(advance) = &batch.advance {
        let [jobs, duplicates, dead] = plan.totals();
        let null = |value: Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
        sql += &format!(
            "update ingest_offset set next_offset = {}, jobs = jobs + {jobs}, \
             duplicates = duplicates + {duplicates}, dead_letters = dead_letters + {dead}, \
             last_time_ms = {}, last_hash = {} \
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
        let delete = "delete from idempotency_key where id = ? and expires_ms = ?";
        let gone = sqlx::query(delete).bind(Uuid::from_bytes(key.into_bytes())).bind(expires_ms);
        if gone.execute(&mut **transaction).await?.rows_affected() != 1 {
            return Err(Error::Raced("an expired key was replaced".into()));
        }
    }
    let keyed: Vec<_> = plan.keys(batch).collect();
    let into = "insert into idempotency_key \
                (id, app, name, job, request_id, fingerprint, scheduled_ms, expires_ms) values ";
    insert_rows(transaction, into, 8, &keyed, bind_key).await?;
    let jobs: Vec<_> = plan.jobs(batch).collect();
    let into = format!("insert into job ({COLUMNS}) values ");
    insert_rows(transaction, &into, WIDTH, &jobs, bind_job).await?;
    for letter in &plan.letters {
        insert_letter(transaction, letter, Plan::lane(batch)).await?;
    }
    for (shard, jobs) in batch.looks(plan) {
        let command =
            "insert into command (shard, kind, args, state, created_ms) values (?, ?, ?, 0, ?)";
        let look = sqlx::query(command).bind(shard.0).bind(LOOK);
        let look = look.bind(commands::encode_ids(&jobs)).bind(batch.now_ms);
        look.execute(&mut **transaction).await?;
    }
    Ok(())
}

async fn insert_rows<'b>(
    transaction: &mut MySqlTransaction<'_>,
    into: &str,
    width: usize,
    rows: &[&'b Candidate],
    bind: fn(Statement<'b>, &'b Candidate) -> Statement<'b>,
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

fn bind_key<'q>(query: Statement<'q>, candidate: &'q Candidate) -> Statement<'q> {
    let Some(key) = &candidate.key else { return query };
    query
        .bind(Uuid::from_bytes(key.id.into_bytes()))
        .bind(candidate.app.0)
        .bind(&key.name)
        .bind(candidate.job.id.uuid())
        .bind(&candidate.job.request_id)
        .bind(Uuid::from_bytes(candidate.fingerprint.into_bytes()))
        .bind(candidate.job.scheduled_ms)
        .bind(key.expires_ms)
}

fn bind_job<'q>(query: Statement<'q>, candidate: &'q Candidate) -> Statement<'q> {
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

/// Writes a letter and its outbox row; a letter that is there already stays as it is, and is
/// not published again: its outcome or batch is written twice when an answer was lost.
pub(in crate::store) async fn insert_letter(
    transaction: &mut MySqlTransaction<'_>,
    letter: &infinite_scheduler_entity::dead_letter::Model,
    lane: Option<i64>,
) -> Result<()> {
    let insert = "insert into dead_letter (id, kind, message, app, request_id, job, topic, number, \
        source_offset, source_time_ms, record_key, record_value, headers, attempts, created_ms) \
        values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
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
        .await;
    // Not `on duplicate key`: that counts a row that it leaves alone like one that it writes.
    // The error undoes this statement alone.
    match written {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(()),
        written => written?,
    };
    let outbox = "insert into outbox (lane, letter) values (?, ?)";
    sqlx::query(outbox).bind(lane.unwrap_or(0)).bind(letter.id).execute(&mut **transaction).await?;
    Ok(())
}
