//! Walks through the live jobs of several lists in the order of due time and id.

use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;

use super::WalkRange;
use super::merge::{List, Listed, Merge};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Priority;
use crate::store::{Driver, Result, Store};

/// The place of a job in the order of a list: its due time in epoch milliseconds, and its id.
pub type JobPlace = (i64, JobId);

/// Before every job, and after every job, of any time that a request can have.
pub(super) const BOUNDS_MS: (i64, i64) = (-(1 << 60), 1 << 60);

/// A walk through the jobs of a [`WalkRange`].
#[derive(Debug)]
pub struct JobWalk(Merge<JobList>);

/// A walk that also reads of each job what tells it from what it may become.
#[derive(Debug)]
pub struct VersionWalk(Merge<VersionList>);

/// The version of a job that was found, in the order of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobVersion {
    /// Its place.
    pub place: JobPlace,
    /// Its shard.
    pub shard: ShardId,
    /// When it was admitted, epoch milliseconds.
    pub created_ms: i64,
    /// How often it was changed.
    pub revision: u32,
    /// When it was last moved, epoch milliseconds.
    pub moved_ms: Option<i64>,
}

/// The list of one shard and priority.
#[derive(Clone, Copy, Debug)]
struct JobList {
    shard: ShardId,
    priority: Priority,
}

/// The same list.
#[derive(Clone, Copy, Debug)]
struct VersionList(JobList);

/// What a statement reads of a list: the place after which it begins, and how many jobs.
struct Part {
    list: JobList,
    after: JobPlace,
    at_once: usize,
}

impl JobWalk {
    /// The walk through `range` after the place `after`, of which about `expected` places are
    /// wanted.
    pub fn new(range: &WalkRange, after: Option<JobPlace>, expected: usize) -> Self {
        let (after, to_ms) = bounds(range, after);
        Self(Merge::new(lists(range).collect(), after, to_ms, expected))
    }

    /// The next `count` places in order; fewer at the end.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn next(&mut self, store: &Store, count: usize) -> Result<Vec<JobPlace>> {
        self.0.next(store, count).await
    }

    /// Whether there is a further place.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn has_more(&mut self, store: &Store) -> Result<bool> {
        self.0.has_more(store).await
    }
}

impl VersionWalk {
    /// As [`JobWalk::new`].
    pub fn new(range: &WalkRange, after: Option<JobPlace>, expected: usize) -> Self {
        let (place, to_ms) = bounds(range, after);
        let (shard, created_ms, revision) = (ShardId(i32::MAX), i64::MAX, u32::MAX);
        let after = JobVersion { place, shard, created_ms, revision, moved_ms: Some(i64::MAX) };
        Self(Merge::new(lists(range).map(VersionList).collect(), after, to_ms, expected))
    }

    /// As [`JobWalk::next`].
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn next(&mut self, store: &Store, count: usize) -> Result<Vec<JobVersion>> {
        self.0.next(store, count).await
    }

    /// As [`JobWalk::has_more`].
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn has_more(&mut self, store: &Store) -> Result<bool> {
        self.0.has_more(store).await
    }
}

/// The place after which a walk begins, and the time before which it ends.
fn bounds(range: &WalkRange, after: Option<JobPlace>) -> (JobPlace, i64) {
    let (first_ms, last_ms) = BOUNDS_MS;
    let from_ms = range.from_ms.unwrap_or(first_ms).clamp(first_ms, last_ms);
    let before = (from_ms - 1, JobId::from_bytes([0xff; 16]));
    let after = after.map_or(before, |after| after.max(before));
    (after, range.to_ms.unwrap_or(last_ms).min(last_ms))
}

fn lists(range: &WalkRange) -> impl Iterator<Item = JobList> {
    range.shards.iter().flat_map(|shard| {
        range.priorities.iter().map(|priority| JobList { shard: *shard, priority: *priority })
    })
}

impl Listed for JobList {
    type Place = JobPlace;

    fn place(row: &QueryResult) -> Result<JobPlace, DbErr> {
        let (ms, id): (i64, Uuid) = (row.try_get_by_index(1)?, row.try_get_by_index(2)?);
        Ok((ms, JobId::from_uuid(id)))
    }

    fn sql(driver: &Driver, lists: &[&mut List<Self>], last_ms: i64) -> String {
        let part = |list: &&mut List<Self>| Part {
            list: list.listed,
            after: list.after,
            at_once: list.at_once,
        };
        sql(driver, "due_ms, id", lists.iter().map(part), last_ms)
    }
}

impl Listed for VersionList {
    type Place = JobVersion;

    fn place(row: &QueryResult) -> Result<JobVersion, DbErr> {
        Ok(JobVersion {
            place: JobList::place(row)?,
            shard: ShardId(row.try_get_by_index(3)?),
            created_ms: row.try_get_by_index(4)?,
            revision: row.try_get_by_index::<i32>(5)?.try_into().unwrap_or(0),
            moved_ms: row.try_get_by_index(6)?,
        })
    }

    fn sql(driver: &Driver, lists: &[&mut List<Self>], last_ms: i64) -> String {
        let part = |list: &&mut List<Self>| Part {
            list: list.listed.0,
            after: list.after.place,
            at_once: list.at_once,
        };
        let columns = "due_ms, id, shard, created_ms, revision, moved_ms";
        sql(driver, columns, lists.iter().map(part), last_ms)
    }
}

fn sql(driver: &Driver, columns: &str, parts: impl Iterator<Item = Part>, to_ms: i64) -> String {
    match driver {
        Driver::Postgres(_) => postgres(columns, parts, to_ms),
        Driver::MySql(_) => mysql(columns, parts, to_ms),
        Driver::Sqlite(_) => sqlite(columns, parts, to_ms),
    }
}

/// Each list is read by a walk through the index that stops at the limit. The id is in that index
/// as bytes.
fn postgres(columns: &str, parts: impl Iterator<Item = Part>, to_ms: i64) -> String {
    let row = |(at, part): (usize, Part)| {
        let Part { list: JobList { shard, priority }, after: (due, id), at_once } = part;
        let priority = priority.rank();
        format!("({at}, {shard}, {priority}::smallint, {due}::bigint, '{id}'::uuid, {at_once})")
    };
    let rows: Vec<String> = parts.enumerate().map(row).collect();
    format!(
        "select l.at, j.* from (values {}) as l(at, shard, priority, due, id, size) \
         cross join lateral (select {columns} from scheduler_job \
         where shard = l.shard and priority = l.priority \
         and (due_ms, uuid_send(id)) > (l.due, uuid_send(l.id)) and due_ms < {to_ms} \
         order by due_ms, uuid_send(id) limit l.size) j",
        rows.join(", ")
    )
}

/// Each list is two reads that the index bounds: the rest of the place's own moment, and what is
/// later. One comparison of both columns would walk all jobs of that moment.
fn mysql(columns: &str, parts: impl Iterator<Item = Part>, to_ms: i64) -> String {
    let reads = |(at, part): (usize, Part)| {
        let Part { list: JobList { shard, priority }, after: (due, id), at_once } = part;
        let (priority, id) = (priority.rank(), id.as_u128());
        let same = format!("due_ms = {due} and id > x'{id:032x}'");
        let later = format!("due_ms > {due}");
        [same, later].map(|beyond| {
            format!(
                "(select {at} as at, {columns} from scheduler_job force index (primary) \
                 where shard = {shard} and priority = {priority} and {beyond} \
                 and due_ms < {to_ms} order by due_ms, id limit {at_once})"
            )
        })
    };
    parts.enumerate().flat_map(reads).collect::<Vec<_>>().join(" union all ")
}

fn sqlite(columns: &str, parts: impl Iterator<Item = Part>, to_ms: i64) -> String {
    let read = |(at, part): (usize, Part)| {
        let Part { list: JobList { shard, priority }, after: (due, id), at_once } = part;
        let (priority, id) = (priority.rank(), id.as_u128());
        format!(
            "select * from (select {at} as at, {columns} from scheduler_job \
             where shard = {shard} and priority = {priority} \
             and (due_ms, id) > ({due}, x'{id:032x}') and due_ms < {to_ms} \
             order by due_ms, id limit {at_once})"
        )
    };
    parts.enumerate().map(read).collect::<Vec<_>>().join(" union all ")
}
