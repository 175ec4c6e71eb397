//! Outcomes on PostgreSQL. Every statement has only one possible plan, whatever the statistics are:
//! rows are found by their primary key from an array of ids, and the table is never joined in a way
//! that the planner could reorder. Further conditions are written so that no index applies to them.

use sqlx::postgres::{PgArguments, PgPool, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::{Letters, OutcomeBatch, Written, attempts_of};
use crate::model::job::Job;
use crate::store::Result;
use crate::store::admit::postgres::{bind_fences, fences_from, locked_fences, unnest};
use crate::store::columns::history as columns;
use crate::store::history_row::HistoryRow;
use crate::store::steps::run_postgres;

pub(super) async fn write(
    pool: &PgPool,
    batch: &OutcomeBatch,
    letters: &Letters,
) -> Result<Written> {
    if batch.only_deletes() {
        return delete(pool, batch).await;
    }
    let mut transaction = pool.begin().await?;
    let held = locked_fences(&mut transaction, &batch.fences).await?;
    let lost = batch.lost(|shard| held.contains(&shard.0));
    run_postgres(&mut transaction, batch.published(&lost, letters)).await?;
    let (ended, retried) = (batch.ended_by_id(&lost), batch.retried(&lost));
    let mut found = 0;
    if !ended.is_empty() {
        let delete = format!("delete from scheduler_job where {}", of_versions(1));
        let delete = bind_versions(sqlx::query(AssertSqlSafe(delete)), &ended);
        found += delete.execute(&mut *transaction).await?.rows_affected();
    }
    if !retried.is_empty() {
        // `offset 0` prevents the planner from merging the lateral subquery into the join.
        let update = "with found as materialized (\
            select place, due, m.attempts, error from unnest($1::uuid[], $2::bigint[], \
            $3::integer[], $4::text[], $5::bigint[], $6::integer[]) \
            as m(id, due, attempts, error, created, before) cross join lateral (\
            select ctid as place from scheduler_job where id = m.id and created_ms = m.created \
            and scheduler_job.attempts = m.before offset 0) as j) \
            update scheduler_job set due_ms = found.due, attempts = found.attempts, \
            last_error = found.error, started_ms = null, started_by = null from found where scheduler_job.ctid = found.place";
        let update = sqlx::query(update)
            .bind(retried.iter().map(|(job, ..)| job.id.uuid()).collect::<Vec<_>>())
            .bind(retried.iter().map(|(_, due, ..)| *due).collect::<Vec<_>>())
            .bind(retried.iter().map(|(_, _, attempts, _)| *attempts).collect::<Vec<_>>())
            .bind(retried.iter().map(|(.., error)| error.map(str::to_owned)).collect::<Vec<_>>())
            .bind(retried.iter().map(|(job, ..)| job.created_ms).collect::<Vec<_>>())
            .bind(retried.iter().map(|(job, ..)| attempts_of(job)).collect::<Vec<_>>());
        found += update.execute(&mut *transaction).await?.rows_affected();
    }
    let history = batch.history(&lost);
    if !history.is_empty() {
        let insert = sqlx::query(AssertSqlSafe(insert_of(1) + ON_CONFLICT));
        bind_history(insert, &history).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(Written { unmatched: missing(ended.len() + retried.len(), found), lost })
}

/// Locks the shards, deletes the rows, and inserts the history if it is kept, in one statement: one
/// round trip and one commit.
async fn delete(pool: &PgPool, batch: &OutcomeBatch) -> Result<Written> {
    let history = batch.history(&[]);
    let kept = match history.is_empty() {
        true => String::new(),
        false => format!(
            ", kept as ({} where h.at_shard = any(array(select id from fence)){ON_CONFLICT})",
            insert_of(7)
        ),
    };
    let sql = format!(
        "with fence as materialized ({}), gone as (delete from scheduler_job where {} \
         and (shard = any(array(select id from fence))) is true returning 1){kept} \
         select array(select id from fence), (select count(*) from gone)",
        fences_from(1),
        of_versions(4)
    );
    let query = bind_fences(sqlx::query(AssertSqlSafe(sql)), &batch.fences);
    let mut query = bind_versions(query, &batch.ended_by_id(&[]));
    if !history.is_empty() {
        query = bind_history(query, &history);
    }
    let row = query.fetch_one(pool).await?;
    let (held, found): (Vec<i32>, i64) = (row.try_get(0)?, row.try_get(1)?);
    let lost = batch.lost(|shard| held.contains(&shard.0));
    let expected = batch.kept(&lost).count();
    Ok(Written { unmatched: missing(expected, found.unsigned_abs()), lost })
}

/// An outcome that is written again finds its row of the history, which stays as it is.
const ON_CONFLICT: &str = " on conflict do nothing";

/// The insert of rows of the history, whose arrays are numbered from `first`: one for each column,
/// and one of the shards of the jobs, by which the rows `h` can be chosen.
fn insert_of(first: usize) -> String {
    let columns = columns::COLUMNS;
    let types: Vec<&str> = columns::POSTGRES_TYPES.iter().copied().chain(["integer"]).collect();
    format!(
        "insert into scheduler_job_history ({columns}) select {columns} from {} \
         as h({columns}, at_shard)",
        unnest(first, &types)
    )
}

fn bind_history<'q>(
    query: Query<'q, Postgres, PgArguments>,
    rows: &[HistoryRow<'q>],
) -> Query<'q, Postgres, PgArguments> {
    let shards: Vec<i32> = rows.iter().map(|row| row.job.shard.0).collect();
    columns::bind_postgres(query, rows).bind(shards)
}

/// The condition for rows by id and version, whose placeholders (arrays of ids, times of admission
/// and attempts) are numbered from `first`. The version is compared after the rows are found by id.
fn of_versions(first: usize) -> String {
    let [ids, created, attempts] = [first, first + 1, first + 2];
    format!(
        "id = any(${ids}::uuid[]) and ((id, created_ms, attempts) in (select * from \
         unnest(${ids}::uuid[], ${created}::bigint[], ${attempts}::integer[]))) is true"
    )
}

fn bind_versions<'q>(
    query: Query<'q, Postgres, PgArguments>,
    jobs: &[&Job],
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(jobs.iter().map(|job| job.id.uuid()).collect::<Vec<Uuid>>())
        .bind(jobs.iter().map(|job| job.created_ms).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| attempts_of(job)).collect::<Vec<_>>())
}

fn missing(expected: usize, found: u64) -> usize {
    expected.saturating_sub(usize::try_from(found).unwrap_or(usize::MAX))
}
