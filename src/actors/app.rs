//! An app that this instance fires: its policy, its handler, and what it has under way.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::counters::{AppFigures, Counters};
use super::job_memory::{AppMemory, JobMemory};
use crate::admission::{Objection, OwnApp, PauseState, Validate};
use crate::dispatch::{Rejection, SharedHandler};
use crate::model::app::AppConfig;
use crate::model::ids::AppId;
use crate::model::job::JobData;
use crate::store::AppRow;

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
    /// Whether it is paused.
    pub(super) pause: Arc<PauseState>,
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

impl RegisteredApp {
    pub(super) fn new(
        config: AppConfig,
        handler: SharedHandler,
        row: AppRow,
        counters: &Counters,
        memory: &Arc<JobMemory>,
    ) -> Self {
        let figures = counters.app(&config.name);
        figures.set_paused(row.pause.is_some());
        Self {
            id: row.id,
            name: config.name.as_str().into(),
            figures,
            config,
            handler,
            pause: Arc::new(PauseState::of(&row)),
            row: Arc::new(row),
            memory: AppMemory::of(memory),
            running: AtomicUsize::new(0),
            unsettled: AtomicUsize::new(0),
        }
    }

    /// How many jobs may be started and not written: what the window holds, and room for the
    /// handlers.
    pub(super) fn most_unsettled(&self) -> usize {
        self.config.window.max(self.config.max_in_flight).get() as usize
    }

    /// What an admission needs of it.
    pub(super) fn for_admission(&self) -> OwnApp {
        let handler = Box::new(OwnHandler(self.handler.clone()));
        OwnApp { row: self.row.clone(), pause: self.pause.clone(), handler }
    }
}

/// A handler as admissions ask it.
struct OwnHandler(SharedHandler);

impl Validate for OwnHandler {
    fn validate(&self, data: &JobData) -> Result<(), Objection> {
        self.0.validate(data).map_err(|rejection| match rejection {
            Rejection::Invalid(why) => Objection::Invalid(why),
            Rejection::NotYet(why) => Objection::NotYet(why),
        })
    }
}
