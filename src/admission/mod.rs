//! Admission: the path of every request into the database. A request is validated by the rules, placed
//! into a shard, and written until its result is known.
//!
//! Records of a partition, parked records, replays of dead letters and calls take the same path and
//! differ only in their [`TryPolicy`]. A running instance adds its shards and the actors to be
//! notified of new jobs, which are behind [`ShardAccess`]; a program that only writes to the
//! database uses an implementation without shards.

mod until_known;
mod calls;
mod call_queue;
mod bounded_tries;
mod replays;
mod parked;
mod changes;
mod batch_changes;

mod judge;
mod raw;
mod pending;
mod cancelling;
mod tickets;
mod committed;

mod shard_access;
mod apps;
mod counters;
mod database;

use std::sync::Arc;
use std::time::Duration;

use crate::model::clock::SharedClock;
use crate::model::request::Rules;
use crate::store::Store;

use apps::KnownApps;
use call_queue::CallQueue;
use cancelling::Cancelling;

pub(crate) use apps::{Objection, OwnApp, PauseState, Validate};
pub(crate) use batch_changes::{AskedBatch, Treated, change_batch_until_known, treated};
pub(crate) use calls::{JobPreview, SubmitError, Submitted};
pub(crate) use changes::{AskedChange, ChangeReply, RowNow, change_until_known};
pub(crate) use counters::AdmissionCounters;
pub(crate) use database::Database;
pub(crate) use pending::Pending;
pub(crate) use replays::{Replay, Replayed};
pub(crate) use shard_access::{Committed, ShardAccess};
pub(crate) use until_known::{Conclusion, LostAnswer, Tries, TryPolicy, Written};

/// Admits requests, on a running instance or in another program.
#[derive(Debug)]
pub(crate) struct Admission {
    database: Arc<Database>,
    /// This machine's clock.
    clock: SharedClock,
    /// The clock that decides whether a request is due or has expired: this machine's, or an
    /// earlier one.
    scheduling_clock: SharedClock,
    rules: AdmissionRules,
    apps: KnownApps,
    counters: Arc<AdmissionCounters>,
    shards: Arc<dyn ShardAccess>,
    /// Requests by API that wait for their admission.
    calls: CallQueue,
    /// What the owners of jobs are about to cancel.
    cancelling: Cancelling,
}

/// The rules for requests.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionRules {
    /// How requests are parsed.
    pub requests: Rules,
    /// How long an idempotency key is kept.
    pub idempotency_window: Duration,
    /// Whether a request with the same key and another time is a conflict.
    pub conflict_on_time: bool,
    /// The largest record that is parsed as a request, in bytes.
    pub max_record_bytes: usize,
    /// How many times a parked record is tried again.
    pub max_retries: u32,
    /// How many times in a row a replay may fail.
    pub max_replays: u32,
    /// Whether verdicts on requests are published.
    pub publishes_verdicts: bool,
}

impl AdmissionRules {
    /// For how long a key or an operation is remembered, milliseconds.
    pub(crate) fn window_ms(&self) -> i64 {
        i64::try_from(self.idempotency_window.as_millis()).unwrap_or(i64::MAX)
    }
}

/// What a running instance provides for its admissions.
#[derive(Debug)]
pub(crate) struct InstanceParts {
    pub(crate) database: Arc<Database>,
    pub(crate) clock: SharedClock,
    /// See [`Admission::scheduling_clock`].
    pub(crate) scheduling_clock: SharedClock,
    pub(crate) apps: Vec<OwnApp>,
    pub(crate) counters: Arc<AdmissionCounters>,
    pub(crate) shards: Arc<dyn ShardAccess>,
}

impl Admission {
    /// The admission of a running instance.
    pub(crate) fn of_instance(parts: InstanceParts, rules: AdmissionRules) -> Self {
        let InstanceParts { database, clock, scheduling_clock, apps, counters, shards } = parts;
        let apps = KnownApps::new(apps);
        let (calls, cancelling) = (CallQueue::default(), Cancelling::default());
        Self { database, clock, scheduling_clock, rules, apps, counters, shards, calls, cancelling }
    }

    /// The admission of a program that is no instance. It owns no shards: the owner of a job's
    /// shard is notified by a command, which may take a heartbeat. `lease` is the lease of the
    /// instances.
    pub(crate) fn stand_alone(
        store: Store,
        clock: SharedClock,
        rules: AdmissionRules,
        lease: Duration,
    ) -> Self {
        Self {
            database: Arc::new(Database::new(store, lease)),
            scheduling_clock: clock.clone(),
            clock,
            rules,
            apps: KnownApps::new(Vec::new()),
            counters: Arc::default(),
            shards: Arc::new(shard_access::NoShards),
            calls: CallQueue::default(),
            cancelling: Cancelling::default(),
        }
    }

    /// The database that it writes to.
    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// The shards of the instance that it belongs to.
    pub(crate) fn shards(&self) -> &dyn ShardAccess {
        &*self.shards
    }

    /// This machine's clock.
    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// The rules for requests.
    pub(crate) fn rules(&self) -> &AdmissionRules {
        &self.rules
    }

    /// The names of the apps that are registered on this instance, in order.
    pub(crate) fn app_names(&self) -> Vec<String> {
        self.apps.own_names()
    }
}
