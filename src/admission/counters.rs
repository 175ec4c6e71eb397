//! Counters of admissions since the start, by result.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The counters of one instance's admissions.
#[derive(Debug, Default)]
pub(crate) struct AdmissionCounters {
    pub(crate) received: AtomicU64,
    pub(crate) processed: AtomicU64,
    pub(crate) duplicate: AtomicU64,
    pub(crate) operations: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) parked: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) unknown_fields: AtomicU64,
    /// Jobs admitted, by app.
    scheduled: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

impl AdmissionCounters {
    pub(crate) fn add(&self, counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// The counter of the jobs of `app` that were admitted.
    pub(crate) fn scheduled(&self, app: &str) -> Arc<AtomicU64> {
        let mut apps = self.scheduled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = apps.get(app) {
            return known.clone();
        }
        apps.entry(app.to_owned()).or_default().clone()
    }

    /// The apps of which jobs were admitted.
    pub(crate) fn apps(&self) -> Vec<String> {
        self.scheduled.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}
