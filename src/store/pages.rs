//! Reads the next jobs of shards after a given job, in firing order.

use std::fmt::Write;

use futures::TryStreamExt;
use infinite_scheduler_entity::job;
use rusqlite::params;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use sqlx::{AssertSqlSafe, Row};

use super::columns::job_of;
use super::columns::jobs::{READ, read_mysql, read_postgres, read_sqlite};
use super::tombstones::TOMBSTONE;
use super::{Driver, Result, Store};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::{Job, Priority};

/// The next part of a list, the jobs of one shard and priority in the order of due time and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListRange {
    /// The shard.
    pub shard: ShardId,
    /// The priority.
    pub priority: Priority,
    /// The due time and id after which reading begins.
    pub after: (i64, JobId),
    /// The most rows.
    pub limit: u32,
}

/// The jobs of one range, in order.
pub type Page = Vec<Job>;

/// The pages of several ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// A page for each range, in the same order.
    pub pages: Vec<Page>,
    /// How many pages, from the first, are complete: one with fewer jobs than its range's limit has
    /// reached the end of its list. The next page may be incomplete, and later ones were not read.
    pub complete: usize,
}

impl Pages {
    fn new(ranges: &[ListRange]) -> Self {
        Self { pages: vec![Page::new(); ranges.len()], complete: ranges.len() }
    }

    /// Adds the next job, which belongs to the range at index `place`. Returns false if reading must
    /// stop because the pages have `most` bytes.
    fn take(&mut self, place: usize, job: Job, bytes: &mut usize, most: usize) -> bool {
        *bytes += job.size();
        if let Some(page) = self.pages.get_mut(place) {
            page.push(job);
        }
        if *bytes < most {
            return true;
        }
        self.complete = place;
        false
    }
}

/// The most ids of one query of jobs by id, and the number of ids in the first query.
const IDS_AT_ONCE: (usize, usize) = (500, 8);

impl Store {
    /// Reads a page of each range, all in one statement (on SQLite: on one connection), until the
    /// pages have at least `max_bytes` by [`Job::size`].
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn pages(&self, ranges: &[ListRange], max_bytes: usize) -> Result<Pages> {
        if ranges.is_empty() {
            return Ok(Pages::default());
        }
        match &self.inner.driver {
            Driver::Postgres(pool) => of_postgres(pool, ranges, max_bytes).await,
            Driver::MySql(pool) => of_mysql(pool, ranges, max_bytes).await,
            Driver::Sqlite(sqlite) => {
                let ranges = ranges.to_vec();
                sqlite.read(move |connection| of_sqlite(connection, &ranges, max_bytes)).await
            }
        }
    }

    /// Reads the live jobs among `ids`, until they have at least `max_bytes` by [`Job::size`].
    /// Returns them with the number of ids, from the first, that were queried.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn jobs_by_id(&self, ids: &[JobId], max_bytes: usize) -> Result<(Vec<Job>, usize)> {
        let (mut jobs, mut bytes, mut queried) = (Vec::new(), 0, 0);
        let (most, mut at_once) = IDS_AT_ONCE;
        while queried < ids.len() && bytes < max_bytes {
            let some = &ids[queried..ids.len().min(queried + at_once)];
            let rows = job::Entity::find()
                .filter(job::Column::Id.is_in(some.iter().map(|id| id.uuid())))
                .filter(job::Column::Priority.ne(TOMBSTONE))
                .all(&self.inner.pool)
                .await?;
            jobs.extend(rows.into_iter().map(job_of).inspect(|job| bytes += job.size()));
            queried += some.len();
            // The next ones are assumed to be as large as the mean of those so far.
            let mean = (bytes / queried).max(1);
            at_once = (max_bytes.saturating_sub(bytes) / mean).clamp(1, most.min(at_once * 4));
        }
        Ok((jobs, queried))
    }
}

/// After five executions, a plain query of a list would get a generic plan that sorts the whole
/// list. A lateral join from an array of the lists scans the index of each list and stops at the
/// limit. That index contains the id as bytes, so ids are compared as bytes.
async fn of_postgres(pool: &sqlx::PgPool, ranges: &[ListRange], max_bytes: usize) -> Result<Pages> {
    let sql = format!(
        "select l.place, j.* from unnest($1::integer[], $2::smallint[], $3::bigint[], $4::uuid[], \
         $5::integer[]) with ordinality as l(shard, priority, due, id, size, place) \
         cross join lateral (select {READ} from scheduler_job \
         where shard = l.shard and priority = l.priority \
         and (due_ms, uuid_send(id)) > (l.due, uuid_send(l.id)) \
         order by due_ms, uuid_send(id) limit l.size) j"
    );
    let column = |f: fn(&ListRange) -> i32| ranges.iter().map(f).collect::<Vec<_>>();
    let mut connection = pool.acquire().await?;
    let mut rows = sqlx::query(AssertSqlSafe(sql))
        .bind(column(|range| range.shard.0))
        .bind(ranges.iter().map(|range| range.priority.rank()).collect::<Vec<_>>())
        .bind(ranges.iter().map(|range| range.after.0).collect::<Vec<_>>())
        .bind(ranges.iter().map(|range| range.after.1.uuid()).collect::<Vec<_>>())
        .bind(column(|range| i32::try_from(range.limit).unwrap_or(i32::MAX)))
        .fetch(&mut *connection);
    let (mut pages, mut bytes) = (Pages::new(ranges), 0);
    while let Some(row) = rows.try_next().await? {
        let place: i64 = row.try_get(0)?;
        let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
        if !pages.take(place, read_postgres(&row, 1)?, &mut bytes, max_bytes) {
            drop(rows);
            // A connection that is kept would first have to read the remaining rows.
            drop(connection.detach());
            return Ok(pages);
        }
    }
    Ok(pages)
}

/// The ranges are literals in the text: their number changes from call to call, and a prepared
/// statement for each number would evict statements that are used more.
///
/// Each range is two index range scans: jobs with the same due time as the last one, and jobs that
/// are due later. A comparison of both columns at once would scan all jobs of that due time again
/// for each page, and many jobs are scheduled for the same full hour.
async fn of_mysql(pool: &sqlx::MySqlPool, ranges: &[ListRange], max_bytes: usize) -> Result<Pages> {
    let mut sql = String::new();
    for (place, range) in ranges.iter().enumerate() {
        let (due, id) = (range.after.0, range.after.1.as_u128());
        let same = format!("due_ms = {due} and id > x'{id:032x}'");
        let later = format!("due_ms > {due}");
        for beyond in [same, later] {
            let union = if sql.is_empty() { "" } else { " union all " };
            let written = write!(
                sql,
                "{union}(select {place} as place, {READ} from scheduler_job \
                 force index (primary) where shard = {} and priority = {} \
                 and {beyond} order by due_ms, id limit {})",
                range.shard,
                range.priority.rank(),
                range.limit
            );
            debug_assert!(written.is_ok(), "writing to a String cannot fail");
        }
    }
    let mut connection = pool.acquire().await?;
    let mut rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch(&mut *connection);
    let (mut pages, mut bytes) = (Pages::new(ranges), 0);
    let mut has_more = false;
    while let Some(row) = rows.try_next().await? {
        let place: i64 = row.try_get(0)?;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        has_more = !pages.take(place, read_mysql(&row, 1)?, &mut bytes, max_bytes);
        if has_more {
            break;
        }
    }
    drop(rows);
    if has_more {
        // A connection that is kept would first have to read the remaining rows.
        drop(connection.detach());
    }
    for (page, range) in pages.pages.iter_mut().zip(ranges) {
        page.sort_unstable_by_key(Job::key);
        page.truncate(range.limit as usize);
    }
    Ok(pages)
}

fn of_sqlite(
    connection: &rusqlite::Connection,
    ranges: &[ListRange],
    max_bytes: usize,
) -> Result<Pages> {
    let mut statement = connection.prepare_cached(&format!(
        "select {READ} from scheduler_job where shard = ?1 and priority = ?2 and (due_ms, id) > (?3, ?4) \
         order by due_ms, id limit ?5"
    ))?;
    let (mut pages, mut bytes) = (Pages::new(ranges), 0);
    for (place, range) in ranges.iter().enumerate() {
        let (due, id) = range.after;
        let found =
            params![range.shard.0, range.priority.rank(), due, id.into_bytes(), range.limit];
        let mut rows = statement.query(found)?;
        while let Some(row) = rows.next()? {
            if !pages.take(place, read_sqlite(row)?, &mut bytes, max_bytes) {
                return Ok(pages);
            }
        }
    }
    Ok(pages)
}
