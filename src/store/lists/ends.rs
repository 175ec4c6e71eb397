//! Walks through the jobs that have ended, newest first, and reads those at some places.

use std::cmp::Reverse;

use infinite_scheduler_entity::job_history::{Column, Entity, Model};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryResult};
use uuid::Uuid;

use super::merge::{List, Listed, Merge};
use super::walk::BOUNDS_MS;
use super::{JobCount, SHARDS_AT_ONCE};
use crate::model::ids::{AppId, JobId, LedgerId};
use crate::model::job::{JobData, Priority};
use crate::store::{AttemptState, Driver, Result, Store};

/// The place of a job in the order of ended jobs: its end in epoch milliseconds, and its id. A
/// later one comes first.
pub type EndPlace = (i64, JobId);

/// Ids that one statement reads at most, and the first one.
const IDS_AT_ONCE: (usize, usize) = (500, 8);
/// About how many bytes a row has besides its texts.
const ROW_BYTES: usize = 300;

/// The jobs of some apps that ended in some states in a range of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndRange {
    /// The apps.
    pub apps: Vec<AppId>,
    /// The states.
    pub states: Vec<AttemptState>,
    /// Ended at this time or later, epoch milliseconds.
    pub from_ms: Option<i64>,
    /// Ended before this time, epoch milliseconds.
    pub to_ms: Option<i64>,
}

/// A job that has ended, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedRow {
    /// The job.
    pub id: JobId,
    /// Its app.
    pub app: AppId,
    /// How it ended.
    pub state: AttemptState,
    /// When it ended, epoch milliseconds.
    pub ended_ms: i64,
    /// The attempts that had ended with it.
    pub attempts: u32,
    /// Its request's id.
    pub request_id: String,
    /// When it was admitted, epoch milliseconds.
    pub created_ms: i64,
    /// When it was scheduled to fire, epoch milliseconds.
    pub scheduled_ms: i64,
    /// When its last attempt was due, epoch milliseconds.
    pub due_ms: i64,
    /// Its priority.
    pub priority: Priority,
    /// Of a job that failed for good, the error kind.
    pub kind: Option<String>,
    /// The error.
    pub error: Option<String>,
    /// Who cancelled it.
    pub cancelled_by: Option<String>,
    /// What its handler was given.
    pub data: JobData,
    /// The row of its record's partition in the ledger.
    pub ledger: Option<LedgerId>,
}

/// A walk through the jobs of an [`EndRange`], newest first.
#[derive(Debug)]
pub struct EndWalk(Merge<EndList>);

/// The list of one app and state.
#[derive(Clone, Copy, Debug)]
struct EndList {
    app: AppId,
    state: AttemptState,
}

impl EndWalk {
    /// The walk through `range` after the place `after`, of which about `expected` places are
    /// wanted.
    pub fn new(range: &EndRange, after: Option<EndPlace>, expected: usize) -> Self {
        let (first_ms, last_ms) = BOUNDS_MS;
        let to_ms = range.to_ms.unwrap_or(last_ms).clamp(first_ms, last_ms);
        let before = Reverse((to_ms, JobId::from_bytes([0; 16])));
        let after = after.map_or(before, |after| Reverse(after).max(before));
        let lists = range
            .apps
            .iter()
            .flat_map(|app| range.states.iter().map(|state| EndList { app: *app, state: *state }));
        let from_ms = range.from_ms.unwrap_or(first_ms).max(first_ms);
        Self(Merge::new(lists.collect(), after, from_ms, expected))
    }

    /// The next `count` places in order; fewer at the end.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn next(&mut self, store: &Store, count: usize) -> Result<Vec<EndPlace>> {
        let places = self.0.next(store, count).await?;
        Ok(places.into_iter().map(|Reverse(place)| place).collect())
    }

    /// Whether there is a further place.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn has_more(&mut self, store: &Store) -> Result<bool> {
        self.0.has_more(store).await
    }
}

impl Store {
    /// The ends of the jobs with these ids, until they have at least `max_bytes`. Returns them with
    /// the number of ids, from the first, that were queried.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn ends_by_id(
        &self,
        ids: &[JobId],
        max_bytes: usize,
    ) -> Result<(Vec<EndedRow>, usize)> {
        let (mut ends, mut bytes, mut queried) = (Vec::new(), 0, 0);
        let (most, mut at_once) = IDS_AT_ONCE;
        while queried < ids.len() && bytes < max_bytes {
            let some = &ids[queried..ids.len().min(queried + at_once)];
            let rows = Entity::find()
                .filter(Column::Id.is_in(some.iter().map(|id| id.uuid())))
                .filter(Column::State.ne(AttemptState::Retried.code()))
                .all(&self.inner.pool)
                .await?;
            ends.extend(rows.into_iter().map(EndedRow::of).inspect(|row| bytes += row.size()));
            queried += some.len();
            // The next ones are assumed to be as large as the mean of those so far.
            let mean = (bytes / queried).max(1);
            at_once = (max_bytes.saturating_sub(bytes) / mean).clamp(1, most.min(at_once * 4));
        }
        Ok((ends, queried))
    }

    /// How many jobs there are in `range`, counted up to [`JobCount::LIMIT`].
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn count_ends(&self, range: &EndRange) -> Result<JobCount> {
        let states: Vec<String> =
            range.states.iter().map(|state| state.code().to_string()).collect();
        let bounds = [(">=", range.from_ms), ("<", range.to_ms)].map(|(is, ms)| match ms {
            Some(ms) => format!(" and ended_ms {is} {ms}"),
            None => String::new(),
        });
        let mut jobs = 0;
        for apps in range.apps.chunks(SHARDS_AT_ONCE) {
            let apps: Vec<String> = apps.iter().map(AppId::to_string).collect();
            let sql = format!(
                "select count(*) from (select 1 as one from scheduler_job_history \
                 where app in ({}) and state in ({}){} limit {}) as counted",
                apps.join(", "),
                states.join(", "),
                bounds.concat(),
                JobCount::LIMIT + 1 - jobs,
            );
            jobs += self.counted(&sql).await?;
            if jobs > JobCount::LIMIT {
                break;
            }
        }
        Ok(JobCount::of(jobs))
    }
}

impl EndedRow {
    /// Its place in the order of ended jobs.
    pub fn place(&self) -> EndPlace {
        (self.ended_ms, self.id)
    }

    /// Roughly how many bytes it has.
    pub fn size(&self) -> usize {
        ROW_BYTES + self.data.as_str().len() + self.error.as_ref().map_or(0, String::len)
    }

    fn of(row: Model) -> Self {
        Self {
            id: JobId::from_uuid(row.id),
            app: AppId(row.app),
            state: AttemptState::of_code(row.state),
            ended_ms: row.ended_ms,
            attempts: row.attempt.try_into().unwrap_or(0),
            request_id: row.request_id,
            created_ms: row.created_ms,
            scheduled_ms: row.scheduled_ms,
            due_ms: row.due_ms,
            priority: Priority::from_rank(row.priority),
            kind: row.kind,
            error: row.error,
            cancelled_by: row.cancelled_by,
            data: JobData::from_trusted(row.data.unwrap_or_else(|| "{}".into())),
            ledger: row.ledger.map(LedgerId),
        }
    }
}

impl Listed for EndList {
    type Place = Reverse<EndPlace>;

    fn place(row: &QueryResult) -> Result<Self::Place, DbErr> {
        let (ms, id): (i64, Uuid) = (row.try_get_by_index(1)?, row.try_get_by_index(2)?);
        Ok(Reverse((ms, JobId::from_uuid(id))))
    }

    fn sql(driver: &Driver, lists: &[&mut List<Self>], first_ms: i64) -> String {
        match driver {
            Driver::Postgres(_) => postgres(lists, first_ms),
            Driver::MySql(_) => mysql(lists, first_ms),
            Driver::Sqlite(_) => sqlite(lists, first_ms),
        }
    }
}

/// Each list is read by a walk through the index that stops at the limit.
fn postgres(lists: &[&mut List<EndList>], first_ms: i64) -> String {
    let row = |(at, list): (usize, &&mut List<EndList>)| {
        let List { listed: EndList { app, state }, after: Reverse((ended, id)), at_once, .. } =
            &**list;
        let state = state.code();
        format!("({at}, {app}, {state}::smallint, {ended}::bigint, '{id}'::uuid, {at_once})")
    };
    let rows: Vec<String> = lists.iter().enumerate().map(row).collect();
    format!(
        "select l.at, h.ended_ms, h.id from (values {}) as l(at, app, state, ended, id, size) \
         cross join lateral (select ended_ms, id from scheduler_job_history \
         where app = l.app and state = l.state and ended_ms <= l.ended \
         and (ended_ms < l.ended or id < l.id) and ended_ms >= {first_ms} \
         order by ended_ms desc, id desc limit l.size) h",
        rows.join(", ")
    )
}

/// Each list is two reads that the index bounds: the rest of the place's own moment, and what is
/// earlier.
fn mysql(lists: &[&mut List<EndList>], first_ms: i64) -> String {
    let part = |(at, list): (usize, &&mut List<EndList>)| {
        let List { listed: EndList { app, state }, after: Reverse((ended, id)), at_once, .. } =
            &**list;
        let (state, id) = (state.code(), id.as_u128());
        let same = format!("ended_ms = {ended} and id < x'{id:032x}'");
        let earlier = format!("ended_ms < {ended}");
        [same, earlier].map(|beyond| {
            format!(
                "(select {at} as at, ended_ms, id from scheduler_job_history \
                 force index (primary) where app = {app} and state = {state} and {beyond} \
                 and ended_ms >= {first_ms} order by ended_ms desc, id desc limit {at_once})"
            )
        })
    };
    lists.iter().enumerate().flat_map(part).collect::<Vec<_>>().join(" union all ")
}

fn sqlite(lists: &[&mut List<EndList>], first_ms: i64) -> String {
    let part = |(at, list): (usize, &&mut List<EndList>)| {
        let List { listed: EndList { app, state }, after: Reverse((ended, id)), at_once, .. } =
            &**list;
        let (state, id) = (state.code(), id.as_u128());
        format!(
            "select * from (select {at} as at, ended_ms, id from scheduler_job_history \
             where app = {app} and state = {state} \
             and (ended_ms, id) < ({ended}, x'{id:032x}') and ended_ms >= {first_ms} \
             order by ended_ms desc, id desc limit {at_once})"
        )
    };
    lists.iter().enumerate().map(part).collect::<Vec<_>>().join(" union all ")
}
