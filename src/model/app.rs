//! An app: the owner of jobs, and the policy by which they are fired.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rate::Rate;
use super::retry::Backoff;
use super::schema::JobSchema;

/// The name of an app: 1 to 64 of `a-z`, `0-9`, `_` and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(Box<str>);

/// An invalid app name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("app name {0:?} must be 1 to 64 of a-z, 0-9, _ and -")]
pub struct InvalidAppName(String);

impl AppName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidAppName`] says which characters are allowed.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidAppName> {
        let name = name.into();
        let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if (1..=64).contains(&name.len()) && name.bytes().all(legal) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidAppName(name))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AppName {
    type Error = InvalidAppName;

    fn try_from(name: String) -> Result<Self, InvalidAppName> {
        Self::new(name)
    }
}

impl From<AppName> for String {
    fn from(name: AppName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an app promises of a job when something fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Delivery {
    /// It is tried again until it succeeds or has had all its attempts, so it may arrive twice.
    #[default]
    AtLeastOnce,
    /// It is never sent a second time: what failed, or may have arrived, is a dead letter.
    AtMostOnce,
}

impl Delivery {
    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at-least-once",
            Self::AtMostOnce => "at-most-once",
        }
    }
}

/// The policy of one app. [`AppConfig::new`] has a default for everything.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AppConfig {
    /// The app's name; checked when the app is registered.
    pub name: String,
    /// The maximum number of attempts that run at the same time on one instance. Default 256.
    pub max_in_flight: NonZeroU32,
    /// The maximum number of attempts, after which a job is a dead letter. Default 3.
    pub max_attempts: NonZeroU32,
    /// What is promised of a job when something fails. At most once needs a `max_attempts` of 1.
    /// Default: at least once.
    pub delivery: Delivery,
    /// How long one attempt may take. Default 60 s.
    pub timeout: Duration,
    /// The waits between attempts. Default: exponential from 1 s, at most 60 s, with jitter.
    pub backoff: Backoff,
    /// The number of shards into which the jobs are divided among instances. May be raised later,
    /// never lowered. Default 8.
    pub shards: NonZeroU32,
    /// The maximum number of waiting jobs in memory on one instance. Default 10,000.
    pub window: NonZeroU32,
    /// How many attempts may start per second over all instances. Default: no limit.
    pub rate: Option<Rate>,
    /// How many attempts may run at a time over all instances. Default: no limit but
    /// `max_in_flight` of each.
    pub max_concurrent: Option<NonZeroU32>,
    /// How many attempts of jobs with the same concurrency key may run at a time over all
    /// instances. Default 1.
    pub max_concurrent_per_key: NonZeroU32,
    /// A due job rises by one priority class each time that it has waited this long. Default 60
    /// s.
    pub priority_aging: Duration,
    /// How late an attempt may start, as people are promised: how many met it is counted. Default:
    /// none.
    pub objective: Option<Duration>,
    /// How long the history of a job is kept after its end. With zero nothing is kept of what
    /// succeeded, and what failed or was cancelled is kept for a day. Default 24 h.
    pub history: Duration,
    /// Required fields of `jobData`; a request without one of them is rejected.
    pub required_fields: Vec<String>,
    /// The JSON Schema of `jobData`; a request that violates it is rejected. Default: none.
    pub schema: Option<JobSchema>,
}

impl AppConfig {
    /// The maximum number of shards of an app. Shards are rows that are never deleted, so a
    /// typing error must not create millions.
    pub const MAX_SHARDS: u32 = 1024;

    /// The app `name` with the default policy.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            max_in_flight: NonZeroU32::new(256).unwrap_or(NonZeroU32::MIN),
            max_attempts: NonZeroU32::new(3).unwrap_or(NonZeroU32::MIN),
            delivery: Delivery::default(),
            timeout: Duration::from_secs(60),
            backoff: Backoff::default(),
            shards: NonZeroU32::new(8).unwrap_or(NonZeroU32::MIN),
            window: NonZeroU32::new(10_000).unwrap_or(NonZeroU32::MIN),
            rate: None,
            max_concurrent: None,
            max_concurrent_per_key: NonZeroU32::MIN,
            priority_aging: Duration::from_secs(60),
            objective: None,
            history: Duration::from_secs(24 * 3600),
            required_fields: Vec::new(),
            schema: None,
        }
    }

    /// Sends no job a second time: [`Delivery::AtMostOnce`], with one attempt.
    #[must_use]
    pub fn at_most_once(self) -> Self {
        Self { delivery: Delivery::AtMostOnce, max_attempts: NonZeroU32::MIN, ..self }
    }

    /// Whether a job is never sent a second time.
    pub(crate) fn is_at_most_once(&self) -> bool {
        self.delivery == Delivery::AtMostOnce
    }

    /// Requires `jobData` to have these fields.
    #[must_use]
    pub fn required_fields<I, S>(mut self, fields: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.required_fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Requires `jobData` to match this JSON Schema.
    #[must_use]
    pub fn schema(mut self, schema: JobSchema) -> Self {
        self.schema = Some(schema);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_the_allowed_letters_and_length() {
        for good in ["a", "sms", "payment_gateway-2", &"x".repeat(64)] {
            assert_eq!(AppName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "SMS", "a b", "é", &"x".repeat(65)] {
            assert!(AppName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_shown_and_written_as_it_is() {
        let name = AppName::new("sms").unwrap();
        assert_eq!((format!("{name}"), format!("{name:?}")), ("sms".to_owned(), "sms".to_owned()));
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"sms\"");
        assert_eq!(serde_json::from_str::<AppName>("\"sms\"").unwrap(), name);
        let error = serde_json::from_str::<AppName>("\"SMS\"").unwrap_err().to_string();
        assert!(error.contains("app name \"SMS\" must be"), "{error}");
    }

    #[test]
    fn an_app_asks_for_nothing_unless_it_is_told_to() {
        let app = AppConfig::new("sms");
        assert_eq!((app.required_fields.len(), &app.schema), (0, &None));
        let schema = JobSchema::parse("{}").unwrap();
        let app = app.required_fields(["to", "text"]).schema(schema.clone());
        assert_eq!(
            (app.name, app.required_fields),
            ("sms".into(), vec!["to".into(), "text".into()])
        );
        assert_eq!(app.schema, Some(schema));
    }
}
