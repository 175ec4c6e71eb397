//! Reading the next jobs of shards, strictly beyond a mark, in firing order.

use std::fmt::Write;

use infinite_scheduler_entity::job;
use rusqlite::params;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use sqlx::{AssertSqlSafe, Row};

use super::rows::{COLUMNS, decode_job, job_of};
use super::{Hot, Result, Store};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::{Job, Priority};

/// One list's next part: what follows `after` in (due, id) order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListRange {
    /// The shard.
    pub shard: ShardId,
    /// The class.
    pub priority: Priority,
    /// Read strictly beyond this.
    pub after: (i64, JobId),
    /// Rows at most.
    pub limit: u32,
}

/// The jobs of one range, in order. Fewer than its limit: there are no more.
pub type Page = Vec<Job>;

/// Jobs that one look-up by id asks for at most.
const IDS_AT_ONCE: usize = 500;

impl Store {
    /// Reads a page of each range, all in one statement (on SQLite on one connection).
    /// The answer has one page per range, in the same order.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn pages(&self, ranges: &[ListRange]) -> Result<Vec<Page>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        match &self.inner.hot {
            Hot::Postgres(pool) => of_postgres(pool, ranges).await,
            Hot::MySql(pool) => of_mysql(pool, ranges).await,
            Hot::Sqlite(sqlite) => {
                let ranges = ranges.to_vec();
                sqlite.read(move |connection| of_sqlite(connection, &ranges)).await
            }
        }
    }

    /// Those of `ids` that are live.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn jobs_by_id(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        let mut jobs = Vec::with_capacity(ids.len());
        for some in ids.chunks(IDS_AT_ONCE) {
            let rows = job::Entity::find()
                .filter(job::Column::Id.is_in(some.iter().map(|id| id.uuid())))
                .all(&self.inner.pool)
                .await?;
            jobs.extend(rows.into_iter().map(job_of));
        }
        Ok(jobs)
    }
}

/// After five executions a plain list query would get a generic plan that sorts the whole
/// list; driven from the array of lists it walks the index of each and stops. The id stands
/// in that index as bytes, so it is compared as bytes.
async fn of_postgres(pool: &sqlx::PgPool, ranges: &[ListRange]) -> Result<Vec<Page>> {
    let sql = format!(
        "select l.place, j.* from unnest($1::integer[], $2::smallint[], $3::bigint[], $4::uuid[], \
         $5::integer[]) with ordinality as l(shard, priority, due, id, size, place) \
         cross join lateral (select {COLUMNS} from scheduler_job \
         where shard = l.shard and priority = l.priority \
         and (due_ms, uuid_send(id)) > (l.due, uuid_send(l.id)) \
         order by due_ms, uuid_send(id) limit l.size) j"
    );
    let column = |f: fn(&ListRange) -> i32| ranges.iter().map(f).collect::<Vec<_>>();
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(column(|range| range.shard.0))
        .bind(ranges.iter().map(|range| range.priority.rank()).collect::<Vec<_>>())
        .bind(ranges.iter().map(|range| range.after.0).collect::<Vec<_>>())
        .bind(ranges.iter().map(|range| range.after.1.uuid()).collect::<Vec<_>>())
        .bind(column(|range| i32::try_from(range.limit).unwrap_or(i32::MAX)))
        .fetch_all(pool)
        .await?;
    let mut pages = vec![Page::new(); ranges.len()];
    for row in &rows {
        macro_rules! get {
            ($index:expr) => {
                row.try_get($index)?
            };
        }
        let place: i64 = row.try_get(0)?;
        let job = decode_job!(get, 1);
        if let Some(page) = usize::try_from(place - 1).ok().and_then(|place| pages.get_mut(place)) {
            page.push(job);
        }
    }
    Ok(pages)
}

/// The ranges stand in the text as literals: the number of lists changes from call to
/// call, and a prepared form for each number would push out what is used more.
///
/// Each range is two reads that the index bounds: the rest of the mark's own moment, and
/// what is later. One comparison of both columns would walk all jobs of that moment again
/// for each page, and everybody schedules for nine o'clock.
async fn of_mysql(pool: &sqlx::MySqlPool, ranges: &[ListRange]) -> Result<Vec<Page>> {
    let mut sql = String::new();
    for (place, range) in ranges.iter().enumerate() {
        let (due, id) = (range.after.0, range.after.1.as_u128());
        let same = format!("due_ms = {due} and id > x'{id:032x}'");
        let later = format!("due_ms > {due}");
        for beyond in [same, later] {
            let union = if sql.is_empty() { "" } else { " union all " };
            let written = write!(
                sql,
                "{union}(select {place} as place, {COLUMNS} from scheduler_job \
                 force index (primary) where shard = {} and priority = {} \
                 and {beyond} order by due_ms, id limit {})",
                range.shard,
                range.priority.rank(),
                range.limit
            );
            debug_assert!(written.is_ok(), "writing to a String cannot fail");
        }
    }
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(pool).await?;
    let mut pages = vec![Page::new(); ranges.len()];
    for row in &rows {
        macro_rules! get {
            ($index:expr) => {
                row.try_get($index)?
            };
        }
        let place: i64 = row.try_get(0)?;
        let job = decode_job!(get, 1);
        if let Some(page) = usize::try_from(place).ok().and_then(|place| pages.get_mut(place)) {
            page.push(job);
        }
    }
    for (page, range) in pages.iter_mut().zip(ranges) {
        page.sort_unstable_by_key(Job::key);
        page.truncate(range.limit as usize);
    }
    Ok(pages)
}

fn of_sqlite(connection: &rusqlite::Connection, ranges: &[ListRange]) -> Result<Vec<Page>> {
    let mut statement = connection.prepare_cached(&format!(
        "select {COLUMNS} from scheduler_job where shard = ?1 and priority = ?2 and (due_ms, id) > (?3, ?4) \
         order by due_ms, id limit ?5"
    ))?;
    let mut pages = Vec::with_capacity(ranges.len());
    for range in ranges {
        let (due, id) = range.after;
        let found =
            params![range.shard.0, range.priority.rank(), due, id.into_bytes(), range.limit];
        let mut rows = statement.query(found)?;
        let mut page = Page::new();
        while let Some(row) = rows.next()? {
            page.push(sqlite_job(row)?);
        }
        pages.push(page);
    }
    Ok(pages)
}

fn sqlite_job(row: &rusqlite::Row<'_>) -> Result<Job> {
    Ok(job_of(job::Model {
        id: uuid::Uuid::from_bytes(row.get(0)?),
        shard: row.get(1)?,
        priority: row.get(2)?,
        due_ms: row.get(3)?,
        request_id: row.get(4)?,
        scheduled_ms: row.get(5)?,
        expires_ms: row.get(6)?,
        created_ms: row.get(7)?,
        attempts: row.get(8)?,
        max_attempts: row.get(9)?,
        timeout_ms: row.get(10)?,
        data: row.get(11)?,
        traceparent: row.get(12)?,
        tracestate: row.get(13)?,
        ledger: row.get(14)?,
        source_offset: row.get(15)?,
        source_time_ms: row.get(16)?,
        last_error: row.get(17)?,
        letter: row.get::<_, Option<[u8; 16]>>(18)?.map(uuid::Uuid::from_bytes),
    }))
}
