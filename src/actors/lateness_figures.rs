//! How late the attempts of an app start, and how many start per second, as this instance sees it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::lateness::{Histogram, LastHour, Pace, Readings};

/// The lateness of an app's attempts since the start, and their pace.
#[derive(Debug, Default)]
pub(super) struct LatenessFigures {
    /// The highest, milliseconds.
    max_ms: AtomicI64,
    sum_ms: Sum,
    histogram: Histogram,
    objective_met: AtomicU64,
    objective_missed: AtomicU64,
    last_hour: Mutex<LastHour>,
    readings: Mutex<Readings>,
}

/// A sum of 128 bits: with millions of jobs, some of them thousands of years late, 64 bits could
/// overflow.
#[derive(Debug, Default)]
struct Sum {
    low: AtomicU64,
    /// How many times `low` has wrapped.
    carried: AtomicU64,
}

impl LatenessFigures {
    /// An attempt started so late.
    pub(super) fn note(&self, lateness_ms: i64) {
        // If the clock was set back meanwhile, the lateness is negative; it must not reduce the
        // sum.
        self.sum_ms.add(u64::try_from(lateness_ms).unwrap_or(0));
        self.max_ms.fetch_max(lateness_ms, Ordering::Relaxed);
        self.histogram.note(lateness_ms);
    }

    /// An attempt started so late at `now_ms`, where at most `objective` is promised.
    pub(super) fn compare(&self, lateness_ms: i64, objective: Duration, now_ms: i64) {
        let met = u128::try_from(lateness_ms).map_or(true, |late| late <= objective.as_millis());
        let counter = if met { &self.objective_met } else { &self.objective_missed };
        counter.fetch_add(1, Ordering::Relaxed);
        locked(&self.last_hour).note(now_ms, met);
    }

    /// `fired` attempts had started by `boot_ms`, for the pace; to be called about each second.
    pub(super) fn note_pace(&self, boot_ms: i64, fired: u64) {
        locked(&self.readings).note(boot_ms, fired);
    }

    /// What other instances and people are to know.
    pub(super) fn pace(&self, now_ms: i64) -> Pace {
        let (started, met) = locked(&self.last_hour).read(now_ms);
        Pace { per_second: locked(&self.readings).per_second(), started, met }
    }

    /// The highest lateness, milliseconds.
    pub(super) fn max_ms(&self) -> i64 {
        self.max_ms.load(Ordering::Relaxed)
    }

    /// The mean lateness of the `fired` attempts, milliseconds.
    pub(super) fn mean_ms(&self, fired: u64) -> i64 {
        let mean_ms = self.sum_ms.get().checked_div(fired.into()).unwrap_or(0);
        i64::try_from(mean_ms).unwrap_or(i64::MAX)
    }

    /// How many started no later than so many milliseconds, by that number.
    pub(super) fn up_to_ms(&self) -> BTreeMap<i64, u64> {
        self.histogram.read()
    }

    pub(super) fn objective_met(&self) -> u64 {
        self.objective_met.load(Ordering::Relaxed)
    }

    pub(super) fn objective_missed(&self) -> u64 {
        self.objective_missed.load(Ordering::Relaxed)
    }

    /// The part of the last hour's attempts that met the objective; none if nothing started.
    pub(super) fn objective_met_last_hour(&self, now_ms: i64) -> Option<f64> {
        self.pace(now_ms).share()
    }
}

impl Sum {
    fn add(&self, more: u64) {
        let before = self.low.fetch_add(more, Ordering::Relaxed);
        if before.checked_add(more).is_none() {
            self.carried.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The sum. It may be too low for a moment while another thread carries over.
    fn get(&self) -> u128 {
        let [carried, low] = [&self.carried, &self.low].map(|half| half.load(Ordering::Relaxed));
        u128::from(carried) << 64 | u128::from(low)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_lateness_of_very_old_jobs_is_right_however_many_they_are() {
        let figures = LatenessFigures::default();
        let late_ms = 250_000_000_000_000;
        // As many as fit into the lower half; added one by one they would take too long.
        let many = u64::MAX / late_ms;
        figures.sum_ms.add(many * late_ms);
        for more in 1..=3 {
            figures.note(late_ms as i64);
            assert_eq!(figures.mean_ms(many + more), late_ms as i64);
        }
        assert_eq!(figures.max_ms(), late_ms as i64);
    }

    #[test]
    fn a_start_before_its_moment_takes_nothing_from_the_sum() {
        let figures = LatenessFigures::default();
        figures.note(10);
        figures.note(-10);
        assert_eq!(figures.mean_ms(2), 5);
        assert_eq!(LatenessFigures::default().mean_ms(0), 0);
    }
}
