//! The limits of an app that can be changed while it runs: as they are configured, as people have
//! overridden them, and as they are in force.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::AppConfig;
use super::rate::{PerSecond, Rate};

/// Values for some limits of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct LimitValues {
    /// How many attempts may start per second, over all instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub rate_per_second: Option<PerSecond>,
    /// How many attempts may start at once after a pause; with a rate only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub burst: Option<NonZeroU32>,
    /// How many attempts may run at a time, over all instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_concurrent: Option<NonZeroU32>,
    /// How many attempts of jobs with one `concurrencyKey` may run at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_concurrent_per_key: Option<NonZeroU32>,
    /// How many attempts may run at a time on one instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_in_flight: Option<NonZeroU32>,
    /// How many attempts a job has before it becomes a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_attempts: Option<NonZeroU32>,
    /// How long one attempt may take, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub timeout_ms: Option<NonZeroU64>,
    /// How long a job waits before it has a part beside jobs of a higher priority, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub priority_aging_ms: Option<NonZeroU64>,
    /// How late an attempt may start, as people are promised, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub objective_ms: Option<NonZeroU64>,
}

/// The limits that are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) rate: Option<Rate>,
    pub(crate) max_concurrent: Option<NonZeroU32>,
    pub(crate) max_concurrent_per_key: NonZeroU32,
    pub(crate) max_in_flight: NonZeroU32,
    pub(crate) max_attempts: NonZeroU32,
    pub(crate) timeout: Duration,
    pub(crate) priority_aging: Duration,
    pub(crate) objective: Option<Duration>,
}

impl LimitValues {
    /// The limits of a configuration.
    pub(crate) fn of(config: &AppConfig) -> Self {
        let ms = |of: Duration| u64::try_from(of.as_millis()).ok().and_then(NonZeroU64::new);
        let (rate_per_second, burst) = config.rate.map(Rate::parts).unzip();
        Self {
            rate_per_second,
            burst: burst.flatten(),
            max_concurrent: config.max_concurrent,
            max_concurrent_per_key: Some(config.max_concurrent_per_key),
            max_in_flight: Some(config.max_in_flight),
            max_attempts: Some(config.max_attempts),
            timeout_ms: ms(config.timeout),
            priority_aging_ms: ms(config.priority_aging),
            objective_ms: config.objective.and_then(ms),
        }
    }

    /// These where they have a value, else those that are configured.
    #[must_use]
    pub fn over(self, configured: Self) -> Self {
        Self {
            rate_per_second: self.rate_per_second.or(configured.rate_per_second),
            burst: self.burst.or(configured.burst),
            max_concurrent: self.max_concurrent.or(configured.max_concurrent),
            max_concurrent_per_key: self
                .max_concurrent_per_key
                .or(configured.max_concurrent_per_key),
            max_in_flight: self.max_in_flight.or(configured.max_in_flight),
            max_attempts: self.max_attempts.or(configured.max_attempts),
            timeout_ms: self.timeout_ms.or(configured.timeout_ms),
            priority_aging_ms: self.priority_aging_ms.or(configured.priority_aging_ms),
            objective_ms: self.objective_ms.or(configured.objective_ms),
        }
    }
}

impl Limits {
    /// What is in force of a configuration that is overridden by these values.
    pub(crate) fn of(config: &AppConfig, overrides: &LimitValues) -> Self {
        let LimitValues { rate_per_second, burst, .. } = overrides.over(LimitValues::of(config));
        let ms = |over: Option<NonZeroU64>, configured: Duration| {
            over.map_or(configured, |ms| Duration::from_millis(ms.get()))
        };
        Self {
            rate: rate_per_second.map(|per_second| Rate::of(per_second, burst)),
            max_concurrent: overrides.max_concurrent.or(config.max_concurrent),
            max_concurrent_per_key: overrides
                .max_concurrent_per_key
                .unwrap_or(config.max_concurrent_per_key),
            max_in_flight: overrides.max_in_flight.unwrap_or(config.max_in_flight),
            max_attempts: overrides.max_attempts.unwrap_or(config.max_attempts),
            timeout: ms(overrides.timeout_ms, config.timeout),
            priority_aging: ms(overrides.priority_aging_ms, config.priority_aging),
            objective: overrides
                .objective_ms
                .map(|ms| Duration::from_millis(ms.get()))
                .or(config.objective),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(json: &str) -> LimitValues {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_overridden_wins_and_the_rest_is_as_configured() {
        let mut config = AppConfig::new("sms");
        config.timeout = Duration::from_micros(1_500);
        config.rate = Some(Rate::new(10.0, None).unwrap());
        let limits = Limits::of(&config, &LimitValues::default());
        assert_eq!((limits.rate, limits.timeout), (config.rate, config.timeout));
        assert_eq!(limits.max_concurrent, None);
        let overrides = values(r#"{"ratePerSecond":50,"maxConcurrent":3,"timeoutMs":7}"#);
        let limits = Limits::of(&config, &overrides);
        // The default burst is that of the rate in force.
        assert_eq!(limits.rate.unwrap().burst().get(), 50);
        assert_eq!(limits.max_concurrent, NonZeroU32::new(3));
        assert_eq!(limits.timeout, Duration::from_millis(7));
        assert_eq!(limits.max_attempts, config.max_attempts);
        let in_force = overrides.over(LimitValues::of(&config));
        let shown = serde_json::to_value(in_force).unwrap();
        assert_eq!((&shown["ratePerSecond"], &shown["maxInFlight"]), (&50.0.into(), &256.into()));
    }

    #[test]
    fn a_limit_of_zero_or_below_is_no_value() {
        for bad in [
            r#"{"ratePerSecond":0}"#,
            r#"{"ratePerSecond":-1}"#,
            r#"{"maxConcurrent":0}"#,
            r#"{"timeoutMs":-5}"#,
        ] {
            assert!(serde_json::from_str::<LimitValues>(bad).is_err(), "{bad}");
        }
    }
}
