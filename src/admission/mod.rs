//! How anything gets in, whichever way it comes: judged by the rules, placed into shards, and
//! admitted until it is known what became of it.
//!
//! Records of a partition, parked records, replays of dead letters and calls take the same
//! path and differ in their [`Policy`] alone. What a running instance adds to that (its
//! shards, and the actors that hear of new jobs) is behind [`ShardAccess`]; a program that
//! only writes to the database has a form of it without shards.

mod until_known;
mod calls;
mod replays;
mod parked;
mod changes;

mod judge;
mod pending;
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

pub(crate) use apps::{Objection, OwnApp, PauseState, Validate};
pub(crate) use changes::{AskedChange, ChangeReply, RowNow, change_until_known};
pub(crate) use calls::SubmitError;
pub use calls::Submitted;
pub(crate) use counters::AdmissionCounters;
pub(crate) use database::Database;
pub(crate) use pending::Pending;
pub(crate) use replays::{Replay, Replayed};
pub(crate) use shard_access::{Committed, ShardAccess};
pub(crate) use until_known::{Known, Lost, Policy, Tries, Written};

/// The path of requests into the database, for an instance or for a program that is none.
#[derive(Debug)]
pub(crate) struct Admission {
    database: Arc<Database>,
    /// The machine's clock.
    clock: SharedClock,
    /// What decides whether a request is due or has expired: the machine's clock, or an earlier
    /// one.
    moments: SharedClock,
    rules: AdmissionRules,
    apps: KnownApps,
    counters: Arc<AdmissionCounters>,
    shards: Arc<dyn ShardAccess>,
}

/// What requests are judged and admitted by.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionRules {
    /// How requests are read.
    pub requests: Rules,
    /// The window of an idempotency key.
    pub idempotency_window: Duration,
    /// Whether the same key with another time is a conflict.
    pub conflict_on_time: bool,
    /// The largest record that is read as a request, in bytes.
    pub max_record_bytes: usize,
    /// How often a record is tried again whose failure may pass.
    pub max_retries: u32,
    /// How many replays one after the other may die again.
    pub max_replays: u32,
    /// Whether producers get verdicts on their requests.
    pub tells_verdicts: bool,
}

/// What a running instance brings to its admissions.
#[derive(Debug)]
pub(crate) struct InstanceParts {
    pub(crate) database: Arc<Database>,
    pub(crate) clock: SharedClock,
    /// As [`Admission::moments`].
    pub(crate) moments: SharedClock,
    pub(crate) apps: Vec<OwnApp>,
    pub(crate) counters: Arc<AdmissionCounters>,
    pub(crate) shards: Arc<dyn ShardAccess>,
}

impl Admission {
    /// The admission of a running instance.
    pub(crate) fn of_instance(parts: InstanceParts, rules: AdmissionRules) -> Self {
        let InstanceParts { database, clock, moments, apps, counters, shards } = parts;
        let apps = KnownApps::new(apps);
        Self { database, clock, moments, rules, apps, counters, shards }
    }

    /// The admission of a program that is no instance: it owns no shards, and the owners of the
    /// shards that jobs go into are told to look at them, which may take a heartbeat. `lease`
    /// is that of the instances.
    pub(crate) fn stand_alone(
        store: Store,
        clock: SharedClock,
        rules: AdmissionRules,
        lease: Duration,
    ) -> Self {
        Self {
            database: Arc::new(Database::new(store, lease)),
            moments: clock.clone(),
            clock,
            rules,
            apps: KnownApps::new(Vec::new()),
            counters: Arc::default(),
            shards: Arc::new(shard_access::NoShards),
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

    /// The machine's clock.
    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// What requests are judged and admitted by.
    pub(crate) fn rules(&self) -> &AdmissionRules {
        &self.rules
    }

    /// The names of the apps that are registered here, in order.
    pub(crate) fn app_names(&self) -> Vec<String> {
        self.apps.own_names()
    }
}
