//! Pausing and resuming, of an app and of a consumer group's ingest, and retiring an app: each by
//! compare-and-set on what was seen, with its entry in the audit.

use infinite_scheduler_entity::{app, ingest_group, shard};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::apps::pause_of;
use super::overrides::overrides_of;
use super::steps::{Step, Value};
use super::{AppOverrides, AppRules, DueJobs, Error, OrderingKey, Result, Store, audit};
use crate::model::app::Delivery;
use crate::model::audit::AuditEntry;
use crate::model::ids::{AppId, ShardId};
use crate::model::job::Priority;
use crate::model::limits::LimitValues;
use crate::model::pause::{AppPause, Pause};

/// An app as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppState {
    /// The app.
    pub id: AppId,
    /// Its name.
    pub name: String,
    /// Its pause, if it is paused.
    pub pause: Option<AppPause>,
    /// What is promised of its jobs when something fails.
    pub delivery: Delivery,
    /// What is configured of its limits.
    pub configured: LimitValues,
    /// What wins over that, if anything does.
    pub overrides: Option<AppOverrides>,
}

/// What keeps an app from being retired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppInUse {
    /// Its jobs that have not ended, up to [`DueJobs::LIMIT`] and one more.
    pub jobs: u64,
    /// What waits to be published of its jobs, up to as many.
    pub unpublished: u64,
    /// The names of the instances that are alive and have it.
    pub instances: Vec<String>,
}

impl AppInUse {
    /// Whether nothing keeps it.
    pub fn is_none(&self) -> bool {
        self.jobs == 0 && self.unpublished == 0 && self.instances.is_empty()
    }
}

impl Store {
    /// The app of that name, unless it is retired or was never registered.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database does not answer.
    pub async fn app_state(&self, name: &str) -> Result<Option<AppState>> {
        let query = app::Entity::find()
            .filter(app::Column::Name.eq(name))
            .filter(app::Column::DeletedMs.is_null());
        let Some(row) = query.one(&self.inner.pool).await? else { return Ok(None) };
        let rules = AppRules::read(&row.name, &row.rules, row.overrides.as_deref())?;
        Ok(Some(AppState {
            id: AppId(row.id),
            pause: pause_of(&row),
            delivery: rules.policy.delivery,
            configured: rules.policy.limits,
            overrides: overrides_of(&row),
            name: row.name,
        }))
    }

    /// Pauses the app, changes its pause, or resumes it. False if it is not as it was `seen`.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done; ask what is there.
    pub async fn set_app_pause(
        &self,
        seen: &AppState,
        to: Option<&AppPause>,
        entry: &AuditEntry,
    ) -> Result<bool> {
        let seen_ms = seen.pause.as_ref().map(|seen| seen.pause.since_ms);
        let (as_seen, seen_ms) = paused_as_seen(seen_ms);
        let refuses = to.is_some_and(|to| to.refuses_requests);
        let update = format!(
            "update scheduler_app set paused_ms = ?, paused_by = ?, pause_reason = ?, \
             refuse_requests = {refuses} where id = ? and deleted_ms is null and {as_seen}"
        );
        let mut values = pause_values(to.map(|to| &to.pause));
        values.push(seen.id.0.into());
        values.extend(seen_ms);
        self.transact(vec![Step::one(update, values), audit::step(entry)]).await
    }

    /// Retires the app: it is unknown until it is registered again. Its row and its shards stay,
    /// so that a job that is admitted at this moment is not lost. What keeps it from that is
    /// returned, and then it is as it was; the moment is the entry's.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done; ask what is there.
    pub async fn retire_app(&self, seen: &AppState, entry: &AuditEntry) -> Result<AppInUse> {
        let shards = shard::Entity::find().filter(shard::Column::App.eq(seen.id.0));
        let shards: Vec<ShardId> =
            shards.all(&self.inner.pool).await?.into_iter().map(|row| ShardId(row.id)).collect();
        let in_use = self.what_uses(seen.id, &shards).await?;
        if !in_use.is_none() {
            return Ok(in_use);
        }
        let no_jobs = match shards.is_empty() {
            true => String::new(),
            false => {
                format!("and not exists (select 1 from scheduler_job where {})", jobs_of(&shards))
            }
        };
        let update = format!(
            "update scheduler_app set deleted_ms = ?, paused_ms = null, paused_by = null, \
             pause_reason = null, refuse_requests = false, overrides = null, \
             overridden_ms = null, overridden_by = null \
             where id = ? and deleted_ms is null {no_jobs}"
        );
        let values = vec![entry.at_ms.into(), seen.id.0.into()];
        match self.transact(vec![Step::one(update, values), audit::step(entry)]).await? {
            true => Ok(in_use),
            // A job has come meanwhile, or another caller has retired it.
            false => self.what_uses(seen.id, &shards).await,
        }
    }

    async fn what_uses(&self, app: AppId, shards: &[ShardId]) -> Result<AppInUse> {
        let (jobs, unpublished) = match shards.is_empty() {
            true => (0, 0),
            false => {
                let keys: Vec<String> = shards
                    .iter()
                    .map(|shard| OrderingKey::Shard(*shard).number().to_string())
                    .collect();
                let jobs = format!("scheduler_job where {}", jobs_of(shards));
                let letters =
                    format!("scheduler_outbox where ordering_key in ({})", keys.join(", "));
                (self.count_some(&jobs).await?, self.count_some(&letters).await?)
            }
        };
        let mut instances: Vec<String> = self
            .living_instances()
            .await?
            .into_iter()
            .filter(|instance| {
                let apps: Vec<i32> = serde_json::from_str(&instance.apps).unwrap_or_default();
                apps.contains(&app.0)
            })
            .map(|instance| instance.name)
            .collect();
        instances.sort_unstable();
        Ok(AppInUse { jobs, unpublished, instances })
    }

    async fn count_some(&self, rows: &str) -> Result<u64> {
        let most = DueJobs::LIMIT + 1;
        let count =
            format!("select count(*) from (select 1 as one from {rows} limit {most}) as counted");
        let rows = self.query(&count).await?;
        let count: i64 = rows.first().map_or(Ok(0), |row| row.try_get_by_index(0))?;
        Ok(count.unsigned_abs())
    }

    /// The pause of the consumer group's ingest, if it is paused.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database does not answer.
    pub async fn ingest_pause(&self, group: &str) -> Result<Option<Pause>> {
        let query =
            ingest_group::Entity::find().filter(ingest_group::Column::ConsumerGroup.eq(group));
        let row = query.one(&self.inner.pool).await?;
        Ok(row.and_then(|row| {
            let ingest_group::Model { paused_ms, paused_by, pause_reason, .. } = row;
            let by = paused_by.unwrap_or_default();
            Some(Pause { since_ms: paused_ms?, by, reason: pause_reason })
        }))
    }

    /// Pauses the ingest of a consumer group, changes its pause, or resumes it. False if it is not
    /// as it was `seen`.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done; ask what is there.
    pub async fn set_ingest_pause(
        &self,
        group: &str,
        seen: Option<&Pause>,
        to: Option<&Pause>,
        entry: &AuditEntry,
    ) -> Result<bool> {
        if seen.is_none() {
            self.insert_group(group).await?;
        }
        let (as_seen, seen_ms) = paused_as_seen(seen.map(|seen| seen.since_ms));
        let update = format!(
            "update scheduler_ingest_group set paused_ms = ?, paused_by = ?, pause_reason = ? \
             where consumer_group = ? and {as_seen}"
        );
        let mut values = pause_values(to);
        values.push(group.into());
        values.extend(seen_ms);
        self.transact(vec![Step::one(update, values), audit::step(entry)]).await
    }

    /// A row for the group, unless there is one.
    async fn insert_group(&self, group: &str) -> Result<()> {
        let new = ingest_group::ActiveModel {
            id: NotSet,
            consumer_group: Set(group.to_owned()),
            paused_ms: Set(None),
            paused_by: Set(None),
            pause_reason: Set(None),
        };
        let _permit = self.write_permit().await;
        let inserted =
            ingest_group::Entity::insert(new).exec_without_returning(&self.inner.pool).await;
        match inserted.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The condition that `paused_ms` is as it was seen, with its value if it has one.
fn paused_as_seen(seen_ms: Option<i64>) -> (&'static str, Option<Value>) {
    match seen_ms {
        Some(ms) => ("paused_ms = ?", Some(ms.into())),
        None => ("paused_ms is null", None),
    }
}

fn pause_values(to: Option<&Pause>) -> Vec<Value> {
    let since_ms = to.map(|to| to.since_ms);
    let by = to.map(|to| to.by.clone());
    vec![since_ms.into(), by.into(), to.and_then(|to| to.reason.clone()).into()]
}

/// The condition of jobs of these shards that have not ended.
fn jobs_of(shards: &[ShardId]) -> String {
    let shards: Vec<String> = shards.iter().map(ShardId::to_string).collect();
    let ranks = Priority::ALL.map(|priority| priority.rank().to_string()).join(", ");
    format!("shard in ({}) and priority in ({ranks})", shards.join(", "))
}
