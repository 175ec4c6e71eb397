//! Configures a scheduler in code.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::StartProgress;
use crate::actors::Settings;
use crate::admission::AdmissionRules;
use crate::config::{Config, Dispatch, TimeZones, check_redis_url};
use crate::dispatch::{JobHandler, KafkaTarget, SharedHandler};
use crate::kafka::KafkaIngestConfig;
use crate::model::app::AppConfig;
use crate::model::clock::{SharedClock, SystemClock};
use crate::model::flaw::{self, Flaw};

/// How often the outbox is scanned, in case a notification was lost.
const OUTBOX_SCAN: Duration = Duration::from_secs(30);

/// Where the jobs of an app are fired to.
#[derive(Clone)]
pub(super) enum Target {
    Handler(SharedHandler),
    Dispatch(Dispatch),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler(handler) => f.debug_tuple("Handler").field(&handler.name()).finish(),
            Self::Dispatch(dispatch) => dispatch.fmt(f),
        }
    }
}

/// Configures a [`Scheduler`](super::Scheduler), which [`start`](Self::start) starts.
#[derive(Clone, Debug)]
#[must_use]
pub struct SchedulerBuilder {
    pub(super) database_url: Option<SecretString>,
    pub(super) mysql: Option<MySqlParts>,
    pub(super) max_connections: u32,
    pub(super) kafka: Option<KafkaIngestConfig>,
    pub(super) apps: Vec<(AppConfig, Target)>,
    pub(super) settings: Settings,
    /// The name of a default time zone that replaces the one of `settings`.
    time_zone: Option<String>,
    pub(super) clock: SharedClock,
    pub(super) progress: StartProgress,
}

/// The parts of a MySQL URL.
#[derive(Clone, Debug)]
pub(super) struct MySqlParts {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    pub(super) username: String,
    pub(super) password: SecretString,
}

impl Default for MySqlParts {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 3306,
            database: "infinite_scheduler".into(),
            username: "root".into(),
            password: SecretString::default(),
        }
    }
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            instance: config.instance.id.clone(),
            lease: config.instance.lease,
            max_clock_skew: config.instance.max_clock_skew,
            admission: AdmissionRules::from(config),
            time_zones: TimeZones::get().version().to_owned(),
            idempotency_redis: config.idempotency.redis_url.clone(),
            max_batch_bytes: config.ingest.max_batch_bytes,
            job_memory: (config.instance.memory_mb.get() as usize).saturating_mul(1 << 20),
            outbox_scan: OUTBOX_SCAN,
            keep_dead_letters: config.dead_letters.keep,
            keep_audit: config.audit.keep,
            metrics_interval: config.log.metrics_interval,
        }
    }
}

impl Default for SchedulerBuilder {
    fn default() -> Self {
        Self::from_config(&Config::default())
    }
}

impl SchedulerBuilder {
    /// The settings of a configuration file, with its apps. Registering an app of the same name
    /// replaces the file's, including its policy and rules, which are available in `config.apps`.
    pub fn from_config(config: &Config) -> Self {
        let settings = Settings::from(config);
        let apps = config.apps.values();
        Self {
            database_url: Some(config.database.url.clone()),
            mysql: None,
            max_connections: config.database.max_connections.get(),
            kafka: config.kafka.clone(),
            apps: apps
                .map(|app| (app.app.clone(), Target::Dispatch(app.dispatch.clone())))
                .collect(),
            settings,
            time_zone: None,
            clock: Arc::new(SystemClock),
            progress: StartProgress::default(),
        }
    }

    /// Keeps jobs in the database at `url`: `sqlite://`, `postgres://` or `mysql://`.
    /// Default `sqlite://infinite-scheduler.db?mode=rwc`.
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database_url = Some(SecretString::from(url.into()));
        self.mysql = None;
        self
    }

    /// Keeps jobs in the MySQL or MariaDB database on this host. Default `localhost`.
    pub fn mysql_host(mut self, host: impl Into<String>) -> Self {
        self.mysql.get_or_insert_default().host = host.into();
        self
    }

    /// The port of that database. Default 3306.
    pub fn mysql_port(mut self, port: u16) -> Self {
        self.mysql.get_or_insert_default().port = port;
        self
    }

    /// The name of that database. Default `infinite_scheduler`.
    pub fn mysql_database(mut self, database: impl Into<String>) -> Self {
        self.mysql.get_or_insert_default().database = database.into();
        self
    }

    /// The user of that database. Default `root`.
    pub fn mysql_username(mut self, username: impl Into<String>) -> Self {
        self.mysql.get_or_insert_default().username = username.into();
        self
    }

    /// The user's password. Default empty.
    pub fn mysql_password(mut self, password: impl Into<String>) -> Self {
        self.mysql.get_or_insert_default().password = SecretString::from(password.into());
        self
    }

    /// Connections to the database, in addition to the heartbeat's own. Default 10.
    pub fn max_connections(mut self, max_connections: u32) -> Self {
        self.max_connections = max_connections.max(1);
        self
    }

    /// The memory for jobs, in MiB: those in the windows of all apps, those that run, and those
    /// whose outcome is not written yet. Default 128.
    pub fn memory_mb(mut self, memory_mb: NonZeroU32) -> Self {
        self.settings.job_memory = (memory_mb.get() as usize).saturating_mul(1 << 20);
        self
    }

    /// Reads requests from Kafka as `config` says.
    pub fn with_kafka_ingest(mut self, config: KafkaIngestConfig) -> Self {
        self.settings.admission.publishes_verdicts = config.events_topic.is_some();
        self.settings.admission.max_retries = config.max_retries;
        self.kafka = Some(config);
        self
    }

    /// Reads requests from `topic` of the brokers at `bootstrap_servers`.
    pub fn with_kafka_ingest_at(
        self,
        bootstrap_servers: impl Into<String>,
        topic: impl Into<String>,
    ) -> Self {
        let config = KafkaIngestConfig {
            bootstrap_servers: bootstrap_servers.into(),
            topics: vec![topic.into()],
            ..KafkaIngestConfig::default()
        };
        self.with_kafka_ingest(config)
    }

    /// Reads requests from `scheduler.jobs.ingest` of the broker at `localhost:9092`.
    pub fn with_default_kafka_ingest(self) -> Self {
        self.with_kafka_ingest(KafkaIngestConfig::default())
    }

    /// Fires the jobs of an app by calling `handler`. A second app of the same name replaces the
    /// first with all its settings.
    pub fn register_app(self, app: AppConfig, handler: impl JobHandler) -> Self {
        self.register(app, Target::Handler(Arc::new(handler)))
    }

    /// Fires the jobs of an app to a Kafka topic on the cluster that requests are read from. It
    /// must not be a topic of requests, dead letters or verdicts.
    pub fn register_app_on_topic(self, app: AppConfig, topic: impl Into<String>) -> Self {
        let target = KafkaTarget { topic: topic.into(), cluster: None };
        self.register_app_on(app, Dispatch::Kafka(target))
    }

    /// Fires the jobs of an app to a target, as the configuration does.
    pub(crate) fn register_app_on(self, app: AppConfig, target: Dispatch) -> Self {
        self.register(app, Target::Dispatch(target))
    }

    /// The instance's name, for logs and reports. Default the host name.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.settings.instance = id.into();
        self
    }

    /// The time after which the shards of a crashed instance are reassigned. Default 10 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self.settings.max_clock_skew = self.settings.max_clock_skew.min(lease / 2);
        self
    }

    /// How often the outbox is scanned, also for what a topic refused before. For tests.
    #[cfg(feature = "failpoints")]
    #[doc(hidden)]
    pub fn outbox_scan_interval(mut self, interval: Duration) -> Self {
        self.settings.outbox_scan = interval;
        self
    }

    /// The zone of local date-times that name none, by its IANA name. Default `UTC`.
    pub fn default_time_zone(mut self, name: impl Into<String>) -> Self {
        self.time_zone = Some(name.into());
        self
    }

    /// How long a dead letter is kept after its last change, unless it is parked or not published
    /// yet. Default 30 days.
    pub fn keep_dead_letters(mut self, keep: Duration) -> Self {
        self.settings.keep_dead_letters = keep;
        self
    }

    /// An entry of the audit is deleted this long after it was written. Default 365 days.
    pub fn keep_audit(mut self, keep: Duration) -> Self {
        self.settings.keep_audit = keep;
        self
    }

    /// How many times in a row a replay may fail. Default 5.
    pub fn max_replays(mut self, max_replays: u32) -> Self {
        self.settings.admission.max_replays = max_replays;
        self
    }

    /// A Redis in which all instances cache recent idempotency keys:
    /// `redis://:password@host:6379/0`. It is an optimization, and may be unavailable at any time.
    /// Default none.
    pub fn idempotency_redis(mut self, url: impl Into<String>) -> Self {
        self.settings.idempotency_redis = Some(SecretString::from(url.into()));
        self
    }

    /// How often the actors' counters are logged. Default 10 s.
    pub fn metrics_interval(mut self, interval: Duration) -> Self {
        self.settings.metrics_interval = interval;
        self
    }

    /// Keeps jobs in an SQLite database in this file.
    pub fn sqlite_file(self, path: impl Into<PathBuf>) -> Self {
        let url = format!("sqlite://{}?mode=rwc", path.into().display());
        self.database_url(url)
    }

    /// What the start is waiting for, to be shown meanwhile.
    pub fn progress(&self) -> StartProgress {
        self.progress.clone()
    }

    /// Resolves the time zone and validates the settings.
    pub(super) fn resolve(&mut self) -> Result<(), String> {
        if let Some((setting, flaw)) = self.flaw() {
            return Err(format!("{setting} {flaw}"));
        }
        if let Some(url) = &self.settings.idempotency_redis {
            check_redis_url(url).map_err(|error| error.to_string())?;
        }
        if let Some(name) = &self.time_zone {
            let zone = TimeZones::get().named(name);
            self.settings.admission.requests.default_time_zone =
                zone.map_err(|error| format!("default_time_zone {error}"))?;
        }
        Ok(())
    }

    /// The first name or URL with characters that it must not have, and the method that set it.
    fn flaw(&self) -> Option<(&'static str, Flaw)> {
        use flaw::{of_name, of_secret};
        let url = |url: &Option<SecretString>| of_name(url.as_ref()?.expose_secret());
        let mysql = |check: fn(&MySqlParts) -> Option<Flaw>| check(self.mysql.as_ref()?);
        let fields = || self.apps.iter().flat_map(|(app, _)| &app.required_fields);
        [
            ("database_url", url(&self.database_url)),
            ("mysql_host", mysql(|parts| of_name(&parts.host))),
            ("mysql_database", mysql(|parts| of_name(&parts.database))),
            ("mysql_username", mysql(|parts| of_name(&parts.username))),
            ("mysql_password", mysql(|parts| of_secret(parts.password.expose_secret()))),
            ("idempotency_redis", url(&self.settings.idempotency_redis)),
            ("instance_id", of_name(&self.settings.instance)),
            ("a name in required_fields", fields().find_map(|field| of_name(field))),
        ]
        .into_iter()
        .find_map(|(setting, flaw)| Some((setting, flaw?)))
    }

    fn register(mut self, app: AppConfig, target: Target) -> Self {
        self.apps.retain(|(known, _)| known.name != app.name);
        self.apps.push((app, target));
        self
    }
}
