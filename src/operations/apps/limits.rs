//! Changing an app's limits while it runs, and going back to what is configured.

use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{TRIES, changed, entry, others_change, state};
use super::{AppChange, AppResult, Apps};
use crate::model::app::Delivery;
use crate::model::audit::{AuditAction, AuditEntry};
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::limits::LimitValues;
use crate::model::rate::PerSecond;
use crate::operations::context::Context;
use crate::operations::pauses::as_rfc3339;
use crate::operations::{Error, Result};
use crate::store::AppOverrides;

/// Limits of an app that people have set, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Overridden {
    /// The limits.
    #[serde(flatten)]
    pub values: LimitValues,
    /// When they were last changed, epoch milliseconds.
    #[serde(rename = "since", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub since_ms: i64,
    /// By whom.
    pub by: String,
}

/// Other values for limits of an app. A field that is absent stays as it is; with `null` the limit
/// is as configured again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LimitChange {
    /// How many attempts may start per second, over all instances.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<f64>)]
    pub rate_per_second: Option<Option<PerSecond>>,
    /// How many attempts may start at once after a pause.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    pub burst: Option<Option<NonZeroU32>>,
    /// How many attempts may run at a time, over all instances.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    pub max_concurrent: Option<Option<NonZeroU32>>,
    /// How many attempts of jobs with one `concurrencyKey` may run at a time.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    pub max_concurrent_per_key: Option<Option<NonZeroU32>>,
    /// How many attempts may run at a time on one instance.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    pub max_in_flight: Option<Option<NonZeroU32>>,
    /// How many attempts a job has before it becomes a dead letter.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    pub max_attempts: Option<Option<NonZeroU32>>,
    /// How long one attempt may take, milliseconds.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<u64>)]
    pub timeout_ms: Option<Option<NonZeroU64>>,
    /// How long a job waits before it has a part beside jobs of a higher priority, milliseconds.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<u64>)]
    pub priority_aging_ms: Option<Option<NonZeroU64>>,
    /// How late an attempt may start, as people are promised, milliseconds.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<u64>)]
    pub objective_ms: Option<Option<NonZeroU64>>,
    /// Why, for the audit.
    pub reason: Option<String>,
}

impl LimitChange {
    /// Reads a JSON object with some of `ratePerSecond`, `burst`, `maxConcurrent`,
    /// `maxConcurrentPerKey`, `maxInFlight`, `maxAttempts`, `timeoutMs`, `priorityAgingMs`,
    /// `objectiveMs` and `reason`.
    ///
    /// # Errors
    /// A [`Refusal`] that names the field: one that is unknown, or whose value is not legal.
    pub fn from_json(text: &str) -> Result<Self, Refusal> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let why = format!("{} cannot be set: {}", error.path(), error.inner());
            Refusal::new(ErrorKind::InvalidField, why)
        })
    }

    /// Whether no limit is named.
    pub fn is_empty(&self) -> bool {
        *self == Self { reason: self.reason.clone(), ..Self::default() }
    }

    fn apply(&self, before: LimitValues) -> LimitValues {
        LimitValues {
            rate_per_second: self.rate_per_second.unwrap_or(before.rate_per_second),
            burst: self.burst.unwrap_or(before.burst),
            max_concurrent: self.max_concurrent.unwrap_or(before.max_concurrent),
            max_concurrent_per_key: self
                .max_concurrent_per_key
                .unwrap_or(before.max_concurrent_per_key),
            max_in_flight: self.max_in_flight.unwrap_or(before.max_in_flight),
            max_attempts: self.max_attempts.unwrap_or(before.max_attempts),
            timeout_ms: self.timeout_ms.unwrap_or(before.timeout_ms),
            priority_aging_ms: self.priority_aging_ms.unwrap_or(before.priority_aging_ms),
            objective_ms: self.objective_ms.unwrap_or(before.objective_ms),
        }
    }
}

impl Apps<'_> {
    /// Changes limits of an app. They win over the configuration on every instance within two
    /// heartbeats, over every restart, until [`reset`](Self::reset). A pause stays.
    ///
    /// # Errors
    /// [`Error::Refused`] if no limit is named, a burst without a rate, or more than one attempt
    /// where a job is delivered at most once;
    /// [`Error::NotFound`] if no such app was ever registered; [`Error::Unavailable`] when the
    /// database does not answer.
    pub async fn change(&self, app: impl Into<String>, change: LimitChange) -> Result<AppChange> {
        let app = app.into();
        self.context.run(move |context| async move { set(&context, &app, &change).await }).await
    }

    /// Makes the limits of an app those of its configuration again. A pause stays.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no such app was ever registered; [`Error::Unavailable`] when the
    /// database does not answer.
    pub async fn reset(&self, app: impl Into<String>) -> Result<AppChange> {
        let app = app.into();
        self.context.run(move |context| async move { reset(&context, &app).await }).await
    }
}

async fn set(context: &Context, app: &str, change: &LimitChange) -> Result<AppChange> {
    let refused = |why: &str| Error::Refused(Refusal::new(ErrorKind::InvalidField, why));
    if change.is_empty() {
        return Err(refused("no limit is named: name one that is to have another value"));
    }
    for _ in 0..TRIES {
        let seen = state(context, app).await?;
        if let (Some(Some(most)), Delivery::AtMostOnce) = (change.max_attempts, seen.delivery)
            && most.get() > 1
        {
            let why = format!(
                "maxAttempts is {most}, but app {app} delivers a job at most once, in one attempt: \
                 leave it out"
            );
            return Err(refused(&why));
        }
        let before = seen.overrides.as_ref().map(|over| over.values).unwrap_or_default();
        let values = change.apply(before);
        let in_force = values.over(seen.configured);
        if in_force.burst.is_some() && in_force.rate_per_second.is_none() {
            let why = "burst has no effect without ratePerSecond: set that too, or leave it out";
            return Err(refused(why));
        }
        if values == before {
            return Ok(changed(AppResult::Unchanged, app, seen.pause));
        }
        let entry = entry(context, AuditAction::ChangeLimits, app);
        let details = json!({ "overrides": values, "before": before });
        let entry = AuditEntry { details, ..entry };
        let to = AppOverrides { values, since_ms: entry.at_ms, by: entry.by.who().to_owned() };
        let to = Some(&to).filter(|to| to.values != LimitValues::default());
        let done =
            context.store().set_app_overrides(seen.id, seen.overrides.as_ref(), to, &entry).await;
        if done.map_err(|error| context.database_error(error))? {
            return Ok(changed(AppResult::Changed, app, seen.pause));
        }
    }
    Err(others_change(app))
}

async fn reset(context: &Context, app: &str) -> Result<AppChange> {
    for _ in 0..TRIES {
        let seen = state(context, app).await?;
        let Some(before) = &seen.overrides else {
            return Ok(changed(AppResult::Unchanged, app, seen.pause));
        };
        let details = json!({ "before": before.values });
        let entry = AuditEntry { details, ..entry(context, AuditAction::ResetLimits, app) };
        let done = context.store().set_app_overrides(seen.id, Some(before), None, &entry).await;
        if done.map_err(|error| context.database_error(error))? {
            return Ok(changed(AppResult::Reset, app, seen.pause));
        }
    }
    Err(others_change(app))
}

impl From<AppOverrides> for Overridden {
    fn from(overrides: AppOverrides) -> Self {
        let AppOverrides { values, since_ms, by } = overrides;
        Self { values, since_ms, by }
    }
}

/// Distinguishes a `null` from a field that is not there.
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
