//! Measures how late jobs start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::dispatch::{JobContext, JobError, JobHandler};
use crate::model::job::Job;

/// A handler that only records how late each job starts.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopwatch {
    late_us: Arc<Mutex<Vec<i64>>>,
}

impl Stopwatch {
    pub(super) fn note(&self, late_us: i64) {
        self.late_us.lock().unwrap_or_else(PoisonError::into_inner).push(late_us);
    }

    pub(super) fn spread(&self) -> Spread {
        let mut late_us = self.late_us.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Spread::of(&mut late_us)
    }
}

impl JobHandler for Stopwatch {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        self.note(late_us(context.job()));
        Ok(())
    }

    fn name(&self) -> &str {
        "stopwatch"
    }
}

/// How long ago the job was due, in microseconds; negative if it is early.
pub(super) fn late_us(job: &Job) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_us = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    now_us.saturating_sub(job.due_ms.saturating_mul(1000))
}

/// The distribution of how late jobs started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spread {
    pub(super) jobs: usize,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    /// Jobs that started before they were due, which must not happen.
    pub(super) early: usize,
}

impl Spread {
    pub(super) fn of(late_us: &mut [i64]) -> Self {
        late_us.sort_unstable();
        // The nearest-rank method: a percentile is a value that occurred, not an interpolation.
        let at = |part: f64| {
            let rank = (part * late_us.len() as f64).ceil() as usize;
            late_us.get(rank.saturating_sub(1)).map_or(0.0, |&us| us as f64 / 1000.0)
        };
        Self {
            jobs: late_us.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            early: late_us.partition_point(|&us| us < 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut late_us: Vec<i64> = (1..=200).rev().map(|n| n * 1000).collect();
        let spread = Spread::of(&mut late_us);
        assert_eq!((spread.p50_ms, spread.p99_ms, spread.max_ms), (100.0, 198.0, 200.0));
        assert_eq!((spread.jobs, spread.early), (200, 0));
        assert_eq!(Spread::of(&mut []), Spread::default());
    }

    #[test]
    fn what_is_before_its_moment_is_early_and_what_is_at_it_is_not() {
        assert_eq!(Spread::of(&mut [0, -1, 5, -700]).early, 2);
    }
}
