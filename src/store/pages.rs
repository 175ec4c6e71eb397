//! Reading the next jobs of shards, strictly beyond a mark, in firing order.

use std::fmt::Write;

use futures::TryStreamExt;
use infinite_scheduler_entity::job;
use rusqlite::params;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use sqlx::{AssertSqlSafe, Row};

use super::columns::{TOMBSTONE, job_of};
use super::columns::jobs::{READ, read_mysql, read_postgres, read_sqlite};
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

/// The jobs of one range, in order.
pub type Page = Vec<Job>;

/// What was read of several ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// One for each range, in their order.
    pub pages: Vec<Page>,
    /// How many of them are complete, from the first on: fewer jobs than such a range's limit
    /// mean that there are no more. Reading ended in the next one, and what follows was not
    /// read.
    pub complete: usize,
}

impl Pages {
    fn new(ranges: &[ListRange]) -> Self {
        Self { pages: vec![Page::new(); ranges.len()], complete: ranges.len() }
    }

    /// Takes the next job, which is of the range at `place`; false if reading has to end
    /// because there are `most` bytes now.
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

/// Jobs that one look-up by id asks for at most, and at first.
const IDS_AT_ONCE: (usize, usize) = (500, 8);

impl Store {
    /// Reads a page of each range, all in one statement (on SQLite on one connection), until
    /// there are `max_bytes` or more by [`Job::size`].
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn pages(&self, ranges: &[ListRange], max_bytes: usize) -> Result<Pages> {
        if ranges.is_empty() {
            return Ok(Pages::default());
        }
        match &self.inner.hot {
            Hot::Postgres(pool) => of_postgres(pool, ranges, max_bytes).await,
            Hot::MySql(pool) => of_mysql(pool, ranges, max_bytes).await,
            Hot::Sqlite(sqlite) => {
                let ranges = ranges.to_vec();
                sqlite.read(move |connection| of_sqlite(connection, &ranges, max_bytes)).await
            }
        }
    }

    /// Those of `ids` that are live, until there are `max_bytes` or more by [`Job::size`], and
    /// how many of `ids`, from the first on, were looked for.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn jobs_by_id(&self, ids: &[JobId], max_bytes: usize) -> Result<(Vec<Job>, usize)> {
        let (mut jobs, mut bytes, mut looked_for) = (Vec::new(), 0, 0);
        let (most, mut at_once) = IDS_AT_ONCE;
        while looked_for < ids.len() && bytes < max_bytes {
            let some = &ids[looked_for..ids.len().min(looked_for + at_once)];
            let rows = job::Entity::find()
                .filter(job::Column::Id.is_in(some.iter().map(|id| id.uuid())))
                .filter(job::Column::Priority.ne(TOMBSTONE))
                .all(&self.inner.pool)
                .await?;
            jobs.extend(rows.into_iter().map(job_of).inspect(|job| bytes += job.size()));
            looked_for += some.len();
            // Nobody knows how large the next ones are: about as large as those before.
            let mean = (bytes / looked_for).max(1);
            at_once = (max_bytes.saturating_sub(bytes) / mean).clamp(1, most.min(at_once * 4));
        }
        Ok((jobs, looked_for))
    }
}

/// After five executions a plain list query would get a generic plan that sorts the whole
/// list; driven from the array of lists it walks the index of each and stops. The id stands
/// in that index as bytes, so it is compared as bytes.
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
            // The rest would have to be read from a connection that is kept.
            drop(connection.detach());
            return Ok(pages);
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
        // The rest would have to be read from a connection that is kept.
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
