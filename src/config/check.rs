//! Converts the configuration as written to the one in force: checks each value, and that the
//! values fit each other.

mod http;
mod target;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::{ExposeSecret, SecretString};

use self::http::http;
use super::raw::{
    RawApp, RawAudit, RawBackoff, RawConfig, RawDeadLetters, RawIdempotency, RawIngest, RawInstance,
};
use super::zones::{TimeZones, UnknownZone};
use super::{
    AppSettings, AuditConfig, Config, ConfigError, DatabaseConfig, DeadLettersConfig,
    IdempotencyConfig, IngestConfig, InstanceConfig, InvalidPointer, LogConfig,
};
use crate::kafka::KafkaIngestConfig;
use crate::model::app::{AppConfig, AppName, Delivery};
use crate::model::rate::{InvalidRate, Rate};
use crate::model::retry::Backoff;
use crate::model::schema::JobSchema;

/// Heartbeats are a second apart: a shorter lease would end between two of them.
const MIN_LEASE_MS: u32 = 1000;

/// Half of the default lease. If only a shorter lease is set, the default is half of that.
const DEFAULT_MAX_CLOCK_SKEW_MS: u32 = 5000;

/// A thousand years, which every date type can represent.
const MAX_SCHEDULE_AHEAD_DAYS: u32 = 365_000;

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let instance: InstanceConfig = raw.instance.try_into()?;
        if let Some(kafka) = &raw.kafka {
            let checked = kafka.validate().and_then(|()| kafka.validate_session(instance.lease));
            checked.map_err(ConfigError::Kafka)?;
        }
        Ok(Self {
            default_time_zone: time_zone(&raw.default_time_zone)?,
            database: DatabaseConfig::new(
                raw.database.url.expose_secret(),
                raw.database.max_connections,
            )?,
            ingest: raw.ingest.try_into()?,
            idempotency: raw.idempotency.try_into()?,
            dead_letters: raw.dead_letters.into(),
            audit: raw.audit.into(),
            instance,
            http: http(raw.http, &raw.folder)?,
            log: LogConfig {
                format: raw.log.format,
                metrics_interval: ms(raw.log.metrics_interval_ms.get()),
            },
            apps: apps(raw.apps, raw.kafka.as_ref(), &raw.folder)?,
            kafka: raw.kafka,
        })
    }
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

fn days(days: NonZeroU32) -> Duration {
    Duration::from_secs(u64::from(days.get()) * 24 * 60 * 60)
}

fn time_zone(name: &str) -> Result<TimeZone, ConfigError> {
    let unknown = |error: UnknownZone| ConfigError::invalid("default_time_zone", error.to_string());
    TimeZones::get().named(name).map_err(unknown)
}

impl TryFrom<RawIngest> for IngestConfig {
    type Error = ConfigError;

    fn try_from(raw: RawIngest) -> Result<Self, ConfigError> {
        let RawIngest { max_schedule_ahead_days, max_record_bytes, max_batch_bytes } = raw;
        let days = max_schedule_ahead_days.get();
        if days > MAX_SCHEDULE_AHEAD_DAYS {
            let problem = format!("is {days}, but must be at most {MAX_SCHEDULE_AHEAD_DAYS}");
            return Err(ConfigError::invalid("ingest.max_schedule_ahead_days", problem));
        }
        if max_batch_bytes < max_record_bytes {
            let problem = format!(
                "({max_batch_bytes}) must be at least ingest.max_record_bytes \
                 ({max_record_bytes}), or the largest record fits no batch"
            );
            return Err(ConfigError::invalid("ingest.max_batch_bytes", problem));
        }
        Ok(Self {
            max_schedule_ahead: Duration::from_secs(u64::from(days) * 24 * 60 * 60),
            max_record_bytes: max_record_bytes.get(),
            max_batch_bytes: max_batch_bytes.get(),
        })
    }
}

impl TryFrom<RawIdempotency> for IdempotencyConfig {
    type Error = ConfigError;

    fn try_from(raw: RawIdempotency) -> Result<Self, ConfigError> {
        if let Some(url) = &raw.redis_url {
            check_redis_url(url)?;
        }
        Ok(Self {
            window: Duration::from_secs(u64::from(raw.window_hours.get()) * 60 * 60),
            conflict_on_time: raw.conflict_on_time,
            redis_url: raw.redis_url,
        })
    }
}

/// The URL is never shown: it may contain a password.
pub(crate) fn check_redis_url(url: &SecretString) -> Result<(), ConfigError> {
    let problem = if url.expose_secret().starts_with("rediss://") {
        format!(
            "begins with rediss://, but TLS to Redis is not available in this version: write it \
             like {REDIS_FORM}"
        )
    } else {
        match redis_url_flaw(url) {
            Ok(()) => return Ok(()),
            Err(problem) => problem,
        }
    };
    Err(ConfigError::invalid("idempotency.redis_url", problem))
}

/// How the URL of a Redis is written.
const REDIS_FORM: &str = "redis://:password@host:6379/0";

fn redis_url_flaw(url: &SecretString) -> Result<(), String> {
    let url = url.expose_secret();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    // A password that is not escaped is parsed as host, path or query.
    let after_host = rest.find(['/', '?', '#']).map_or("", |end| &rest[end..]);
    match scheme {
        _ if after_host.contains(['@', '#']) => {
            Err("cannot be read: in a password, write %2F for /, %3F for ? and %23 for #"
                .to_owned())
        }
        "redis" | "rediss" if redis::Client::open(url).is_ok() => Ok(()),
        "redis+sentinel" | "redis+cluster" => Err(format!(
            "names a cluster or Sentinel, which is not available: write it like {REDIS_FORM}"
        )),
        _ => Err(format!("cannot be read: write it like {REDIS_FORM}")),
    }
}

impl From<RawDeadLetters> for DeadLettersConfig {
    fn from(raw: RawDeadLetters) -> Self {
        let RawDeadLetters { keep_days, max_replays } = raw;
        Self { keep: days(keep_days), max_replays }
    }
}

impl From<RawAudit> for AuditConfig {
    fn from(raw: RawAudit) -> Self {
        Self { keep: days(raw.keep_days) }
    }
}

impl TryFrom<RawInstance> for InstanceConfig {
    type Error = ConfigError;

    fn try_from(raw: RawInstance) -> Result<Self, ConfigError> {
        let RawInstance { id, lease_ms, drain_timeout_ms, max_clock_skew_ms, memory_mb } = raw;
        if lease_ms < MIN_LEASE_MS {
            let problem = format!(
                "is {lease_ms}, but must be at least {MIN_LEASE_MS}, the time between heartbeats"
            );
            return Err(ConfigError::invalid("instance.lease_ms", problem));
        }
        let max_clock_skew_ms =
            max_clock_skew_ms.unwrap_or(DEFAULT_MAX_CLOCK_SKEW_MS.min(lease_ms / 2));
        if max_clock_skew_ms >= lease_ms {
            let problem = format!(
                "({max_clock_skew_ms}) must be less than instance.lease_ms ({lease_ms}), \
                 or a lease could seem over when it is not: lower it or raise the lease"
            );
            return Err(ConfigError::invalid("instance.max_clock_skew_ms", problem));
        }
        let id = id.unwrap_or_else(host_name);
        if id.trim().is_empty() {
            let problem = "is empty: give it a name, or leave it out for the host's";
            return Err(ConfigError::invalid("instance.id", problem));
        }
        Ok(Self {
            id,
            lease: ms(lease_ms),
            drain_timeout: ms(drain_timeout_ms),
            max_clock_skew: ms(max_clock_skew_ms),
            memory_mb,
        })
    }
}

/// The host's name: from the kernel, a file or the shell's environment, whichever has it first.
fn host_name() -> String {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .chain(std::env::var("HOSTNAME"))
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

fn apps(
    raw: BTreeMap<String, RawApp>,
    kafka: Option<&KafkaIngestConfig>,
    folder: &Path,
) -> Result<BTreeMap<AppName, AppSettings>, ConfigError> {
    raw.into_iter()
        .map(|(name, app)| {
            let key = AppName::new(&name).map_err(|error| {
                ConfigError::invalid(format!("apps.{name}"), format!("is not an app: {error}"))
            })?;
            Ok((key, app_settings(&name, app, kafka, folder)?))
        })
        .collect()
}

fn app_settings(
    name: &str,
    raw: RawApp,
    kafka: Option<&KafkaIngestConfig>,
    folder: &Path,
) -> Result<AppSettings, ConfigError> {
    if raw.required_fields.iter().any(String::is_empty) {
        let problem = "has a field without a name: leave it out";
        return Err(ConfigError::invalid(format!("apps.{name}.required_fields"), problem));
    }
    let shards = raw.shards.map_or(0, NonZeroU32::get);
    let most = AppConfig::MAX_SHARDS;
    if shards > most {
        let problem = format!("is {shards}, but must be at most {most}");
        return Err(ConfigError::invalid(format!("apps.{name}.shards"), problem));
    }
    let dispatch = target::dispatch(name, &raw, kafka, folder)?;
    let mask = raw.mask.iter().map(|pointer| pointer.parse());
    let invalid = |error: InvalidPointer| {
        ConfigError::invalid(format!("apps.{name}.mask"), error.to_string())
    };
    let mask = mask.collect::<Result<_, _>>().map_err(invalid)?;
    let defaults = AppConfig::new(name);
    let or_default =
        |written: Option<NonZeroU32>, default| written.map_or(default, |n| ms(n.get()));
    let app = AppConfig {
        max_in_flight: raw.max_in_flight.unwrap_or(defaults.max_in_flight),
        max_attempts: max_attempts(name, raw.delivery, raw.max_attempts)?,
        delivery: raw.delivery,
        timeout: or_default(raw.timeout_ms, defaults.timeout),
        backoff: raw.backoff.map_or(Ok(Backoff::default()), |written| backoff(name, written))?,
        shards: raw.shards.unwrap_or(defaults.shards),
        window: raw.window.unwrap_or(defaults.window),
        max_concurrent: raw.max_concurrent,
        max_concurrent_per_key: raw
            .max_concurrent_per_key
            .unwrap_or(defaults.max_concurrent_per_key),
        rate: rate(name, raw.rate_per_second, raw.burst)?,
        priority_aging: or_default(raw.priority_aging_ms, defaults.priority_aging),
        objective: raw.objective_ms.map(|objective| ms(objective.get())),
        history: raw
            .history_hours
            .map_or(defaults.history, |hours| Duration::from_secs(u64::from(hours) * 3600)),
        required_fields: raw.required_fields,
        schema: raw.schema.map(|file| schema(name, &folder.join(file))).transpose()?,
        name: defaults.name,
    };
    Ok(AppSettings { app, dispatch, mask })
}

fn max_attempts(
    app: &str,
    delivery: Delivery,
    written: Option<NonZeroU32>,
) -> Result<NonZeroU32, ConfigError> {
    match (delivery, written) {
        (Delivery::AtLeastOnce, written) => Ok(written.unwrap_or(AppConfig::new(app).max_attempts)),
        (Delivery::AtMostOnce, None | Some(NonZeroU32::MIN)) => Ok(NonZeroU32::MIN),
        (Delivery::AtMostOnce, Some(most)) => {
            let problem = format!(
                "is {most}, but with delivery = \"at-most-once\" a job has one attempt: leave it out"
            );
            Err(ConfigError::invalid(format!("apps.{app}.max_attempts"), problem))
        }
    }
}

fn rate(
    app: &str,
    per_second: Option<f64>,
    burst: Option<NonZeroU32>,
) -> Result<Option<Rate>, ConfigError> {
    let Some(per_second) = per_second else {
        if burst.is_some() {
            let problem = "has no effect without rate_per_second: set that too, or leave it out";
            return Err(ConfigError::invalid(format!("apps.{app}.burst"), problem));
        }
        return Ok(None);
    };
    let invalid = |error: InvalidRate| {
        let problem = format!("{error}; leave it out for no limit");
        ConfigError::invalid(format!("apps.{app}.rate_per_second"), problem)
    };
    Rate::new(per_second, burst).map(Some).map_err(invalid)
}

/// Reads and checks an app's JSON Schema.
fn schema(app: &str, file: &Path) -> Result<JobSchema, ConfigError> {
    let invalid = |problem: String| ConfigError::invalid(format!("apps.{app}.schema"), problem);
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| invalid(format!("names {shown}, which cannot be read: {error}")))?;
    JobSchema::parse(&text).map_err(|error| invalid(format!("names {shown}: {error}")))
}

fn backoff(app: &str, raw: RawBackoff) -> Result<Backoff, ConfigError> {
    let invalid = |problem: String| ConfigError::invalid(format!("apps.{app}.backoff"), problem);
    let RawBackoff { initial_ms, factor, max_ms, delays_ms } = raw;
    if let Some(delays) = delays_ms {
        if initial_ms.is_some() || factor.is_some() || max_ms.is_some() {
            let problem = "has delays_ms together with initial_ms, factor or max_ms: keep one kind";
            return Err(invalid(problem.into()));
        }
        let backoff = Backoff::Delays(delays.into_iter().map(ms).collect());
        return backoff.check().map(|()| backoff).map_err(invalid);
    }
    let (initial, max) = (ms(initial_ms.unwrap_or(1000)), ms(max_ms.unwrap_or(60_000)));
    let backoff = Backoff::Exponential { initial, factor: factor.unwrap_or(2.0), max };
    backoff.check().map(|()| backoff).map_err(invalid)
}
