//! The configuration of the service: one TOML file, overridden by the environment.
//!
//! It is read in two stages: as written (`raw`, with the file's values overridden by `env`), then
//! converted to [`Config`] by `check`, which checks each value and that they fit each other.

mod check;
mod database;
mod env;
mod error;
mod flaws;
mod future_keys;
mod http;
mod raw;
mod read;
mod zones;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::SecretString;

pub use crate::dispatch::Dispatch;
use crate::kafka::KafkaIngestConfig;
use crate::model::app::{AppConfig, AppName};
use crate::telemetry::LogFormat;

pub(crate) use check::check_redis_url;
pub use database::DatabaseConfig;
pub use error::ConfigError;
pub use http::{HttpConfig, InvalidPointer, JsonPointer, Role, TokenConfig, TokenSource};
pub(crate) use zones::TimeZones;

/// The file that is read when none is named, if it is in the working directory.
pub const DEFAULT_FILE: &str = "infinite-scheduler.toml";

/// The configuration of the service, checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The time zone of local date-times. Default UTC.
    pub default_time_zone: TimeZone,
    /// The database.
    pub database: DatabaseConfig,
    /// Kafka; `None`: requests come by API only.
    pub kafka: Option<KafkaIngestConfig>,
    /// Limits of requests.
    pub ingest: IngestConfig,
    /// Idempotency keys.
    pub idempotency: IdempotencyConfig,
    /// Dead letters: how long they are kept, and how many times they may be replayed.
    pub dead_letters: DeadLettersConfig,
    /// The audit: how long its entries are kept.
    pub audit: AuditConfig,
    /// This process as one instance of several.
    pub instance: InstanceConfig,
    /// The HTTP server.
    pub http: HttpConfig,
    /// The log.
    pub log: LogConfig,
    /// The apps whose jobs this instance fires.
    pub apps: BTreeMap<AppName, AppSettings>,
}

/// The limits of requests and batches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestConfig {
    /// A request for a time further ahead than this is rejected. Default 3650 days.
    pub max_schedule_ahead: Duration,
    /// A larger record is rejected. Default 1 MiB.
    pub max_record_bytes: usize,
    /// A batch is closed before it grows past this. Default 8 MiB.
    pub max_batch_bytes: usize,
}

/// How idempotency keys work.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IdempotencyConfig {
    /// How long after its admission a key is remembered, at least. Default 24 h.
    pub window: Duration,
    /// Whether the same key with another scheduled time is a conflict. Default false.
    pub conflict_on_time: bool,
    /// A Redis that all instances share, as a cache of recent keys; jobs are deduplicated without
    /// it as well. Its URL may contain a password. Default none.
    pub redis_url: Option<SecretString>,
}

/// How dead letters are kept and replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLettersConfig {
    /// A dead letter is deleted this long after it was created or last changed. Default 30 days.
    pub keep: Duration,
    /// How many times in a row a job may be replayed that fails again each time. Default 5.
    pub max_replays: u32,
}

/// How long the audit is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditConfig {
    /// An entry is deleted this long after it was written. Default 365 days.
    pub keep: Duration,
}

/// This process as one instance of several on the same database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceConfig {
    /// A name for logs and status pages. Default: the host's name.
    pub id: String,
    /// The lease: after this long without a heartbeat other instances may take over its shards.
    /// Default 10 s.
    pub lease: Duration,
    /// How long shutdown waits for running attempts. Default 30 s.
    pub drain_timeout: Duration,
    /// The maximum difference between this machine's clock and the database's. Default 5 s, or
    /// half of the lease if that is less.
    pub max_clock_skew: Duration,
    /// The memory for jobs, in MiB: those in the windows of all apps, and those that run or whose
    /// outcome is not written yet. Default 128.
    pub memory_mb: NonZeroU32,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// The format of log events. Default text.
    pub format: LogFormat,
    /// How often the counters are logged. Default 10 s.
    pub metrics_interval: Duration,
}

/// One app, and its dispatch target.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// Its policy.
    pub app: AppConfig,
    /// Its dispatch target.
    pub dispatch: Dispatch,
    /// The parts of its `jobData` that are hidden from the role `read`.
    pub mask: Vec<JsonPointer>,
}

impl Default for Config {
    /// The configuration of an empty file: a `sqlite://` file in the working directory, no Kafka,
    /// no apps.
    fn default() -> Self {
        raw::RawConfig::default().try_into().expect("the defaults fit each other")
    }
}

impl Config {
    /// Reads the file at `path`, or [`DEFAULT_FILE`] if there is one, and overrides its values by
    /// the variables of `env` whose names begin with `INFINITE_SCHEDULER__`.
    ///
    /// # Errors
    /// The first error, in one sentence that shows no secret.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(file) {
            Ok(text) => {
                let folder = file.parent().unwrap_or(Path::new(""));
                read::read(&text, env, folder).map_err(|error| error.in_file(file))
            }
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Self::from_toml("", env)
            }
            Err(source) => Err(ConfigError::Unreadable { path: file.to_owned(), source }),
        }
    }

    /// Reads the text of a file, overridden by `env` as in [`load`](Self::load). Relative paths
    /// in it start from the working directory.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_toml(
        text: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        read::read(text, env, Path::new(""))
    }
}

/// The environment of this process, for [`Config::load`]. Unlike `std::env::vars` it does not
/// panic if a variable is not Unicode.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

#[cfg(test)]
mod tests;
