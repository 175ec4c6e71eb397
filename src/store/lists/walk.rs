//! Walks through the jobs of several lists in the order of due time and id.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use uuid::Uuid;

use super::WalkRange;
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Priority;
use crate::store::{Driver, Result, Store};

/// The place of a job in the order of a list: its due time in epoch milliseconds, and its id.
pub type JobPlace = (i64, JobId);

/// Lists that one statement reads. SQLite allows 500 parts of a union.
const LISTS_AT_ONCE: usize = 200;
/// Places that are read of one list at once, at least and at most.
const AT_ONCE: (usize, usize) = (4, 500);
/// Before every job, and after every job, of any time that a request can have.
const BOUNDS_MS: (i64, i64) = (-(1 << 60), 1 << 60);

/// A walk through the jobs of a [`WalkRange`]. It holds places only, so that it is small however
/// large the jobs are.
#[derive(Debug)]
pub struct JobWalk {
    lists: Vec<List>,
    to_ms: i64,
}

/// The list of one shard and priority.
#[derive(Debug)]
struct List {
    shard: ShardId,
    priority: Priority,
    /// The last place that was read.
    after: JobPlace,
    places: VecDeque<JobPlace>,
    /// Places that are read next.
    at_once: usize,
    is_at_end: bool,
}

impl JobWalk {
    /// The walk through `range` after the place `after`, of which about `expected` places are
    /// wanted.
    pub fn new(range: &WalkRange, after: Option<JobPlace>, expected: usize) -> Self {
        let (first_ms, last_ms) = BOUNDS_MS;
        let from_ms = range.from_ms.unwrap_or(first_ms).clamp(first_ms, last_ms);
        let before = (from_ms - 1, JobId::from_bytes([0xff; 16]));
        let after = after.map_or(before, |after| after.max(before));
        let count = range.shards.len() * range.priorities.len();
        let (least, most) = AT_ONCE;
        let at_once = (2 * expected).checked_div(count).unwrap_or(0).clamp(least, most);
        let lists = range.shards.iter().flat_map(|shard| {
            range.priorities.iter().map(|priority| List {
                shard: *shard,
                priority: *priority,
                after,
                places: VecDeque::new(),
                at_once,
                is_at_end: false,
            })
        });
        Self { lists: lists.collect(), to_ms: range.to_ms.unwrap_or(last_ms).min(last_ms) }
    }

    /// The next `count` places in order; fewer at the end.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn next(&mut self, store: &Store, count: usize) -> Result<Vec<JobPlace>> {
        let mut found = Vec::with_capacity(count);
        loop {
            self.fill(store).await?;
            let firsts = self.lists.iter().enumerate();
            let firsts = firsts.filter_map(|(at, list)| Some(Reverse((*list.places.front()?, at))));
            let mut firsts: BinaryHeap<Reverse<(JobPlace, usize)>> = firsts.collect();
            loop {
                if found.len() == count {
                    return Ok(found);
                }
                let Some(Reverse((place, at))) = firsts.pop() else { return Ok(found) };
                let list = &mut self.lists[at];
                list.places.pop_front();
                found.push(place);
                match list.places.front() {
                    Some(next) => firsts.push(Reverse((*next, at))),
                    None if list.is_at_end => {}
                    // What follows in this list may come before the firsts of the others.
                    None => break,
                }
            }
        }
    }

    /// Whether there is a further place.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn has_more(&mut self, store: &Store) -> Result<bool> {
        self.fill(store).await?;
        Ok(self.lists.iter().any(|list| !list.places.is_empty()))
    }

    /// Reads places of every list of which none is known and which has not ended.
    async fn fill(&mut self, store: &Store) -> Result<()> {
        let mut empty: Vec<&mut List> = self
            .lists
            .iter_mut()
            .filter(|list| list.places.is_empty() && !list.is_at_end)
            .collect();
        for lists in empty.chunks_mut(LISTS_AT_ONCE) {
            let sql = match store.inner.driver {
                Driver::Postgres(_) => postgres(lists, self.to_ms),
                Driver::MySql(_) => mysql(lists, self.to_ms),
                Driver::Sqlite(_) => sqlite(lists, self.to_ms),
            };
            for row in store.query(&sql).await? {
                let at: i64 = match store.inner.driver {
                    Driver::Postgres(_) => i64::from(row.try_get_by_index::<i32>(0)?),
                    Driver::MySql(_) | Driver::Sqlite(_) => row.try_get_by_index(0)?,
                };
                let (due_ms, id): (i64, Uuid) =
                    (row.try_get_by_index(1)?, row.try_get_by_index(2)?);
                if let Some(list) = usize::try_from(at).ok().and_then(|at| lists.get_mut(at)) {
                    list.places.push_back((due_ms, JobId::from_uuid(id)));
                }
            }
            for list in lists {
                list.take_stock();
            }
        }
        Ok(())
    }
}

impl List {
    /// The places of the list were read.
    fn take_stock(&mut self) {
        // The two parts of a read on MySQL each have the limit.
        self.places.make_contiguous().sort_unstable();
        self.is_at_end = self.places.len() < self.at_once;
        self.places.truncate(self.at_once);
        self.after = self.places.back().copied().unwrap_or(self.after);
        self.at_once = (self.at_once * 2).min(AT_ONCE.1);
    }
}

/// Each list is read by a walk through the index that stops at the limit. The id is in that index
/// as bytes.
fn postgres(lists: &[&mut List], to_ms: i64) -> String {
    let row = |(at, list): (usize, &&mut List)| {
        let List { shard, priority, after: (due, id), at_once, .. } = &**list;
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
fn mysql(lists: &[&mut List], to_ms: i64) -> String {
    let part = |(at, list): (usize, &&mut List)| {
        let List { shard, priority, after: (due, id), at_once, .. } = &**list;
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

fn sqlite(lists: &[&mut List], to_ms: i64) -> String {
    let part = |(at, list): (usize, &&mut List)| {
        let List { shard, priority, after: (due, id), at_once, .. } = &**list;
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
