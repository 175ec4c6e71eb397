//! Registered apps, with the rules that every instance checks.

use std::collections::{HashMap, HashSet};

use infinite_scheduler_entity::{app, shard};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
};
use serde::{Deserialize, Serialize};

use super::{Error, Result, Store};
use crate::model::app::{AppConfig, Delivery};
use crate::model::ids::{AppId, JobId, ShardId, shard_number_of};
use crate::model::limits::LimitValues;
use crate::model::pause::{AppPause, Pause};
use crate::model::schema::JobSchema;
use crate::model::target::TargetKind;

/// The most rows of one statement.
const BATCH: usize = 500;
/// How many times an insert that conflicts with other instances is retried.
const RACES: usize = 20;

/// An app's row and its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRow {
    /// The app.
    pub id: AppId,
    /// Its name.
    pub name: String,
    /// The rules for its requests, checked by every instance.
    pub rules: AppRules,
    /// Its shards, in order of their number.
    pub shards: Vec<ShardId>,
    /// How many it had when it was first registered.
    pub first_shards: u32,
    /// Its pause, if it is paused.
    pub pause: Option<AppPause>,
}

impl AppRow {
    /// The shard of a job that its admitting instance does not put into a shard of its own. Jobs
    /// with the same `concurrency_key` always have the same home, since it is one of the shards
    /// that the app had at first.
    pub fn home_of(&self, job: JobId, concurrency_key: Option<&str>) -> Option<ShardId> {
        let Some(key) = concurrency_key else { return job.one_of(&self.shards).copied() };
        let number = shard_number_of(&self.name, key, self.first_shards);
        self.shards.get(usize::try_from(number).ok()?).copied()
    }
}

/// The requirements of an app for `jobData`, and its policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppRules {
    /// Fields that must be present and not null.
    pub required_fields: Vec<String>,
    /// The JSON Schema of `jobData`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<JobSchema>,
    /// The limits of attempts, for the instances that fire its jobs and to be shown.
    pub policy: AppPolicy,
}

/// The limits of an app's attempts and their history, as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppPolicy {
    /// What is promised of a job when something fails.
    pub delivery: Delivery,
    /// The number of failed attempts after which a job becomes a dead letter.
    pub max_attempts: u32,
    /// How long one attempt may take, milliseconds.
    pub timeout_ms: u64,
    /// What is configured of the limits that can be changed while the app runs.
    pub limits: LimitValues,
    /// How long the history of what succeeded is kept, milliseconds; 0: not at all.
    pub history_ms: u64,
}

impl AppRules {
    /// Reads the rules of an app's row; `max_attempts` and `timeout_ms` are those in force.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if a newer version has written them in another form.
    pub(super) fn read(app: &str, rules: &str, overrides: Option<&str>) -> Result<Self> {
        let mut rules: Self = serde_json::from_str(rules).map_err(|error| {
            Error::Unavailable(format!("the rules of app {app} cannot be read: {error}"))
        })?;
        let overrides = overrides.map_or_else(LimitValues::default, read_overrides);
        if let Some(max_attempts) = overrides.max_attempts {
            rules.policy.max_attempts = max_attempts.get();
        }
        if let Some(timeout_ms) = overrides.timeout_ms {
            rules.policy.timeout_ms = timeout_ms.get();
        }
        Ok(rules)
    }

    fn of(config: &AppConfig) -> Self {
        Self {
            required_fields: config.required_fields.clone(),
            schema: config.schema.clone(),
            policy: AppPolicy {
                delivery: config.delivery,
                limits: LimitValues::of(config),
                max_attempts: config.max_attempts.get(),
                timeout_ms: u64::try_from(config.timeout.as_millis()).unwrap_or(u64::MAX),
                history_ms: u64::try_from(config.history.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }
}

impl Store {
    /// Registers one app, as [`register_apps`](Self::register_apps) does.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable; the call can be repeated.
    pub async fn register_app(&self, config: &AppConfig, now_ms: i64) -> Result<AppRow> {
        let mut rows = self.register_apps(&[config], now_ms).await?;
        rows.pop().ok_or_else(|| not_registered(&config.name))
    }

    /// Registers apps with their rules and shards, in few statements however many they are. Returns
    /// their rows in the same order. The number of an app's shards can only grow, because jobs
    /// never change their shard. Other instances see an app as soon as it has one shard.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable; the call can be repeated.
    pub async fn register_apps(&self, configs: &[&AppConfig], now_ms: i64) -> Result<Vec<AppRow>> {
        let mut rows = Vec::with_capacity(configs.len());
        for batch in configs.chunks(BATCH) {
            let mut found = self.find_or_insert_apps(batch, now_ms).await?;
            self.update_rules(batch, &mut found).await?;
            let mut shards = self.find_or_insert_shards(&found).await?;
            for config in batch {
                let app = found.get(&config.name).ok_or_else(|| not_registered(&config.name))?;
                rows.push(AppRow {
                    id: AppId(app.id),
                    name: app.name.clone(),
                    rules: AppRules::of(config),
                    shards: shards.remove(&app.id).unwrap_or_default(),
                    first_shards: first_shards_of(app),
                    pause: pause_of(app),
                });
            }
        }
        Ok(rows)
    }

    /// The app with this name, if it was ever registered. An app without its first shards is being
    /// registered at the moment and is not returned, because its jobs could not be stored yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn find_app(&self, name: &str) -> Result<Option<AppRow>> {
        let query = app::Entity::find()
            .filter(app::Column::Name.eq(name))
            .filter(app::Column::DeletedMs.is_null());
        let Some(row) = query.one(&self.inner.pool).await? else { return Ok(None) };
        let shards = self.shards_of(AppId(row.id)).await?;
        let first_shards = first_shards_of(&row);
        if shards.is_empty() || shards.len() < first_shards as usize {
            return Ok(None);
        }
        // With default rules, requests would be accepted that the app does not allow.
        let rules = AppRules::read(name, &row.rules, row.overrides.as_deref())?;
        let pause = pause_of(&row);
        Ok(Some(AppRow { id: AppId(row.id), name: row.name, rules, shards, first_shards, pause }))
    }

    async fn find_or_insert_apps(
        &self,
        configs: &[&AppConfig],
        now_ms: i64,
    ) -> Result<HashMap<String, app::Model>> {
        let names = || configs.iter().map(|config| config.name.as_str());
        for _ in 0..RACES {
            let query = app::Entity::find().filter(app::Column::Name.is_in(names()));
            let rows = query.all(&self.inner.pool).await?;
            let found: HashMap<String, app::Model> =
                rows.into_iter().map(|row| (row.name.clone(), row)).collect();
            let missing = configs.iter().filter(|config| !found.contains_key(&config.name));
            let missing: Vec<app::ActiveModel> = missing
                .map(|config| app::ActiveModel {
                    id: NotSet,
                    name: Set(config.name.clone()),
                    shards: Set(shards_of(config)),
                    first_shards: Set(shards_of(config)),
                    rules: Set(encode(&AppRules::of(config))),
                    created_ms: Set(now_ms),
                    paused_ms: Set(None),
                    paused_by: Set(None),
                    pause_reason: Set(None),
                    refuse_requests: Set(false),
                    rate_ns: Set(0),
                    overrides: Set(None),
                    overridden_ms: Set(None),
                    overridden_by: Set(None),
                    deleted_ms: Set(None),
                })
                .collect();
            if missing.is_empty() {
                return Ok(found);
            }
            self.insert(missing).await?;
        }
        Err(Error::Unavailable("other instances are registering the same apps".into()))
    }

    /// Inserts all of `rows`, or none if another instance inserted one of them first. In both cases
    /// the caller reads the rows again.
    async fn insert<A>(&self, rows: Vec<A>) -> Result<()>
    where
        A: ActiveModelTrait + Send,
    {
        let _permit = self.write_permit().await;
        let inserted = A::Entity::insert_many(rows).exec_without_returning(&self.inner.pool).await;
        match inserted.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Updates the rules to those of the configuration, and may raise the number of shards. A
    /// deleted app exists again; a pause remains.
    ///
    /// # Errors
    /// [`Error::Unusable`] if a newer version has given an app a dispatch target that this version
    /// does not know.
    async fn update_rules(
        &self,
        configs: &[&AppConfig],
        found: &mut HashMap<String, app::Model>,
    ) -> Result<()> {
        let mut changed = Vec::new();
        for config in configs {
            let Some(row) = found.get_mut(&config.name) else { continue };
            check_target(row)?;
            let shards = shards_of(config).max(row.shards);
            let rules = encode(&AppRules::of(config));
            if shards != row.shards || rules != row.rules || row.deleted_ms.is_some() {
                (row.shards, row.rules, row.deleted_ms) = (shards, rules, None);
                changed.push(row.clone());
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        // In the same order in every instance, to avoid deadlocks.
        changed.sort_unstable_by_key(|row| row.id);
        let _permit = self.write_permit().await;
        let transaction = self.begin().await?;
        for row in changed {
            let mut change = row.clone().into_active_model();
            (change.shards, change.rules) = (Set(row.shards), Set(row.rules));
            change.deleted_ms = Set(None);
            change.update(&transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The shards of these apps, each app's in order of their numbers.
    async fn find_or_insert_shards(
        &self,
        apps: &HashMap<String, app::Model>,
    ) -> Result<HashMap<i32, Vec<ShardId>>> {
        for _ in 0..RACES {
            let query = shard::Entity::find()
                .filter(shard::Column::App.is_in(apps.values().map(|app| app.id)))
                .order_by_asc(shard::Column::App)
                .order_by_asc(shard::Column::Number);
            let mut existing: HashMap<i32, Vec<shard::Model>> = HashMap::new();
            for row in query.all(&self.inner.pool).await? {
                existing.entry(row.app).or_default().push(row);
            }
            let mut missing = Vec::new();
            for app in apps.values() {
                let known: HashSet<i32> =
                    existing.get(&app.id).into_iter().flatten().map(|row| row.number).collect();
                let numbers = (0..app.shards).filter(|number| !known.contains(number));
                missing.extend(numbers.map(|number| shard::ActiveModel {
                    id: NotSet,
                    app: Set(app.id),
                    number: Set(number),
                    owner: Set(None),
                    epoch: Set(0),
                }));
            }
            if missing.is_empty() {
                let ids =
                    |rows: Vec<shard::Model>| rows.iter().map(|row| ShardId(row.id)).collect();
                return Ok(existing.into_iter().map(|(app, rows)| (app, ids(rows))).collect());
            }
            for rows in missing.chunks(BATCH) {
                self.insert(rows.to_vec()).await?;
            }
        }
        Err(Error::Unavailable("other instances are registering the same shards".into()))
    }

    /// The shards of an app.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn shards_of(&self, app: AppId) -> Result<Vec<ShardId>> {
        let rows = shard::Entity::find()
            .filter(shard::Column::App.eq(app.0))
            .order_by_asc(shard::Column::Number)
            .all(&self.inner.pool)
            .await?;
        Ok(rows.into_iter().map(|row| ShardId(row.id)).collect())
    }
}

fn shards_of(config: &AppConfig) -> i32 {
    i32::try_from(config.shards.get()).unwrap_or(i32::MAX)
}

/// The dispatch target in an app's rules. Without one, the configuration of the instance that
/// fires its jobs decides.
#[derive(Deserialize)]
struct StoredTarget {
    dispatch: Option<serde_json::Value>,
}

fn check_target(row: &app::Model) -> Result<()> {
    // Rules in an unknown form have no target that could be compared.
    let stored: Option<StoredTarget> = serde_json::from_str(&row.rules).ok();
    let Some(target) = stored.and_then(|stored| stored.dispatch) else { return Ok(()) };
    let name = target.as_str().map_or_else(|| target.to_string(), str::to_owned);
    let known = TargetKind::ALL.map(TargetKind::as_str);
    if known.contains(&name.as_str()) {
        return Ok(());
    }
    Err(Error::Unusable(format!(
        "the row of app {} names the dispatch target {name:?}, which version {} does not know \
         (it knows {}): update this instance, or set another target with the version that set \
         this one",
        row.name,
        env!("CARGO_PKG_VERSION"),
        known.join(", "),
    )))
}

fn first_shards_of(row: &app::Model) -> u32 {
    u32::try_from(row.first_shards).unwrap_or(1)
}

pub(super) fn pause_of(row: &app::Model) -> Option<AppPause> {
    Some(AppPause {
        pause: Pause {
            since_ms: row.paused_ms?,
            by: row.paused_by.clone().unwrap_or_default(),
            reason: row.pause_reason.clone(),
        },
        refuses_requests: row.refuse_requests,
    })
}

/// Overrides of a newer version's that this one does not know have no effect on it.
pub(super) fn read_overrides(json: &str) -> LimitValues {
    serde_json::from_str(json).unwrap_or_default()
}

fn not_registered(app: &str) -> Error {
    Error::Unavailable(format!("app {app} is not registered yet"))
}

fn encode(rules: &AppRules) -> String {
    serde_json::to_string(rules).unwrap_or_default()
}
