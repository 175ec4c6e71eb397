//! The apps that requests may name: those registered on this instance, with their handlers'
//! validation, and those registered by other instances, as their rows say.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use super::Admission;
use crate::model::job::JobData;
use crate::model::pause::AppPause;
use crate::store::{AppRow, Result as StoreResult};

/// How long the row of an app of other instances is cached, in milliseconds.
const CACHED_MS: i64 = 1000;

/// A handler's check of a request before it becomes a job.
pub(crate) trait Validate: Send + Sync {
    /// Checks the data of a request.
    ///
    /// # Errors
    /// Why no job of this app can have `data`.
    fn validate(&self, data: &JobData) -> Result<(), Objection>;
}

/// Why a handler rejects a request.
#[derive(Debug)]
pub(crate) enum Objection {
    /// It will never be accepted.
    Invalid(String),
    /// It may be accepted later.
    NotYet(String),
}

/// The pause of an app that is registered here, as it was last seen.
#[derive(Debug)]
pub(crate) struct PauseState(RwLock<Option<AppPause>>);

impl PauseState {
    /// As the app's row has it.
    pub(crate) fn of(row: &AppRow) -> Self {
        Self(RwLock::new(row.pause.clone()))
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Notes how it is seen now. True if that is news.
    pub(crate) fn set(&self, pause: Option<&AppPause>) -> bool {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref() == pause {
            return false;
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = pause.cloned();
        true
    }

    fn refusal(&self) -> Option<AppPause> {
        let pause = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pause.as_ref().filter(|pause| pause.refuses_requests).cloned()
    }
}

/// An app that is registered on this instance.
pub(crate) struct OwnApp {
    pub(crate) row: Arc<AppRow>,
    pub(crate) pause: Arc<PauseState>,
    pub(crate) handler: Box<dyn Validate>,
}

impl Debug for OwnApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OwnApp").field(&self.row.name).finish()
    }
}

/// The apps that are currently known.
#[derive(Debug)]
pub(super) struct KnownApps {
    own: HashMap<String, OwnApp>,
    /// The rows of apps that other instances registered.
    others: RwLock<HashMap<String, Cached>>,
}

/// When the row was read, and the row if it existed.
type Cached = (i64, Option<Arc<AppRow>>);

impl KnownApps {
    pub(super) fn new(own: Vec<OwnApp>) -> Self {
        let own = own.into_iter().map(|app| (app.row.name.clone(), app)).collect();
        Self { own, others: RwLock::default() }
    }

    /// The app, if it is registered on this instance.
    pub(super) fn own(&self, name: &str) -> Option<&OwnApp> {
        self.own.get(name)
    }

    pub(super) fn own_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.own.keys().cloned().collect();
        names.sort();
        names
    }

    /// The pause of the app of `row`, if it refuses requests meanwhile.
    pub(super) fn refusal(&self, row: &AppRow) -> Option<AppPause> {
        match self.own.get(&row.name) {
            Some(app) => app.pause.refusal(),
            None => row.pause.clone().filter(|pause| pause.refuses_requests),
        }
    }

    /// Drops cached results that an app does not exist, since it may have been registered
    /// meanwhile.
    pub(super) fn forget_unknown(&self) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.retain(|_, (_, row)| row.is_some());
    }

    fn cached(&self, name: &str, now_ms: i64) -> Option<Option<Arc<AppRow>>> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(name).filter(|(at, _)| now_ms - at < CACHED_MS).map(|(_, row)| row.clone())
    }

    fn cache(&self, name: &str, now_ms: i64, row: Option<Arc<AppRow>>) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        // Names come from producers: many made-up ones must not fill the memory.
        others.retain(|_, (at, _)| now_ms - *at < CACHED_MS);
        others.insert(name.to_owned(), (now_ms, row));
    }
}

impl Admission {
    /// The row of an app, registered here or by another instance; read from the database at most
    /// once a second.
    pub(super) async fn app_row(&self, name: &str) -> StoreResult<Option<Arc<AppRow>>> {
        if let Some(app) = self.apps.own(name) {
            return Ok(Some(app.row.clone()));
        }
        let now_ms = self.clock.now_ms();
        if let Some(row) = self.apps.cached(name, now_ms) {
            return Ok(row);
        }
        let row = self.database.store().find_app(name).await?.map(Arc::new);
        self.apps.cache(name, now_ms, row.clone());
        Ok(row)
    }
}
