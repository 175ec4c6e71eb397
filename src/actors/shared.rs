//! What all actors of one instance stand on.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use secrecy::SecretString;

use super::counters::{AppFigures, Counters};
use super::database_clock::{DatabaseClock, moment_of};
use super::directory::Directory;
use super::holdings::Holdings;
use super::in_flight::InFlight;
use super::job_memory::{AppMemory, JobMemory};
use super::lease::Lease;
use super::processes;
use super::recovery::{self, Recovery};
use crate::dispatch::SharedHandler;
use crate::health::{Health, ProblemKind};
use crate::kafka::{
    BrokerState, Intake, KafkaIngestConfig, OnOffsetLost, Producer, TopicPartition, TroubleKind,
};
use crate::model::app::AppConfig;
use crate::model::clock::SharedClock;
use crate::model::ids::{AppId, InstanceId, LedgerId};
use crate::model::process::ProcessIdentity;
use crate::model::request::Rules;
use crate::store::{AppRow, Error as StoreError, Lane, Membership, Result as StoreResult, Store};

/// What problems of the consumer with its group and its brokers are reported about.
pub(crate) const KAFKA: &str = "kafka";

/// What the actors are to go by.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The instance's name for people.
    pub instance: String,
    /// After this a silent instance's shards move.
    pub lease: Duration,
    /// Past this difference to the database's clock the instance is not ready.
    pub max_clock_skew: Duration,
    /// How requests are read.
    pub rules: Rules,
    /// The version of the IANA database that local times are read by.
    pub time_zones: String,
    /// The window of an idempotency key.
    pub idempotency_window: Duration,
    /// Whether the same key with another time is a conflict.
    pub conflict_on_time: bool,
    /// The Redis that the fleet remembers keys in, if any.
    pub idempotency_redis: Option<SecretString>,
    /// The largest record that is read as a request.
    pub max_record_bytes: usize,
    /// The largest batch, in bytes.
    pub max_batch_bytes: usize,
    /// What the jobs of all apps may take in memory, in bytes.
    pub job_memory: usize,
    /// What is done with dead letters.
    pub dead_letters: DeadLetterSettings,
    /// How often the actors' figures are logged.
    pub metrics_interval: Duration,
    /// Whether producers are told what became of their requests.
    pub tells_verdicts: bool,
}

/// What is done with dead letters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadLetterSettings {
    /// A letter goes this long after it came or was last touched.
    pub keep: Duration,
    /// How many replays one after the other may die again.
    pub max_replays: u32,
}

/// An app that this instance fires.
pub(crate) struct RegisteredApp {
    /// Its row's id.
    pub id: AppId,
    /// Its name.
    pub name: Arc<str>,
    /// Its policy.
    pub config: AppConfig,
    /// What its jobs are given to.
    pub handler: SharedHandler,
    /// Its row, with rules and shards.
    pub row: Arc<AppRow>,
    pub(super) figures: Arc<AppFigures>,
    /// The bytes of its jobs.
    pub(super) memory: AppMemory,
    /// Attempts that run.
    pub(super) running: AtomicUsize,
    /// Attempts that run or whose outcome is not written.
    pub(super) unsettled: AtomicUsize,
}

impl std::fmt::Debug for RegisteredApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegisteredApp").field("id", &self.id).field("name", &self.name).finish()
    }
}

/// The Kafka side, if there is one.
#[derive(Debug)]
pub(super) struct KafkaSide {
    pub(super) config: KafkaIngestConfig,
    pub(super) producer: Producer,
    /// Sends verdicts, if they are told.
    pub(super) events: Option<Producer>,
    pub(super) intake: OnceLock<Intake>,
    /// The group has told the consumer which partitions are its own.
    pub(super) joined: AtomicBool,
}

/// What all actors of one instance stand on. It outlives each of them.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The database.
    pub store: Store,
    /// The instance's clock.
    pub clock: SharedClock,
    /// What to go by.
    pub settings: Settings,
    /// What was counted.
    pub counters: Counters,
    /// What is wrong with it.
    pub health: Health,
    pub(super) apps: HashMap<AppId, Arc<RegisteredApp>>,
    pub(super) lease: Lease,
    pub(super) database_clock: DatabaseClock,
    /// Ends what waits for the database.
    pub(super) database: Recovery,
    /// Ends what waits for the broker.
    pub(super) broker: Recovery,
    pub(super) directory: Directory,
    pub(super) holdings: Holdings,
    pub(super) in_flight: InFlight,
    pub(super) job_memory: Arc<JobMemory>,
    pub(super) kafka: Option<KafkaSide>,
    /// The ledger rows of the partitions that are read here.
    pub(super) partitions: DashMap<TopicPartition, LedgerId>,
    me: AtomicI64,
    /// The process that we are, where the kernel tells.
    pub(super) process: Option<ProcessIdentity>,
    /// Apps that others registered, as they were last read.
    others: RwLock<HashMap<String, Believed>>,
    pub(super) draining: AtomicBool,
    /// The shards that are due to us were asked for at least once.
    pub(super) settled: AtomicBool,
}

/// When it was read, and what was there.
type Believed = (i64, Option<Arc<AppRow>>);

/// How long an app's row that others registered is believed.
const BELIEVED_MS: i64 = 1000;

impl Shared {
    /// Puts the parts together. The instance has joined nobody yet.
    pub(crate) fn new(
        store: Store,
        clock: SharedClock,
        settings: Settings,
        apps: Vec<(AppConfig, SharedHandler, AppRow)>,
        kafka: Option<(KafkaIngestConfig, Producer, Option<Producer>)>,
    ) -> Self {
        let counters = Counters::default();
        let memory = JobMemory::new(settings.job_memory, apps.len());
        let registered = |(config, handler, row): (AppConfig, SharedHandler, AppRow)| {
            let app = RegisteredApp {
                id: row.id,
                name: config.name.as_str().into(),
                figures: counters.app(&config.name),
                config,
                handler,
                row: Arc::new(row),
                memory: AppMemory::of(&memory),
                running: AtomicUsize::new(0),
                unsettled: AtomicUsize::new(0),
            };
            (app.id, Arc::new(app))
        };
        let apps = apps.into_iter().map(registered).collect();
        let kafka = kafka.map(|(config, producer, events)| KafkaSide {
            config,
            producer,
            events,
            intake: OnceLock::new(),
            joined: AtomicBool::new(false),
        });
        Self {
            lease: Lease::new(settings.lease, clock.clone()),
            database_clock: DatabaseClock::default(),
            database: Recovery::default(),
            broker: Recovery::default(),
            store,
            clock,
            settings,
            counters,
            health: Health::default(),
            apps,
            directory: Directory::default(),
            holdings: Holdings::default(),
            in_flight: InFlight::default(),
            job_memory: memory,
            kafka,
            partitions: DashMap::new(),
            me: AtomicI64::new(0),
            process: processes::own(),
            others: RwLock::default(),
            draining: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        }
    }

    /// The apps that this instance fires, by name.
    pub(crate) fn app_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.apps.values().map(|app| app.name.to_string()).collect();
        names.sort();
        names
    }

    /// What to call these apps in a sentence: by name, or by their number if they are several.
    pub(super) fn names_of(&self, apps: impl IntoIterator<Item = AppId>) -> String {
        let apps: BTreeSet<AppId> = apps.into_iter().collect();
        match apps.first().and_then(|app| self.apps.get(app)) {
            Some(app) if apps.len() == 1 => app.name.to_string(),
            _ => format!("{} apps", apps.len()),
        }
    }

    /// Gives the actors the intake, once.
    pub(crate) fn set_intake(&self, intake: Intake) {
        if let Some(kafka) = &self.kafka
            && kafka.intake.set(intake).is_err()
        {
            tracing::debug!("the intake was set before");
        }
    }

    /// Whether this instance has asked for its share of the shards.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Reports what the clients of the broker have found out.
    pub(crate) fn report_brokers(&self) {
        let Some(kafka) = &self.kafka else { return };
        // Before there is an intake, whoever starts it reports.
        if let Some(intake) = kafka.intake.get().filter(|_| !self.draining.load(Ordering::Acquire))
        {
            let state = intake.state();
            match state.trouble.is_none() && !kafka.joined.load(Ordering::Acquire) {
                true => self.report_joining(),
                false => self.report_client(KAFKA, &state),
            }
        }
        self.report_client("kafka producer", &kafka.producer.state());
        self.note_broker(kafka);
        if let Some(events) = &kafka.events {
            self.report_client("kafka producer of verdicts", &events.state());
        }
    }

    /// Reports that the group has not said yet which partitions are ours.
    pub(crate) fn report_joining(&self) {
        let joining = "waits for the partitions that the consumer group gives it";
        self.health.report(KAFKA, ProblemKind::JoiningGroup, joining);
    }

    /// The group has said which partitions are ours.
    pub(super) fn has_joined(&self) {
        if let Some(kafka) = &self.kafka {
            kafka.joined.store(true, Ordering::Release);
        }
        self.report_brokers();
    }

    /// Lets what waits for the broker know whether it answers: of several clients, the first one
    /// that hears of an outage and the last one that hears of its end.
    fn note_broker(&self, kafka: &KafkaSide) {
        let intake = kafka.intake.get().map(Intake::state);
        let states = intake.into_iter().chain([kafka.producer.state()]);
        let mut unreachable = states.filter(|state| state.kind == Some(TroubleKind::Unreachable));
        match unreachable.next() {
            Some(_) => self.broker.unavailable(),
            None => self.broker.answers(),
        }
    }

    fn report_client(&self, subject: &str, state: &BrokerState) {
        let Some(trouble) = &state.trouble else {
            return self.health.clear(subject);
        };
        let kind = match state.kind {
            Some(TroubleKind::Denied) => ProblemKind::BrokerDenied,
            Some(TroubleKind::Topic) => ProblemKind::TopicUnavailable,
            Some(TroubleKind::Group) => ProblemKind::GroupRefused,
            Some(_) | None => ProblemKind::BrokerUnreachable,
        };
        self.health.report(subject, kind, trouble.clone());
    }

    /// How often the database or the broker has answered again.
    pub(super) fn recoveries(&self) -> u64 {
        self.database.recoveries() + self.broker.recoveries()
    }

    /// Waits for `backoff`, or until the broker answers again.
    pub(crate) async fn wait_for_broker(&self, backoff: Duration) {
        self.broker.wait(backoff).await;
    }

    /// Waits for `backoff`, or until the database or the broker answers again.
    pub(super) async fn wait_or_recovery(&self, backoff: Duration) {
        recovery::wait(&[&self.database, &self.broker], backoff).await;
    }

    /// What kind of problem an error is for something that needs the database: `otherwise` if
    /// that may pass by itself.
    pub(super) fn problem(error: &StoreError, otherwise: ProblemKind) -> ProblemKind {
        match error {
            StoreError::Unusable(_) | StoreError::Setting(_) => ProblemKind::DatabaseUnusable,
            _ => otherwise,
        }
    }

    /// Whether this instance may fire and write just now.
    pub(crate) fn has_lease(&self) -> bool {
        self.lease.is_valid()
    }

    /// Gives up on a database that neither answers nor hangs up. What was asked may still
    /// happen: the caller finds out as after any lost answer.
    pub(super) async fn bounded<T>(
        &self,
        asked: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        let patience = self.lease.length() * 2;
        match tokio::time::timeout(patience, asked).await {
            Ok(answer) => self.replace_sessions(answer),
            Err(_) => Err(StoreError::Unavailable(format!(
                "no answer within {} ms",
                patience.as_millis()
            ))),
        }
    }

    /// A server that only reads since a failover keeps its sessions, and a session keeps its
    /// settings: they are left, so that the next ones are with whoever writes now, and as they
    /// must be.
    pub(super) fn replace_sessions<T>(&self, answer: StoreResult<T>) -> StoreResult<T> {
        let error = match answer {
            Err(error) => self.store.explain(error),
            answer => return answer,
        };
        if error.is_of_session() {
            self.store.leave_sessions();
        }
        Err(error)
    }

    pub(super) fn intake(&self) -> Option<&Intake> {
        self.kafka.as_ref()?.intake.get()
    }

    pub(super) fn on_offset_lost(&self) -> OnOffsetLost {
        self.kafka.as_ref().map_or(OnOffsetLost::Earliest, |kafka| kafka.config.on_offset_lost)
    }

    /// How often a record is tried again whose failure may heal.
    pub(super) fn max_retries(&self) -> u32 {
        self.kafka.as_ref().map_or(0, |kafka| kafka.config.max_retries)
    }

    /// Whether producers are told what became of their requests.
    pub(super) fn tells_verdicts(&self) -> bool {
        self.settings.tells_verdicts
    }

    pub(super) fn ledgers(&self) -> Vec<LedgerId> {
        self.partitions.iter().map(|entry| *entry.value()).collect()
    }

    /// Whether what lies in this lane of the outbox is ours to publish.
    pub(super) fn owns(&self, lane: Lane) -> bool {
        match lane {
            Lane::Partition(ledger) => self.partitions.iter().any(|held| *held.value() == ledger),
            Lane::Shard(shard) => self.apps.keys().any(|app| self.holdings.has(*app, shard)),
        }
    }

    /// The moment to admit and fire by: our clock's, or the earlier one where the database's
    /// differs from it by more than it may.
    pub(super) fn now_ms(&self) -> i64 {
        let most_ms = self.settings.max_clock_skew.as_millis();
        let most_ms = u64::try_from(most_ms).unwrap_or(u64::MAX);
        moment_of(self.clock.now_ms(), self.database_clock.now_ms(), most_ms)
    }

    /// What is known here of the database's clock, in microseconds; ours before it was seen.
    pub(super) fn database_us(&self) -> i64 {
        self.database_clock.now_ms().unwrap_or_else(|| self.clock.now_ms()).saturating_mul(1000)
    }

    pub(super) fn me(&self) -> InstanceId {
        InstanceId(self.me.load(Ordering::Acquire))
    }

    pub(super) fn set_me(&self, me: InstanceId) {
        self.me.store(me.0, Ordering::Release);
    }

    pub(super) fn membership(&self) -> Membership {
        let mut apps: Vec<AppId> = self.apps.keys().copied().collect();
        apps.sort_unstable();
        Membership {
            name: self.settings.instance.clone(),
            apps,
            time_zones: self.settings.time_zones.clone(),
            lease: self.settings.lease,
            process: self.process.clone(),
        }
    }

    /// How many jobs may be started and not written: what the window holds, and room for
    /// the handlers.
    pub(super) fn unsettled_limit(window: NonZeroU32, max_in_flight: NonZeroU32) -> usize {
        window.max(max_in_flight).get() as usize
    }

    /// The row of an app, registered here or by others; read from the database at most
    /// once a second.
    pub(super) async fn app_row(&self, name: &str) -> StoreResult<Option<Arc<AppRow>>> {
        if let Some(app) = self.registered(name) {
            return Ok(Some(app.row.clone()));
        }
        let now = self.clock.now_ms();
        let believed = {
            let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
            others.get(name).filter(|(at, _)| now - at < BELIEVED_MS).map(|(_, row)| row.clone())
        };
        if let Some(row) = believed {
            return Ok(row);
        }
        let row = self.store.find_app(name).await?.map(Arc::new);
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        // Names come from outside: a flood of made-up ones must not fill the memory.
        others.retain(|_, (at, _)| now - *at < BELIEVED_MS);
        others.insert(name.to_owned(), (now, row.clone()));
        Ok(row)
    }

    /// Believes no more that these were never registered: one may just have been.
    pub(super) fn forget_unknown_apps(&self) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.retain(|_, (_, row)| row.is_some());
    }

    pub(super) fn registered(&self, name: &str) -> Option<&Arc<RegisteredApp>> {
        self.apps.values().find(|app| &*app.name == name)
    }
}
