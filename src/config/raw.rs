//! The configuration as written: every key with its default, and no other keys.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use super::Role;
use crate::kafka::{KafkaCluster, KafkaIngestConfig};
use crate::model::app::Delivery;
use crate::model::target::TargetKind;
use crate::telemetry::LogFormat;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) default_time_zone: String,
    pub(super) database: RawDatabase,
    pub(super) kafka: Option<KafkaIngestConfig>,
    pub(super) ingest: RawIngest,
    pub(super) idempotency: RawIdempotency,
    pub(super) dead_letters: RawDeadLetters,
    pub(super) audit: RawAudit,
    pub(super) instance: RawInstance,
    pub(super) http: RawHttp,
    pub(super) log: RawLog,
    pub(super) apps: BTreeMap<String, RawApp>,
    /// The folder of the file, from which relative paths in it start.
    #[serde(skip)]
    pub(super) folder: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawDatabase {
    pub(super) url: SecretString,
    pub(super) max_connections: NonZeroU32,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawIngest {
    pub(super) max_schedule_ahead_days: NonZeroU32,
    pub(super) max_record_bytes: NonZeroUsize,
    pub(super) max_batch_bytes: NonZeroUsize,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawIdempotency {
    pub(super) window_hours: NonZeroU32,
    pub(super) conflict_on_time: bool,
    pub(super) redis_url: Option<SecretString>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawDeadLetters {
    pub(super) keep_days: NonZeroU32,
    pub(super) max_replays: u32,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAudit {
    pub(super) keep_days: NonZeroU32,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawInstance {
    pub(super) id: Option<String>,
    pub(super) lease_ms: u32,
    pub(super) drain_timeout_ms: u32,
    pub(super) max_clock_skew_ms: Option<u32>,
    pub(super) memory_mb: NonZeroU32,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) listen: String,
    pub(super) tokens: Vec<RawToken>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawToken {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) value: Option<SecretString>,
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: LogFormat,
    pub(super) metrics_interval_ms: NonZeroU32,
}

/// One `[apps.<name>]`; absent keys have the defaults of `AppConfig::new`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawApp {
    pub(super) dispatch: TargetKind,
    pub(super) topic: Option<String>,
    pub(super) kafka: Option<KafkaCluster>,
    pub(super) url: Option<SecretString>,
    pub(super) secrets: Vec<RawSecret>,
    pub(super) headers: BTreeMap<String, RawSecret>,
    pub(super) ca: Option<PathBuf>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) proxy: Option<SecretString>,
    pub(super) allow_link_local: Option<bool>,
    pub(super) key: Option<String>,
    pub(super) command: Option<RawRedisCommand>,
    pub(super) max_length: Option<NonZeroU64>,
    pub(super) required_fields: Vec<String>,
    pub(super) schema: Option<PathBuf>,
    pub(super) max_in_flight: Option<NonZeroU32>,
    pub(super) max_attempts: Option<NonZeroU32>,
    pub(super) backoff: Option<RawBackoff>,
    pub(super) timeout_ms: Option<NonZeroU32>,
    pub(super) rate_per_second: Option<f64>,
    pub(super) burst: Option<NonZeroU32>,
    pub(super) delivery: Delivery,
    pub(super) max_concurrent: Option<NonZeroU32>,
    pub(super) max_concurrent_per_key: Option<NonZeroU32>,
    pub(super) priority_aging_ms: Option<NonZeroU32>,
    pub(super) objective_ms: Option<NonZeroU32>,
    pub(super) history_hours: Option<u32>,
    pub(super) shards: Option<NonZeroU32>,
    pub(super) window: Option<NonZeroU32>,
    pub(super) mask: Vec<String>,
}

/// A secret as text, or as a table that says where it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "must be a text, or a table with one of value, env and file")]
pub(super) enum RawSecret {
    Text(SecretString),
    Table(RawSecretTable),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSecretTable {
    pub(super) value: Option<SecretString>,
    pub(super) env: Option<String>,
    pub(super) file: Option<PathBuf>,
}

/// Either the three keys of an exponential backoff, or a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBackoff {
    pub(super) initial_ms: Option<u32>,
    pub(super) factor: Option<f64>,
    pub(super) max_ms: Option<u32>,
    pub(super) delays_ms: Option<Vec<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawRedisCommand {
    Xadd,
    Lpush,
    Publish,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            default_time_zone: "UTC".into(),
            database: RawDatabase::default(),
            kafka: None,
            ingest: RawIngest::default(),
            idempotency: RawIdempotency::default(),
            dead_letters: RawDeadLetters::default(),
            audit: RawAudit::default(),
            instance: RawInstance::default(),
            http: RawHttp::default(),
            log: RawLog::default(),
            apps: BTreeMap::new(),
            folder: PathBuf::new(),
        }
    }
}

impl Default for RawDatabase {
    fn default() -> Self {
        Self {
            url: "sqlite://infinite-scheduler.db?mode=rwc".into(),
            max_connections: const { NonZeroU32::new(10).unwrap() },
        }
    }
}

impl Default for RawIngest {
    fn default() -> Self {
        Self {
            max_schedule_ahead_days: const { NonZeroU32::new(3650).unwrap() },
            max_record_bytes: const { NonZeroUsize::new(1024 * 1024).unwrap() },
            max_batch_bytes: const { NonZeroUsize::new(8 * 1024 * 1024).unwrap() },
        }
    }
}

impl Default for RawIdempotency {
    fn default() -> Self {
        Self {
            window_hours: const { NonZeroU32::new(24).unwrap() },
            conflict_on_time: false,
            redis_url: None,
        }
    }
}

impl Default for RawDeadLetters {
    fn default() -> Self {
        Self { keep_days: const { NonZeroU32::new(30).unwrap() }, max_replays: 5 }
    }
}

impl Default for RawAudit {
    fn default() -> Self {
        Self { keep_days: const { NonZeroU32::new(365).unwrap() } }
    }
}

impl Default for RawInstance {
    fn default() -> Self {
        Self {
            id: None,
            lease_ms: 10_000,
            drain_timeout_ms: 25_000,
            max_clock_skew_ms: None,
            memory_mb: const { NonZeroU32::new(128).unwrap() },
        }
    }
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7070".into(), tokens: Vec::new() }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            metrics_interval_ms: const { NonZeroU32::new(10_000).unwrap() },
        }
    }
}
