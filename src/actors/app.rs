//! An app whose jobs this instance fires: its policy, its handler and its running attempts.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use super::counters::{AppFigures, Counters};
use super::job_memory::{AppMemory, JobMemory};
use super::permits::KeyPermits;
use super::target_gate::TargetGate;
use crate::admission::{Objection, OwnApp, PauseState, Validate};
use crate::dispatch::{Rejection, SharedHandler};
use crate::health::Health;
use crate::model::app::AppConfig;
use crate::model::ids::AppId;
use crate::model::job::JobData;
use crate::model::limits::{LimitValues, Limits};
use crate::store::AppRow;

/// An app whose jobs this instance fires.
pub(crate) struct RegisteredApp {
    /// The id of its row.
    pub id: AppId,
    /// Its name.
    pub name: Arc<str>,
    /// Its policy.
    pub config: AppConfig,
    /// What executes its jobs.
    pub handler: SharedHandler,
    /// Its row, with the rules for requests and the shards.
    pub row: Arc<AppRow>,
    /// Whether it is paused.
    pub(super) pause: Arc<PauseState>,
    pub(super) figures: Arc<AppFigures>,
    /// How many bytes its jobs occupy.
    pub(super) memory: AppMemory,
    limits: Mutex<Limits>,
    /// The concurrency keys of running attempts.
    pub(super) keys: KeyPermits,
    /// How many live instances fire its jobs, as last seen.
    pub(super) instances: AtomicUsize,
    /// Whether its target takes jobs.
    pub(super) gate: TargetGate,
    /// That its handlers hang is reported.
    pub(super) hang_reported: AtomicBool,
    /// How many attempts are running.
    pub(super) running: AtomicUsize,
    /// How many attempts are running or have an outcome that is not written yet.
    pub(super) unwritten: AtomicUsize,
}

impl std::fmt::Debug for RegisteredApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegisteredApp").field("id", &self.id).field("name", &self.name).finish()
    }
}

impl RegisteredApp {
    pub(super) fn new(
        config: AppConfig,
        handler: SharedHandler,
        row: AppRow,
        counters: &Counters,
        memory: &Arc<JobMemory>,
        health: &Health,
    ) -> Self {
        let figures = counters.app(&config.name);
        figures.set_paused(row.pause.is_some());
        let most = config.max_in_flight.get() as usize;
        let target = handler.target();
        if let Some(target) = &target {
            figures.set_notes(target.notes.clone());
        }
        let gate = TargetGate::new(target, most, health.clone(), figures.clone());
        Self {
            gate,
            id: row.id,
            name: config.name.as_str().into(),
            figures,
            handler,
            pause: Arc::new(PauseState::of(&row)),
            row: Arc::new(row),
            memory: AppMemory::of(memory),
            limits: Mutex::new(Limits::of(&config, &LimitValues::default())),
            config,
            keys: KeyPermits::default(),
            hang_reported: AtomicBool::new(false),
            instances: AtomicUsize::new(1),
            running: AtomicUsize::new(0),
            unwritten: AtomicUsize::new(0),
        }
    }

    /// The largest number of attempts that may be running or have an unwritten outcome: enough for
    /// a full window and for all concurrent handlers.
    pub(super) fn max_unwritten(&self) -> usize {
        self.config.window.max(self.limits().max_in_flight).get() as usize
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Overrides the configured limits by these. True if others were in force before.
    pub(super) fn override_limits(&self, overrides: &LimitValues) -> bool {
        let limits = Limits::of(&self.config, overrides);
        self.gate.set_most(limits.max_in_flight.get() as usize);
        let mut before = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *before, limits) != limits
    }

    /// What an admission needs to know of the app.
    pub(super) fn for_admission(&self) -> OwnApp {
        let handler = Box::new(OwnHandler(self.handler.clone()));
        OwnApp { row: self.row.clone(), pause: self.pause.clone(), handler }
    }
}

/// Adapts a handler to the admission's interface.
struct OwnHandler(SharedHandler);

impl Validate for OwnHandler {
    fn validate(&self, data: &JobData) -> Result<(), Objection> {
        self.0.validate(data).map_err(|rejection| match rejection {
            Rejection::Invalid(why) => Objection::Invalid(why),
            Rejection::NotYet(why) => Objection::NotYet(why),
        })
    }
}
