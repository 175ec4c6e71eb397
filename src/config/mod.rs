//! The configuration of the service: one TOML file, overridden by the environment.
//!
//! It is read in two stages: as written (`raw`, after `env` was laid over the file), then
//! as meant ([`Config`]), where `check` makes sure that the parts fit each other.

mod check;
mod database;
mod env;
mod error;
mod flaws;
mod later;
mod raw;
mod read;
mod suggest;
mod zones;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::SecretString;

use crate::kafka::KafkaIngestConfig;
use crate::model::app::{AppConfig, AppName};
use crate::telemetry::LogFormat;

pub(crate) use check::check_redis_url;
pub use database::DatabaseConfig;
pub use error::ConfigError;
pub(crate) use zones::TimeZones;

/// The file that is read when none is named, if it is in the working directory.
pub const DEFAULT_FILE: &str = "infinite-scheduler.toml";

/// Everything that the service is told, checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// In which zone a local date-time is read that names none. Default UTC.
    pub default_time_zone: TimeZone,
    /// Where jobs are kept.
    pub database: DatabaseConfig,
    /// Where requests come from; `None`: by API only.
    pub kafka: Option<KafkaIngestConfig>,
    /// What a request may be.
    pub ingest: IngestConfig,
    /// When two requests are one.
    pub idempotency: IdempotencyConfig,
    /// How long dead letters are kept, and how often they may be replayed.
    pub dead_letters: DeadLettersConfig,
    /// This process among its like.
    pub instance: InstanceConfig,
    /// Where people and programs ask.
    pub http: HttpConfig,
    /// What is written to the log.
    pub log: LogConfig,
    /// The apps whose jobs are fired here.
    pub apps: BTreeMap<AppName, AppSettings>,
}

/// The limits of what is taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestConfig {
    /// A request for a time further away than this is rejected. Default 3650 days.
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
    /// A Redis that all instances share, as a second memory of recent keys; it only saves
    /// work. Its URL may hold a password. Default none.
    pub redis_url: Option<SecretString>,
}

/// What is done with dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLettersConfig {
    /// A letter goes this long after it came or was last touched. Default 30 days.
    pub keep: Duration,
    /// A job that is a replay, and whose letter was one, and so on, may be replayed so often.
    /// Default 5.
    pub max_replays: u32,
}

/// How this process lives among others on the same database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceConfig {
    /// A name for people. Default: the host's name.
    pub id: String,
    /// After this long without a heartbeat its shards may be taken over. Default 10 s.
    pub lease: Duration,
    /// How long running attempts may take to end at shutdown. Default 30 s.
    pub drain_timeout: Duration,
    /// How far this machine's clock may be from the database's. Default 5 s, or half of the
    /// lease if that is less.
    pub max_clock_skew: Duration,
    /// What jobs may take in memory, in MiB: those in the windows of all apps, and those that
    /// run or whose outcome is not written yet. Default 128.
    pub memory_mb: NonZeroU32,
}

/// The HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpConfig {
    /// The address it listens on, always a loopback one. Default `127.0.0.1:7070`.
    pub listen: SocketAddr,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// For people or for programs. Default text.
    pub format: LogFormat,
    /// How often the actors' figures are logged. Default 10 s.
    pub metrics_interval: Duration,
}

/// One app, and where its jobs go when they fire.
#[derive(Clone, Debug, PartialEq)]
pub struct AppSettings {
    /// Its policy.
    pub app: AppConfig,
    /// Where its jobs go.
    pub dispatch: Dispatch,
}

/// Where a fired job goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dispatch {
    /// To the log, as one structured event.
    #[default]
    Log,
    /// To a Kafka topic.
    Kafka {
        /// The topic.
        topic: String,
    },
    /// Nowhere: it counts as done.
    Discard,
}

impl Default for Config {
    /// What an empty file means: a `sqlite://` file in the working directory, no Kafka, no apps.
    fn default() -> Self {
        raw::RawConfig::default().try_into().expect("the defaults fit each other")
    }
}

impl Config {
    /// Reads the file at `path`, or [`DEFAULT_FILE`] if there is one, and lays the variables
    /// of `env` over it whose names begin with `INFINITE_SCHEDULER__`.
    ///
    /// # Errors
    /// The first thing that is wrong, in one sentence that shows no secret.
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

    /// Reads the text of a file, and lays `env` over it as [`load`](Self::load) does. Files
    /// that it names are looked for in the working directory.
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
/// panic at what is not Unicode.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

#[cfg(test)]
mod tests;
