//! The apps that were ever registered on the database: listed, paused, resumed and retired.

mod change;
mod forecast;
mod limits;

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::context::Context;
use super::pauses::as_rfc3339;
use super::{Error, Paused, Result};
use crate::model::app::Delivery;
use crate::model::limits::LimitValues;
use crate::store::KnownApp;

pub use change::{AppChange, AppResult};
pub use limits::{LimitChange, Overridden};

/// The apps that were ever registered on the database.
#[derive(Clone, Copy, Debug)]
pub struct Apps<'a> {
    context: &'a Arc<Context>,
}

/// An app that some instance has registered.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct App {
    /// Its name.
    pub app_name: String,
    /// The names of the running instances that fire its jobs; instances with the same name are
    /// listed separately.
    pub instances: Vec<String>,
    /// How many shards its jobs are divided into.
    pub shards: u32,
    /// How many of them a live instance owns.
    pub owned_shards: u32,
    /// Fields that `jobData` must have.
    pub required_fields: Vec<String>,
    /// Whether `jobData` must meet a JSON Schema.
    pub has_schema: bool,
    /// What is promised of a job when something fails: `at-least-once` or `at-most-once`.
    #[schema(value_type = String)]
    pub delivery: Delivery,
    /// How many of its attempts start per second, over all live instances.
    pub starts_per_second: f64,
    /// How many attempts started within the last hour while it had an `objectiveMs`, over all live
    /// instances.
    pub started_last_hour: u64,
    /// The part of them that started no later than that, from 0 to 1; none if nothing started.
    pub objective_met_last_hour: Option<f64>,
    /// Its limits that are in force; those that are absent have no bound.
    pub limits: LimitValues,
    /// What is configured of them.
    pub configured: LimitValues,
    /// What wins over the configuration, if anything does.
    pub overrides: Option<Overridden>,
    /// How many attempts a job has before it becomes a dead letter.
    pub max_attempts: u32,
    /// How long one attempt may take, milliseconds.
    pub timeout_ms: u64,
    /// Since when none of its jobs is started, if it is paused.
    pub pause: Option<Paused>,
    /// When it was first registered, epoch milliseconds.
    #[serde(rename = "registeredTime", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub registered_ms: i64,
}

impl<'a> Apps<'a> {
    pub(super) fn new(context: &'a Arc<Context>) -> Self {
        Self { context }
    }

    /// One app, as [`list`](Self::list) has it.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound) if no such app was ever registered; otherwise as
    /// [`list`](Self::list).
    pub async fn show(&self, app: impl Into<String>) -> Result<App> {
        let app = app.into();
        let all = self.list().await?;
        let found = all.into_iter().find(|one| one.app_name == app);
        found.ok_or_else(|| Error::NotFound(format!("no app {app} was ever registered")))
    }

    /// All apps that were ever registered and not deleted, by name, with the rules from the latest
    /// registration of each.
    ///
    /// # Errors
    /// [`Error::Unavailable`](super::Error::Unavailable) when the database does not answer.
    pub async fn list(&self) -> Result<Vec<App>> {
        self.context
            .run(|context| async move {
                let apps = context.store().known_apps().await;
                let apps = apps.map_err(|error| context.database_error(error))?;
                Ok(apps.into_iter().map(App::from).collect())
            })
            .await
    }
}

impl From<KnownApp> for App {
    fn from(app: KnownApp) -> Self {
        Self {
            app_name: app.name,
            instances: app.instances,
            shards: app.shards,
            owned_shards: app.owned_shards,
            has_schema: app.rules.schema.is_some(),
            delivery: app.rules.policy.delivery,
            starts_per_second: app.pace.per_second,
            started_last_hour: app.pace.started,
            objective_met_last_hour: app.pace.share(),
            limits: app
                .overrides
                .as_ref()
                .map_or_else(LimitValues::default, |over| over.values)
                .over(app.rules.policy.limits),
            configured: app.rules.policy.limits,
            overrides: app.overrides.map(Overridden::from),
            max_attempts: app.rules.policy.max_attempts,
            timeout_ms: app.rules.policy.timeout_ms,
            pause: app.pause.map(Paused::from),
            required_fields: app.rules.required_fields,
            registered_ms: app.created_ms,
        }
    }
}
