//! The state that all actors of one instance share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::watch;

use super::app::RegisteredApp;
use super::changing::Changing;
use super::counters::Counters;
use super::crash_guard::CrashGuard;
use super::database_clock::{DatabaseClock, SchedulingClock};
use super::in_flight::InFlight;
use super::job_memory::JobMemory;
use super::kafka_clients::KafkaClients;
use super::lease::{Lease, boot_ms};
use super::owned_shards::OwnedShards;
use super::processes;
use super::registry::Registry;
use super::settings::Settings;
use super::shard_access::InstanceShards;
use crate::admission::{Admission, Database, InstanceParts};
use crate::dispatch::SharedHandler;
use crate::health::{Health, ProblemKind};
use crate::kafka::{KafkaIngestConfig, Producer, TopicPartition};
use crate::model::app::AppConfig;
use crate::model::bulk::BulkWork;
use crate::model::clock::SharedClock;
use crate::model::ids::{AppId, InstanceId, LedgerId};
use crate::model::lateness::Pace;
use crate::model::process::ProcessIdentity;
use crate::recovery::{self, Recovery};
use crate::store::{
    AppRow, Error as StoreError, Membership, OrderingKey, Result as StoreResult, Store,
};

/// How often the pace of apps is published at most.
const PUBLISH_PACE_MS: i64 = 5_000;

/// The state that all actors of one instance share. It outlives each of them.
#[derive(Debug)]
pub(crate) struct Instance {
    /// The database.
    pub store: Store,
    /// This machine's clock.
    pub clock: SharedClock,
    /// The settings of the actors.
    pub settings: Settings,
    /// The counters.
    pub counters: Counters,
    /// The current problems.
    pub health: Health,
    /// Where handlers of the program run.
    pub(super) handlers: tokio::runtime::Handle,
    pub(super) apps: HashMap<AppId, Arc<RegisteredApp>>,
    /// The path of requests into the database.
    pub admission: Arc<Admission>,
    pub(super) lease: Arc<Lease>,
    pub(super) database_clock: Arc<DatabaseClock>,
    /// The clock that decides when jobs are due.
    scheduling_clock: SharedClock,
    /// The same database with time limits, and with waits that end when it is available again.
    pub(super) database: Arc<Database>,
    /// The broker's availability, which ends waits early.
    pub(super) broker: Recovery,
    pub(super) registry: Arc<Registry>,
    pub(super) owned: Arc<OwnedShards>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) changing: Changing,
    /// Who may start after instances have died.
    pub(super) crash_guard: Arc<CrashGuard>,
    pub(super) job_memory: Arc<JobMemory>,
    pub(super) kafka: Option<KafkaClients>,
    /// The ledger rows of the partitions that this instance reads.
    pub(super) partitions: DashMap<TopicPartition, LedgerId>,
    me: AtomicI64,
    /// The identity of this process, where the kernel provides it.
    pub(super) process: Option<ProcessIdentity>,
    pub(super) draining: AtomicBool,
    /// This instance's share of the shards was requested at least once.
    pub(super) asked_for_shards: AtomicBool,
    /// An operator has drained this instance: it owns nothing until it is restarted.
    pub(super) drained: AtomicBool,
    /// The ingest of our consumer group is paused.
    pub(super) ingest_paused: watch::Sender<bool>,
    /// The pace of apps as it was last published, and when, by the boot clock.
    published: Mutex<(i64, BTreeMap<AppId, Pace>)>,
    /// The bulk actions that this instance is to carry out.
    pub(crate) bulk_work: watch::Sender<BulkWork>,
}

impl Instance {
    /// Creates the shared state. The instance is not registered in the database yet.
    pub(crate) fn new(
        store: Store,
        clock: SharedClock,
        settings: Settings,
        apps: Vec<(AppConfig, SharedHandler, AppRow)>,
        kafka: Option<(KafkaIngestConfig, Producer, Option<Producer>)>,
        health: Health,
        handlers: tokio::runtime::Handle,
    ) -> Self {
        let counters = Counters::default();
        let memory = JobMemory::new(settings.job_memory, apps.len());
        let registered = |(config, handler, row): (AppConfig, SharedHandler, AppRow)| {
            let app = RegisteredApp::new(config, handler, row, &counters, &memory, &health);
            (app.id, Arc::new(app))
        };
        let apps: HashMap<AppId, Arc<RegisteredApp>> = apps.into_iter().map(registered).collect();
        let kafka =
            kafka.map(|(config, producer, events)| KafkaClients::new(config, producer, events));
        let database = Arc::new(Database::new(store.clone(), settings.lease));
        let database_clock = Arc::new(DatabaseClock::default());
        let scheduling_clock: SharedClock = Arc::new(SchedulingClock::new(
            clock.clone(),
            database_clock.clone(),
            settings.max_clock_skew,
        ));
        let shards = InstanceShards::new(Lease::new(settings.lease, clock.clone()));
        let parts = InstanceParts {
            database: database.clone(),
            clock: clock.clone(),
            scheduling_clock: scheduling_clock.clone(),
            apps: apps.values().map(|app| app.for_admission()).collect(),
            counters: counters.admission.clone(),
            shards: Arc::new(shards.clone()),
        };
        let admission = Arc::new(Admission::of_instance(parts, settings.admission.clone()));
        let InstanceShards { lease, owned, registry, in_flight } = shards;
        Self {
            admission,
            lease,
            owned,
            registry,
            database,
            database_clock,
            scheduling_clock,
            broker: Recovery::default(),
            store,
            clock,
            settings,
            counters,
            health,
            handlers,
            apps,
            in_flight,
            changing: Changing::default(),
            crash_guard: CrashGuard::new(),
            job_memory: memory,
            kafka,
            partitions: DashMap::new(),
            me: AtomicI64::new(0),
            process: processes::own(),
            draining: AtomicBool::new(false),
            asked_for_shards: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            ingest_paused: watch::Sender::new(false),
            published: Mutex::default(),
            bulk_work: watch::Sender::new(BulkWork { me: InstanceId(0), bulks: Vec::new() }),
        }
    }

    /// These apps as text for a log line: the name of one, or the number of several.
    pub(super) fn names_of(&self, apps: impl IntoIterator<Item = AppId>) -> String {
        let apps: BTreeSet<AppId> = apps.into_iter().collect();
        match apps.first().and_then(|app| self.apps.get(app)) {
            Some(app) if apps.len() == 1 => app.name.to_string(),
            _ => format!("{} apps", apps.len()),
        }
    }

    /// Whether an operator has drained this instance.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// Whether this instance has requested its share of the shards.
    pub(crate) fn has_asked_for_shards(&self) -> bool {
        self.asked_for_shards.load(Ordering::Acquire)
    }

    /// How many times the database or the broker became available again.
    pub(super) fn recoveries(&self) -> u64 {
        self.database.recovery().recoveries() + self.broker.recoveries()
    }

    /// Waits for `backoff`, or until the database or the broker is available again.
    pub(super) async fn wait_or_recovery(&self, backoff: Duration) {
        recovery::wait(&[self.database.recovery(), &self.broker], backoff).await;
    }

    /// The kind of problem to report for an error of the database: `otherwise` if the error may be
    /// temporary.
    pub(super) fn problem(error: &StoreError, otherwise: ProblemKind) -> ProblemKind {
        match error {
            StoreError::Unusable(_) | StoreError::Setting(_) => ProblemKind::DatabaseUnusable,
            _ => otherwise,
        }
    }

    /// Whether the lease is valid, so that this instance may fire and write.
    pub(crate) fn has_lease(&self) -> bool {
        self.lease.is_valid()
    }

    /// As [`Database::bounded`].
    pub(super) async fn bounded<T>(
        &self,
        asked: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        self.database.bounded(asked).await
    }

    /// For how long the name of a cancelled job is remembered, milliseconds.
    pub(super) fn window_ms(&self) -> i64 {
        let window_ms = self.settings.admission.idempotency_window.as_millis();
        i64::try_from(window_ms).unwrap_or(i64::MAX)
    }

    /// Whether verdicts on requests are published.
    pub(super) fn publishes_verdicts(&self) -> bool {
        self.settings.admission.publishes_verdicts
    }

    pub(super) fn ledgers(&self) -> Vec<LedgerId> {
        self.partitions.iter().map(|entry| *entry.value()).collect()
    }

    /// Whether this instance publishes this ordering key of the outbox.
    pub(super) fn owns(&self, ordering_key: OrderingKey) -> bool {
        match ordering_key {
            OrderingKey::Partition(ledger) => {
                self.partitions.iter().any(|held| *held.value() == ledger)
            }
            OrderingKey::Shard(shard) => self.apps.keys().any(|app| self.owned.has(*app, shard)),
        }
    }

    /// The current time for decisions about what is due: see [`SchedulingClock`].
    pub(super) fn now_ms(&self) -> i64 {
        self.scheduling_clock.now_ms()
    }

    /// The database's time in microseconds, as far as it is known; this machine's before the first
    /// reading.
    pub(super) fn database_us(&self) -> i64 {
        self.database_clock.now_ms().unwrap_or_else(|| self.clock.now_ms()).saturating_mul(1000)
    }

    /// What the next heartbeat is to say of the apps' attempts: nothing that was said before, and
    /// not more often than each [`PUBLISH_PACE_MS`].
    pub(super) fn pace_to_publish(&self) -> Option<BTreeMap<AppId, Pace>> {
        let (boot_ms, now_ms) = (boot_ms(), self.clock.now_ms());
        for app in self.apps.values() {
            app.figures.note_pace(boot_ms);
        }
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if boot_ms - published.0 < PUBLISH_PACE_MS {
            return None;
        }
        let paces = self.apps.iter().map(|(id, app)| (*id, app.figures.lateness.pace(now_ms)));
        let paces: BTreeMap<AppId, Pace> =
            paces.filter(|(_, pace)| *pace != Pace::default()).collect();
        if paces == published.1 {
            return None;
        }
        *published = (boot_ms, paces.clone());
        Some(paces)
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
            is_drained: self.is_drained(),
        }
    }
}
