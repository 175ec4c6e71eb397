//! Apps that were ever registered, with the rules that any instance checks.

use infinite_scheduler_entity::{app, shard};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
};
use serde::{Deserialize, Serialize};

use super::{Error, Result, Store};
use crate::model::app::AppConfig;
use crate::model::ids::{AppId, ShardId};
use crate::model::schema::JobSchema;

/// An app's row and its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRow {
    /// The app.
    pub id: AppId,
    /// Its name.
    pub name: String,
    /// What a request must meet, checked by whatever instance reads it.
    pub rules: AppRules,
    /// Its shards, in order of their number.
    pub shards: Vec<ShardId>,
}

/// What an app demands of a request's `jobData`, and its policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppRules {
    /// Fields that must be there and not null.
    pub required_fields: Vec<String>,
    /// What `jobData` must look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<JobSchema>,
    /// How its jobs are tried, for people and for whoever fires them next.
    pub policy: AppPolicy,
}

/// The part of an app's configuration that says how its jobs are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppPolicy {
    /// Attempts before a job is a dead letter.
    pub max_attempts: u32,
    /// How long one attempt may take, milliseconds.
    pub timeout_ms: u64,
}

impl AppRules {
    fn of(config: &AppConfig) -> Self {
        Self {
            required_fields: config.required_fields.clone(),
            schema: config.schema.clone(),
            policy: AppPolicy {
                max_attempts: config.max_attempts.get(),
                timeout_ms: u64::try_from(config.timeout.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }
}

impl Store {
    /// Writes down that the app exists, its rules and its shards. Shards may grow in
    /// number and never shrink: jobs live in them. For others the app is there with its
    /// first shard.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: call again, all of it can be repeated.
    pub async fn register_app(&self, config: &AppConfig, now_ms: i64) -> Result<AppRow> {
        let rules = AppRules::of(config);
        let wanted = i32::try_from(config.shards.get()).unwrap_or(i32::MAX);
        let found = self.find_or_insert_app(config, &rules, wanted, now_ms).await?;
        let shards = wanted.max(found.shards);
        if shards != found.shards || found.rules != encode(&rules) {
            let mut row = found.clone().into_active_model();
            row.shards = Set(shards);
            row.rules = Set(encode(&rules));
            let _turn = self.turn().await;
            row.update(&self.inner.pool).await?;
        }
        self.insert_missing_shards(found.id, shards).await?;
        let shards = self.shards_of(found.id).await?;
        Ok(AppRow { id: AppId(found.id), name: found.name, rules, shards })
    }

    /// The app of that name, if it was ever registered. One without shards is being
    /// registered just now: there is no place for its jobs yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn find_app(&self, name: &str) -> Result<Option<AppRow>> {
        let query = app::Entity::find().filter(app::Column::Name.eq(name));
        let Some(row) = query.one(&self.inner.pool).await? else { return Ok(None) };
        let shards = self.shards_of(row.id).await?;
        if shards.is_empty() {
            return Ok(None);
        }
        let rules = serde_json::from_str(&row.rules).map_err(|error| {
            // Guessed rules would let in what the app does not want.
            Error::Unavailable(format!("the rules of app {name} cannot be read: {error}"))
        })?;
        Ok(Some(AppRow { id: AppId(row.id), name: row.name, rules, shards }))
    }

    async fn find_or_insert_app(
        &self,
        config: &AppConfig,
        rules: &AppRules,
        shards: i32,
        now_ms: i64,
    ) -> Result<app::Model> {
        let query = app::Entity::find().filter(app::Column::Name.eq(&config.name));
        if let Some(row) = query.clone().one(&self.inner.pool).await? {
            return Ok(row);
        }
        let row = app::ActiveModel {
            id: NotSet,
            name: Set(config.name.clone()),
            shards: Set(shards),
            rules: Set(encode(rules)),
            created_ms: Set(now_ms),
        };
        let inserted = {
            let _turn = self.turn().await;
            app::Entity::insert(row).exec_without_returning(&self.inner.pool).await
        };
        match inserted.map_err(Error::from) {
            // Another instance that started at the same moment was quicker.
            Ok(_) | Err(Error::Raced(_)) => {}
            Err(error) => return Err(error),
        }
        let row = query.one(&self.inner.pool).await?;
        row.ok_or_else(|| Error::Unavailable(format!("app {} is not there yet", config.name)))
    }

    async fn insert_missing_shards(&self, app: i32, shards: i32) -> Result<()> {
        let query = shard::Entity::find().filter(shard::Column::App.eq(app));
        let there = query.all(&self.inner.pool).await?;
        for number in (0..shards).filter(|number| there.iter().all(|row| row.number != *number)) {
            let row = shard::ActiveModel {
                id: NotSet,
                app: Set(app),
                number: Set(number),
                owner: Set(None),
                epoch: Set(0),
            };
            let _turn = self.turn().await;
            let inserted =
                shard::Entity::insert(row).exec_without_returning(&self.inner.pool).await;
            match inserted.map_err(Error::from) {
                Ok(_) | Err(Error::Raced(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn shards_of(&self, app: i32) -> Result<Vec<ShardId>> {
        let rows = shard::Entity::find()
            .filter(shard::Column::App.eq(app))
            .order_by_asc(shard::Column::Number)
            .all(&self.inner.pool)
            .await?;
        Ok(rows.into_iter().map(|row| ShardId(row.id)).collect())
    }
}

fn encode(rules: &AppRules) -> String {
    serde_json::to_string(rules).unwrap_or_default()
}
