//! Lists of jobs across shards: their places in the order of due time and id, or of their ends, and
//! counts that are bounded.
//!
//! The index of the firing order has a list for each shard and priority. A walk reads the places
//! of some jobs of each and merges them, so that lists for people need no index of their own, which
//! each admission and each firing would have to maintain.

mod ends;
mod merge;
mod walk;

use infinite_scheduler_entity::{app, idempotency_key, ingest_offset, shard};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{Result, Store};
use crate::model::filter::TopicPartition;
use crate::model::ids::{AppId, JobId, KeyId, LedgerId, ShardId};
use crate::model::job::Priority;

pub use ends::{EndPlace, EndRange, EndWalk, EndedRow};
pub use walk::{JobPlace, JobVersion, JobWalk, VersionWalk};

/// Shards or apps whose jobs one statement counts.
const SHARDS_AT_ONCE: usize = 100;

/// An app and its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppShards {
    /// The app.
    pub id: AppId,
    /// Its name.
    pub name: String,
    /// Its shards.
    pub shards: Vec<ShardId>,
}

/// The jobs of some shards that are due in a range of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkRange {
    /// The shards.
    pub shards: Vec<ShardId>,
    /// The priorities.
    pub priorities: Vec<Priority>,
    /// Due at this time or later, epoch milliseconds.
    pub from_ms: Option<i64>,
    /// Due before this time, epoch milliseconds.
    pub to_ms: Option<i64>,
    /// Only jobs without an attempt that runs. A walk has the others as well.
    pub idle: bool,
}

/// How many jobs there are, counted up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobCount {
    /// The jobs that were counted.
    pub jobs: u64,
    /// Whether there may be more.
    pub has_more: bool,
}

impl JobCount {
    /// More are not counted.
    pub const LIMIT: u64 = 10_000;

    /// The count of `jobs`, of which one beyond the limit was counted if there are more.
    fn of(jobs: u64) -> Self {
        Self { jobs: jobs.min(Self::LIMIT), has_more: jobs > Self::LIMIT }
    }
}

impl Store {
    /// Every app that was ever registered, by name, with its shards.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn apps_with_shards(&self) -> Result<Vec<AppShards>> {
        let rows = app::Entity::find().all(&self.inner.pool).await?;
        let app =
            |row: app::Model| AppShards { id: AppId(row.id), name: row.name, shards: Vec::new() };
        let mut apps: Vec<AppShards> = rows.into_iter().map(app).collect();
        let shards = shard::Entity::find().order_by_asc(shard::Column::Id);
        apps.sort_unstable_by_key(|app| app.id);
        for row in shards.all(&self.inner.pool).await? {
            if let Ok(place) = apps.binary_search_by_key(&AppId(row.app), |app| app.id) {
                apps[place].shards.push(ShardId(row.id));
            }
        }
        // Not by the database, which has an order of its own for texts.
        apps.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(apps)
    }

    /// The jobs that these idempotency keys refer to; they may have ended.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn jobs_of_keys(&self, keys: &[KeyId]) -> Result<Vec<JobId>> {
        let mut jobs = Vec::new();
        for some in keys.chunks(SHARDS_AT_ONCE) {
            let ids = some.iter().map(|key| Uuid::from_bytes(key.into_bytes()));
            let query = idempotency_key::Entity::find()
                .select_only()
                .column(idempotency_key::Column::Job)
                .filter(idempotency_key::Column::Id.is_in(ids));
            let rows: Vec<Uuid> = query.into_tuple().all(&self.inner.pool).await?;
            jobs.extend(rows.into_iter().map(JobId::from_uuid));
        }
        Ok(jobs)
    }

    /// The ledger rows of a partition, one for each group that has read it.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn ledgers_of(&self, partition: &TopicPartition) -> Result<Vec<LedgerId>> {
        let query = ingest_offset::Entity::find()
            .select_only()
            .column(ingest_offset::Column::Id)
            .filter(ingest_offset::Column::Topic.eq(&*partition.topic))
            .filter(ingest_offset::Column::Number.eq(partition.partition.0));
        let rows: Vec<i32> = query.into_tuple().all(&self.inner.pool).await?;
        Ok(rows.into_iter().map(LedgerId).collect())
    }

    /// How many jobs there are in `range`, counted up to [`JobCount::LIMIT`].
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn count_jobs(&self, range: &WalkRange) -> Result<JobCount> {
        let priorities: Vec<String> =
            range.priorities.iter().map(|priority| priority.rank().to_string()).collect();
        let bounds = [(">=", range.from_ms), ("<", range.to_ms)].map(|(is, ms)| match ms {
            Some(ms) => format!(" and due_ms {is} {ms}"),
            None => String::new(),
        });
        let idle = match range.idle {
            true => {
                " and (started_by is null or started_by not in \
                 (select id from scheduler_instance where not dead))"
            }
            false => "",
        };
        let mut jobs = 0;
        for shards in range.shards.chunks(SHARDS_AT_ONCE) {
            let shards: Vec<String> = shards.iter().map(ShardId::to_string).collect();
            let sql = format!(
                "select count(*) from (select 1 as one from scheduler_job where shard in ({}) \
                 and priority in ({}){}{idle} limit {}) as counted",
                shards.join(", "),
                priorities.join(", "),
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

    /// The number that a query reads.
    async fn counted(&self, sql: &str) -> Result<u64> {
        let rows = self.query(sql).await?;
        let counted: i64 = rows.first().map_or(Ok(0), |row| row.try_get_by_index(0))?;
        Ok(counted.unsigned_abs())
    }
}
