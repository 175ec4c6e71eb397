//! Walks through the live jobs of several lists in the order of due time and id.

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

/// The list of one shard and priority.
#[derive(Clone, Copy, Debug)]
struct JobList {
    shard: ShardId,
    priority: Priority,
}

impl JobWalk {
    /// The walk through `range` after the place `after`, of which about `expected` places are
    /// wanted.
    pub fn new(range: &WalkRange, after: Option<JobPlace>, expected: usize) -> Self {
        let (first_ms, last_ms) = BOUNDS_MS;
        let from_ms = range.from_ms.unwrap_or(first_ms).clamp(first_ms, last_ms);
        let before = (from_ms - 1, JobId::from_bytes([0xff; 16]));
        let after = after.map_or(before, |after| after.max(before));
        let lists = range.shards.iter().flat_map(|shard| {
            range.priorities.iter().map(|priority| JobList { shard: *shard, priority: *priority })
        });
        let to_ms = range.to_ms.unwrap_or(last_ms).min(last_ms);
        Self(Merge::new(lists.collect(), after, to_ms, expected))
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

impl Listed for JobList {
    type Place = JobPlace;

    fn place(ms: i64, id: Uuid) -> JobPlace {
        (ms, JobId::from_uuid(id))
    }

    fn sql(driver: &Driver, lists: &[&mut List<Self>], last_ms: i64) -> String {
        match driver {
            Driver::Postgres(_) => postgres(lists, last_ms),
            Driver::MySql(_) => mysql(lists, last_ms),
            Driver::Sqlite(_) => sqlite(lists, last_ms),
        }
    }
}

/// Each list is read by a walk through the index that stops at the limit. The id is in that index
/// as bytes.
fn postgres(lists: &[&mut List<JobList>], to_ms: i64) -> String {
    let row = |(at, list): (usize, &&mut List<JobList>)| {
        let List { listed: JobList { shard, priority }, after: (due, id), at_once, .. } = &**list;
        let priority = priority.rank();
        format!("({at}, {shard}, {priority}::smallint, {due}::bigint, '{id}'::uuid, {at_once})")
    };
    let rows: Vec<String> = lists.iter().enumerate().map(row).collect();
    format!(
        "select l.at, j.due_ms, j.id from (values {}) as l(at, shard, priority, due, id, size) \
         cross join lateral (select due_ms, id from scheduler_job \
         where shard = l.shard and priority = l.priority \
         and (due_ms, uuid_send(id)) > (l.due, uuid_send(l.id)) and due_ms < {to_ms} \
         order by due_ms, uuid_send(id) limit l.size) j",
        rows.join(", ")
    )
}

/// Each list is two reads that the index bounds: the rest of the place's own moment, and what is
/// later. One comparison of both columns would walk all jobs of that moment.
fn mysql(lists: &[&mut List<JobList>], to_ms: i64) -> String {
    let part = |(at, list): (usize, &&mut List<JobList>)| {
        let List { listed: JobList { shard, priority }, after: (due, id), at_once, .. } = &**list;
        let (priority, id) = (priority.rank(), id.as_u128());
        let same = format!("due_ms = {due} and id > x'{id:032x}'");
        let later = format!("due_ms > {due}");
        [same, later].map(|beyond| {
            format!(
                "(select {at} as at, due_ms, id from scheduler_job force index (primary) \
                 where shard = {shard} and priority = {priority} and {beyond} \
                 and due_ms < {to_ms} order by due_ms, id limit {at_once})"
            )
        })
    };
    lists.iter().enumerate().flat_map(part).collect::<Vec<_>>().join(" union all ")
}

fn sqlite(lists: &[&mut List<JobList>], to_ms: i64) -> String {
    let part = |(at, list): (usize, &&mut List<JobList>)| {
        let List { listed: JobList { shard, priority }, after: (due, id), at_once, .. } = &**list;
        let (priority, id) = (priority.rank(), id.as_u128());
        format!(
            "select * from (select {at} as at, due_ms, id from scheduler_job \
             where shard = {shard} and priority = {priority} \
             and (due_ms, id) > ({due}, x'{id:032x}') and due_ms < {to_ms} \
             order by due_ms, id limit {at_once})"
        )
    };
    lists.iter().enumerate().map(part).collect::<Vec<_>>().join(" union all ")
}
