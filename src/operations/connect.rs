//! Connects operations to a database, alone or as part of a running scheduler.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;

use super::admission::Admission;
use super::context::{Context, database_error};
use super::{Error, Operations, Result};
use crate::admission::{Admission as CoreAdmission, AdmissionRules};
use crate::config::{Config, TimeZones};
use crate::kafka::KafkaIngestConfig;
use crate::model::audit::By;
use crate::model::request::Rules;
use crate::store::{Store, StoreOptions, redact};

/// The database that operations work on, and the settings of its instances.
///
/// The settings should be those of the instances that run on the database, best from the same
/// [`Config`].
#[derive(Clone, Debug)]
#[must_use]
pub struct OperationsOptions {
    url: SecretString,
    max_connections: u32,
    kafka: Option<KafkaIngestConfig>,
    rules: AdmissionRules,
    lease: Duration,
    /// The name of a default time zone that replaces the one of `rules`.
    time_zone: Option<String>,
    migrates: bool,
}

impl OperationsOptions {
    /// The database at `url`, `sqlite://`, `postgres://` or `mysql://`, with default settings.
    pub fn new(url: impl Into<String>) -> Self {
        let config = Config::default();
        Self { url: SecretString::from(url.into()), ..Self::from(&config) }
    }

    /// The Kafka that the instances read requests from: needed by the operations of
    /// [`ingest`](Operations::ingest). Default none.
    pub fn with_kafka_ingest(mut self, config: KafkaIngestConfig) -> Self {
        self.rules.publishes_verdicts = config.events_topic.is_some();
        self.kafka = Some(config);
        self
    }

    /// The zone of local date-times that name none, by its IANA name. Default `UTC`.
    pub fn default_time_zone(mut self, name: impl Into<String>) -> Self {
        self.time_zone = Some(name.into());
        self
    }

    /// The lease of the instances. An admission waits for an answer for twice this time. Default 10
    /// s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How many times in a row a replay may fail. Default 5.
    pub fn max_replays(mut self, max_replays: u32) -> Self {
        self.rules.max_replays = max_replays;
        self
    }

    /// Migrates the tables to this version first, and creates an SQLite file that does not exist.
    /// Without this, both must exist.
    pub fn migrate_first(mut self) -> Self {
        self.migrates = true;
        self
    }

    /// The database's URL without its password.
    pub(super) fn shown(&self) -> String {
        redact(self.url.expose_secret())
    }

    pub(super) async fn open_store(&self) -> Result<Store> {
        // Without a migration, an operation must not create an empty database file.
        let url = match self.migrates {
            true => self.url.clone(),
            false => self.url.expose_secret().replacen("mode=rwc", "mode=rw", 1).into(),
        };
        let (max_connections, lease) = (self.max_connections, self.lease);
        let store = Store::connect(&StoreOptions { url, max_connections, lease }).await;
        store.map_err(|error| database_error(&self.shown(), error))
    }

    fn resolve_time_zone(&mut self) -> Result<()> {
        let Some(name) = &self.time_zone else { return Ok(()) };
        let zone = TimeZones::get().named(name);
        let invalid = |error| Error::Invalid(format!("default_time_zone {error}"));
        self.rules.requests.default_time_zone = zone.map_err(invalid)?;
        Ok(())
    }
}

impl From<&Config> for OperationsOptions {
    fn from(config: &Config) -> Self {
        Self {
            url: config.database.url.clone(),
            max_connections: config.database.max_connections.get(),
            kafka: config.kafka.clone(),
            rules: AdmissionRules::from(config),
            lease: config.instance.lease,
            time_zone: None,
            migrates: false,
        }
    }
}

impl From<&Config> for AdmissionRules {
    fn from(config: &Config) -> Self {
        let kafka = config.kafka.as_ref();
        Self {
            requests: Rules {
                default_time_zone: config.default_time_zone.clone(),
                max_schedule_ahead: config.ingest.max_schedule_ahead,
            },
            idempotency_window: config.idempotency.window,
            conflict_on_time: config.idempotency.conflict_on_time,
            max_record_bytes: config.ingest.max_record_bytes,
            max_retries: kafka.map_or(0, |kafka| kafka.max_retries),
            max_replays: config.dead_letters.max_replays,
            publishes_verdicts: kafka.is_some_and(|kafka| kafka.events_topic.is_some()),
        }
    }
}

impl Operations {
    /// Operations on a database without a scheduler of their own; schedulers may run on it. The
    /// connections belong to the tokio runtime on which this is called.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that contradict each other; [`Error::Unusable`] if there is
    /// no such database, or its tables are not those of this version; [`Error::Unavailable`] if it
    /// does not answer.
    pub async fn connect(options: impl Into<OperationsOptions>) -> Result<Self> {
        let mut options = options.into();
        options.resolve_time_zone()?;
        let database = options.shown();
        let store = options.open_store().await?;
        let checked = match options.migrates {
            true => store.migrate().await,
            false => store.check_schema().await,
        };
        if let Err(error) = checked {
            store.close().await;
            return Err(database_error(&database, error));
        }
        let context = Context {
            admission: Admission::on_database(store, options.rules, options.lease),
            database,
            kafka: options.kafka,
            runtime: Handle::current(),
            running: None,
            forecasts: Arc::default(),
            by: By::program(),
        };
        Ok(Self { context: Arc::new(context) })
    }

    /// The operations of a running scheduler, until `running` is false.
    pub(crate) fn of_scheduler(
        path: Arc<CoreAdmission>,
        database: String,
        kafka: Option<KafkaIngestConfig>,
        runtime: Handle,
        running: Arc<AtomicBool>,
    ) -> Self {
        let admission = Admission::of_scheduler(path);
        let (running, by) = (Some(running), By::program());
        let forecasts = Arc::default();
        let context = Context { admission, database, kafka, runtime, running, forecasts, by };
        Self { context: Arc::new(context) }
    }
}
