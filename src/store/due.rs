//! How many jobs of an app are due, counted up to a limit.

use std::collections::BTreeMap;

use infinite_scheduler_entity::app;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::{Driver, Result, Store};
use crate::model::ids::{AppId, ShardId};
use crate::model::job::Priority;

/// The most apps whose jobs are counted by one statement.
const COUNTED_TOGETHER: usize = 100;

/// How many jobs of an app are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueJobs {
    /// The app.
    pub app: AppId,
    /// Its name.
    pub name: String,
    /// The number of jobs; [`LIMIT`](Self::LIMIT) + 1 means more than the limit.
    pub jobs: u64,
}

impl DueJobs {
    /// The largest number that is counted exactly.
    pub const LIMIT: u64 = 10_000;
}

impl Store {
    /// Counts the jobs in these shards of each app that are due by `now_ms`, up to
    /// [`DueJobs::LIMIT`] + 1 for each app. Apps without such a job are not in the result.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn count_due(
        &self,
        apps: &[(AppId, Vec<ShardId>)],
        now_ms: i64,
    ) -> Result<Vec<DueJobs>> {
        let mut counted: BTreeMap<i32, u64> = BTreeMap::new();
        for apps in apps.chunks(COUNTED_TOGETHER) {
            let counts = apps.iter().map(|(app, shards)| {
                let shards: Vec<String> = shards.iter().map(ShardId::to_string).collect();
                format!(
                    "select {app} as app, count(*) as due from (select 1 as one \
                     from scheduler_job where shard in ({}) and priority in ({}) \
                     and due_ms <= {now_ms} limit {}) as counted",
                    shards.join(", "),
                    Priority::ALL.map(|priority| priority.rank().to_string()).join(", "),
                    DueJobs::LIMIT + 1
                )
            });
            let counts: Vec<String> = counts.collect();
            for row in self.query(&counts.join(" union all ")).await? {
                let due: i64 = row.try_get_by_index(1)?;
                let app: i64 = match self.inner.driver {
                    Driver::Postgres(_) => i64::from(row.try_get_by_index::<i32>(0)?),
                    _ => row.try_get_by_index(0)?,
                };
                if due > 0 {
                    counted.insert(i32::try_from(app).unwrap_or_default(), due.unsigned_abs());
                }
            }
        }
        if counted.is_empty() {
            return Ok(Vec::new());
        }
        let query = app::Entity::find().filter(app::Column::Id.is_in(counted.keys().copied()));
        let due = |row: app::Model| DueJobs {
            app: AppId(row.id),
            jobs: counted.get(&row.id).copied().unwrap_or_default(),
            name: row.name,
        };
        Ok(query.all(&self.inner.pool).await?.into_iter().map(due).collect())
    }
}
