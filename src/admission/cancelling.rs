//! Live jobs whose cancellation a record has asked for a moment ago. Their owner may not have
//! carried it out yet, while the next record already asks for a job with the same idempotency key.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::change::JobChange;
use crate::model::change::named::Named;
use crate::model::ids::JobId;
use crate::store::Decision;

/// For how long a record waits for the owner, which may be an instance that has just died.
const LONGEST: Duration = Duration::from_secs(20);

/// These jobs, and when their cancellation was committed.
#[derive(Debug, Default)]
pub(super) struct Cancelling {
    jobs: Mutex<HashMap<JobId, Instant>>,
}

impl Cancelling {
    /// Adds those of a committed batch of records.
    pub(super) fn note(&self, decisions: &[Decision]) {
        let asked = decisions.iter().filter_map(|decision| match decision {
            Decision::Asked(asked) => Some(&asked.request),
            _ => None,
        });
        let cancels = asked.filter(|request| match &request.change {
            JobChange::Named(named) => matches!(named.change, Named::Cancel),
            JobChange::Cancel { .. } | JobChange::Run | JobChange::Edit(_) => false,
        });
        let jobs: Vec<JobId> = cancels.map(|request| request.job).collect();
        if !jobs.is_empty() {
            let now = Instant::now();
            let mut all = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(jobs.into_iter().map(|job| (job, now)));
        }
    }

    /// Those for which a record waits.
    pub(super) fn jobs(&self) -> HashSet<JobId> {
        let mut all = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, since| since.elapsed() < LONGEST);
        all.keys().copied().collect()
    }
}
