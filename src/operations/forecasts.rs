//! Forecasts of what is due, and the latest of them, which are shown again for a minute.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

use super::pauses::as_rfc3339;

/// How long a forecast is shown again.
const FRESH_MS: i64 = 60_000;

/// What is due in the coming hours.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Forecast {
    /// The app.
    pub app_name: String,
    /// When it was counted, epoch milliseconds.
    #[serde(rename = "time", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub at_ms: i64,
    /// How many jobs were due by then.
    pub overdue: u64,
    /// There are more of them: no interval is counted beyond 10,000.
    pub more_overdue: bool,
    /// How many attempts start per second, measured over all live instances during the last
    /// seconds, or the app's rate if that is lower.
    pub starts_per_second: f64,
    /// In how many seconds nothing is overdue any more at that pace, with what comes meanwhile;
    /// none if that is not within the hours.
    pub drained_in_seconds: Option<u64>,
    /// The jobs that are due in each minute.
    pub minutes: Vec<ForecastMinute>,
}

/// What is due within a minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ForecastMinute {
    /// When it begins, epoch milliseconds.
    #[serde(rename = "time", serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub from_ms: i64,
    /// How many jobs; 10,001 means more than 10,000.
    pub jobs: u64,
}

/// The latest forecast of each app and number of hours.
#[derive(Debug, Default)]
pub(super) struct Forecasts(Mutex<HashMap<(String, u32), Forecast>>);

impl Forecasts {
    pub(super) fn fresh(&self, app: &str, hours: u32, now_ms: i64) -> Option<Forecast> {
        let all = self.all();
        let known = all.get(&(app.to_owned(), hours))?;
        (0..FRESH_MS).contains(&(now_ms - known.at_ms)).then(|| known.clone())
    }

    pub(super) fn keep(&self, hours: u32, forecast: Forecast) {
        let mut all = self.all();
        all.retain(|_, known| (0..FRESH_MS).contains(&(forecast.at_ms - known.at_ms)));
        all.insert((forecast.app_name.clone(), hours), forecast);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(String, u32), Forecast>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
