//! Starts everything in order: database and migrations, actors, Kafka.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::{Actor, System};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::oneshot;

use super::builder::{MySqlParts, SchedulerBuilder, Target};
use super::intake::{start_intake, watch_brokers};
use super::{Inner, Scheduler, StartProgress};
use crate::actors::{Instance, RebalanceListener, Supervisor, watch_handlers};
use crate::config::TimeZones;
use crate::dispatch::{Dispatch, Producers, SharedHandler};
use crate::health::{Health, ProblemKind};
use crate::kafka::{self, KafkaIngestConfig, Producer};
use crate::model::app::{AppConfig, AppName};
use crate::operations::Operations;
use crate::store::{AppRow, Error as StoreError, Store, StoreOptions, redact};

/// How long to wait for another instance to release a database file.
const FILE_MAX_WAIT: Duration = Duration::from_secs(5);
/// The wait before an unavailable database is tried again, doubling up to the second value: short,
/// because a user may be waiting for the start.
const START_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// How often a condition of the start is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why a start failed, for a reason that is not temporary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings are wrong.
    #[error("{0}")]
    Settings(String),
    /// The database cannot be used.
    #[error("{0}")]
    Database(String),
    /// No thread or runtime could be created.
    #[error("cannot start: {0}")]
    Machine(String),
}

/// What the scheduler's thread returns after the start.
struct Started {
    instance: Arc<Instance>,
    supervisor: actix::Addr<Supervisor>,
    runtime: tokio::runtime::Handle,
    /// The database's URL without its password.
    database: String,
    kafka: Option<KafkaIngestConfig>,
}

pub(super) async fn start(builder: SchedulerBuilder) -> Result<Scheduler, StartError> {
    check(&builder)?;
    let (up, is_up) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new()
        .name("infinite-scheduler".into())
        .spawn(move || run(builder, up, stopped))
        .map_err(|error| StartError::Machine(error.to_string()))?;
    let gone = || StartError::Machine("the scheduler's thread ended".into());
    let Started { instance, supervisor, runtime, database, kafka } =
        is_up.await.map_err(|_| gone())??;
    let running = Arc::new(AtomicBool::new(true));
    let bulk_work = instance.bulk_work.subscribe();
    let inner = Inner {
        operations: Operations::of_scheduler(
            instance.admission.clone(),
            database,
            kafka,
            runtime.clone(),
            running.clone(),
        ),
        instance,
        supervisor,
        runtime,
        running,
        stop: Mutex::new(Some(stop)),
        thread: Mutex::new(Some(thread)),
    };
    inner.operations.run_bulks(bulk_work);
    Ok(Scheduler { inner: Arc::new(inner) })
}

fn check(builder: &SchedulerBuilder) -> Result<(), StartError> {
    for (app, target) in &builder.apps {
        let name = &app.name;
        AppName::new(name).map_err(|error| StartError::Settings(error.to_string()))?;
        let flaw = |why| StartError::Settings(format!("app {name}: its backoff {why}"));
        app.backoff.check().map_err(flaw)?;
        let (shards, most) = (app.shards.get(), AppConfig::MAX_SHARDS);
        if shards > most {
            let problem = format!("app {name}: shards is {shards}, but must be at most {most}");
            return Err(StartError::Settings(problem));
        }
        let attempts = app.max_attempts.get();
        if app.is_at_most_once() && attempts > 1 {
            let problem = format!(
                "app {name}: max_attempts is {attempts}, but a job that is delivered at most once \
                 has one attempt: give AppConfig::at_most_once"
            );
            return Err(StartError::Settings(problem));
        }
        let Target::Dispatch(Dispatch::Kafka(target)) = target else { continue };
        if builder.kafka.is_none() && target.cluster.is_none() {
            let topic = &target.topic;
            return Err(StartError::Settings(format!(
                "app {name} is to fire onto topic {topic}, but there is no Kafka: give \
                 with_kafka_ingest"
            )));
        }
        let problem = |why| StartError::Settings(format!("app {name}: its topic {why}"));
        target.check_topic(builder.kafka.as_ref()).map_err(problem)?;
    }
    if let Some(kafka) = &builder.kafka {
        let session = || kafka.validate_session(builder.settings.lease);
        let checked = kafka.validate().and_then(|()| session());
        checked.map_err(|error| StartError::Settings(error.to_string()))?;
    }
    if builder.settings.lease < Duration::from_secs(1) {
        return Err(StartError::Settings("the lease must be at least 1 s".into()));
    }
    Ok(())
}

/// The scheduler's thread: an actix System on a multi-threaded runtime. It ends on request, or when
/// the last handle is dropped.
fn run(
    builder: SchedulerBuilder,
    up: oneshot::Sender<Result<Started, StartError>>,
    stopped: oneshot::Receiver<()>,
) {
    // Handlers that block their threads stop neither heartbeats nor timers.
    let runtimes = runtime("scheduler-worker")
        .and_then(|workers| Ok((workers, runtime("scheduler-handler")?)));
    let (workers, handlers) = match runtimes {
        Ok(runtimes) => runtimes,
        Err(error) => {
            drop(up.send(Err(StartError::Machine(error.to_string()))));
            return;
        }
    };
    let of_handlers = handlers.handle().clone();
    System::with_tokio_rt(|| workers).block_on(async move {
        let mut stopped = stopped;
        let brought = tokio::select! {
            brought = bring_up(builder, of_handlers) => brought,
            // The caller has dropped the start.
            _ = &mut stopped => return,
        };
        let succeeded = brought.is_ok();
        if up.send(brought).is_ok() && succeeded {
            // An error means that the last handle was dropped.
            stopped.await.ok();
        }
    });
    // Threads that a handler still blocks are not waited for.
    handlers.shutdown_background();
}

fn runtime(threads: &str) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(threads).build()
}

async fn bring_up(
    builder: SchedulerBuilder,
    handlers: tokio::runtime::Handle,
) -> Result<Started, StartError> {
    let url = database_url(&builder);
    let database = redact(url.expose_secret());
    let store = connect(&builder, url, &database).await?;
    let producer = builder.kafka.as_ref().map(Producer::start).transpose().map_err(settings)?;
    let with_events = builder.kafka.as_ref().filter(|kafka| kafka.events_topic.is_some());
    let events = with_events.map(Producer::start_without_timeout).transpose().map_err(settings)?;
    let health = Health::default();
    let apps = register_apps(&store, &builder, Producers::new(producer.clone())).await?;
    let kafka = builder.kafka.clone().zip(producer);
    let kafka = kafka.map(|(config, producer)| (config, producer, events));
    let instance = Instance::new(
        store,
        builder.clock,
        builder.settings,
        apps,
        kafka,
        health.clone(),
        handlers,
    );
    check_packets(&instance.store, instance.settings.admission.max_record_bytes, &health).await;
    let instance = Arc::new(instance);
    let supervisor = Supervisor::new(instance.clone()).start();
    while !(instance.has_lease() && instance.has_asked_for_shards()) {
        let mut reasons = instance.health.read().reasons.into_iter();
        builder.progress.set(reasons.find(|reason| reason.starts_with("database")));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    builder.progress.set(None);
    instance.health.set_started(true);
    drop(tokio::spawn(watch_handlers(Arc::downgrade(&instance))));
    if builder.kafka.is_some() {
        drop(tokio::spawn(watch_brokers(Arc::downgrade(&instance))));
    }
    if let Some(config) = builder.kafka.clone().filter(|config| config.enabled) {
        start_intake(
            &instance,
            config,
            RebalanceListener {
                supervisor: supervisor.clone(),
                instance: Arc::downgrade(&instance),
            },
        )
        .await
        .map_err(settings)?;
    }
    let runtime = tokio::runtime::Handle::current();
    Ok(Started { instance, supervisor, runtime, database, kafka: builder.kafka })
}

fn settings(error: kafka::Error) -> StartError {
    StartError::Settings(error.to_string())
}

fn database_url(builder: &SchedulerBuilder) -> SecretString {
    match &builder.mysql {
        Some(parts) => mysql_url(parts),
        None => builder.database_url.clone().unwrap_or_default(),
    }
}

/// Waits for the database at `url` and migrates its tables to this version.
async fn connect(
    builder: &SchedulerBuilder,
    url: SecretString,
    shown: &str,
) -> Result<Store, StartError> {
    let options = StoreOptions {
        url,
        max_connections: builder.max_connections,
        lease: builder.settings.lease,
    };
    let open = || async {
        let store = Store::connect(&options).await?;
        store.migrate().await?;
        store.probe_row_locks().await?;
        Ok(store)
    };
    let store = await_database(&builder.progress, shown, open).await?;
    await_file(&builder.progress, &store, shown).await?;
    let zones = TimeZones::get();
    tracing::info!(time_zones = zones.version(), "{zones}");
    tracing::info!(database = %shown, "jobs are kept in {}, {shown}", store.kind());
    Ok(store)
}

/// The bytes that a statement with a record needs besides the record.
const PACKET_OVERHEAD: u64 = 64 << 10;

/// Reports if the server's limit for one packet is too small for the largest record, which could
/// then never be written.
async fn check_packets(store: &Store, max_record_bytes: usize, health: &Health) {
    let most = match store.max_packet_bytes().await {
        Ok(Some(most)) => most,
        Ok(None) => return,
        Err(error) => return tracing::debug!(%error, "max_allowed_packet is not known: {error}"),
    };
    let needed = (max_record_bytes as u64).saturating_add(PACKET_OVERHEAD);
    if most < needed {
        let why = format!(
            "is {most} bytes, less than what ingest.max_record_bytes ({max_record_bytes}) needs: \
             larger records cannot be written, and stop their partition; set it to at least \
             {needed} on the server, or lower ingest.max_record_bytes"
        );
        health.report("max_allowed_packet", ProblemKind::Setting, why);
    }
}

fn mysql_url(parts: &MySqlParts) -> SecretString {
    let MySqlParts { host, port, database, username, password } = parts;
    let (user, password) = (percent(username), percent(password.expose_secret()));
    let database = percent(database);
    SecretString::from(format!("mysql://{user}:{password}@{host}:{port}/{database}"))
}

/// Encodes a name or password for a URL.
fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// Waits while the database is unavailable; errors that are not temporary are returned at once.
async fn await_database<T, F>(
    progress: &StartProgress,
    shown: &str,
    mut attempt: impl FnMut() -> F,
) -> Result<T, StartError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut wait = START_BACKOFF.0;
    let mut reported = None;
    loop {
        match attempt().await {
            Ok(done) => {
                progress.set(None);
                return Ok(done);
            }
            Err(StoreError::Unusable(why) | StoreError::Refused(why)) => {
                return Err(StartError::Database(format!("the database {shown}: {why}")));
            }
            Err(error) => {
                let why = format!("waiting for the database {shown}: {error}");
                if reported.as_ref() != Some(&why) {
                    tracing::warn!(database = %shown, "{why}");
                }
                progress.set(Some(why.clone()));
                reported = Some(why);
                tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
                wait = (wait * 2).min(START_BACKOFF.1);
            }
        }
    }
}

/// Waits until no other process uses the database file, since it belongs to one process at a time.
async fn await_file(
    progress: &StartProgress,
    store: &Store,
    shown: &str,
) -> Result<(), StartError> {
    let deadline = Instant::now() + FILE_MAX_WAIT;
    while !await_database(progress, shown, || store.take_alone()).await? {
        if Instant::now() >= deadline {
            return Err(StartError::Database(format!(
                "{shown} is in use by another instance: stop that one, or use MariaDB or \
                 PostgreSQL to run several"
            )));
        }
        progress.set(Some(format!("waiting for another instance to release {shown}")));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    progress.set(None);
    Ok(())
}

async fn register_apps(
    store: &Store,
    builder: &SchedulerBuilder,
    mut producers: Producers,
) -> Result<Vec<(AppConfig, SharedHandler, AppRow)>, StartError> {
    let configs: Vec<&AppConfig> = builder.apps.iter().map(|(config, _)| config).collect();
    let register = || store.register_apps(&configs, builder.clock.now_ms());
    let rows = await_database(&builder.progress, "of the apps", register).await?;
    let mut apps = Vec::new();
    for ((config, target), row) in builder.apps.iter().zip(rows) {
        let (wanted, there) = (config.shards.get() as usize, row.shards.len());
        if wanted < there {
            let app = &config.name;
            tracing::warn!(
                app,
                wanted,
                there,
                "app {app} keeps its {there} shards: they cannot become {wanted}"
            );
        }
        let handler = match target {
            Target::Handler(handler) => handler.clone(),
            Target::Dispatch(dispatch) => {
                dispatch.open(config, &mut producers).map_err(StartError::Settings)?
            }
        };
        apps.push((config.clone(), handler, row));
    }
    Ok(apps)
}
