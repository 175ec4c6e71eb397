//! How late attempts start: how many by their lateness, the share that met an objective over the
//! last hour, and how many start per second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// The upper bounds of the histogram, milliseconds.
const BOUNDS_MS: [i64; 14] =
    [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 60_000, 300_000];
const MINUTE_MS: i64 = 60_000;
/// For how long the objective's share is known.
const MINUTES: usize = 60;
/// Over how long the pace is measured.
const PACE_MS: i64 = 15_000;

/// How many attempts started how late.
#[derive(Debug, Default)]
pub(crate) struct Histogram([AtomicU64; BOUNDS_MS.len()]);

/// How many attempts started within the last hour, and how many of them met the objective.
#[derive(Debug, Default)]
pub(crate) struct LastHour(VecDeque<Minute>);

#[derive(Clone, Copy, Debug)]
struct Minute {
    number: i64,
    started: u64,
    met: u64,
}

/// Readings of a counter of starts, and when they were made.
#[derive(Debug, Default)]
pub(crate) struct Readings(VecDeque<(i64, u64)>);

/// What an instance publishes of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pace {
    /// How many attempts start per second.
    pub per_second: f64,
    /// How many started within the last hour while the app had an objective.
    pub started: u64,
    /// How many of them met it.
    pub met: u64,
}

impl Pace {
    /// The part of them that met the objective, from 0 to 1; none if nothing started.
    pub(crate) fn share(&self) -> Option<f64> {
        (self.started > 0).then(|| self.met as f64 / self.started as f64)
    }
}

impl Histogram {
    pub(crate) fn note(&self, lateness_ms: i64) {
        // Later than all bounds is only in the number of starts.
        if let Some(place) = BOUNDS_MS.iter().position(|bound| lateness_ms <= *bound) {
            self.0[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// By each bound, how many were no later.
    pub(crate) fn read(&self) -> BTreeMap<i64, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        let up_to = counts.scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        BOUNDS_MS.into_iter().zip(up_to).collect()
    }
}

impl LastHour {
    pub(crate) fn note(&mut self, now_ms: i64, met: bool) {
        let number = now_ms.div_euclid(MINUTE_MS);
        if self.0.back().is_none_or(|last| last.number != number) {
            self.0.push_back(Minute { number, started: 0, met: 0 });
            if self.0.len() > MINUTES {
                self.0.pop_front();
            }
        }
        if let Some(minute) = self.0.back_mut() {
            minute.started += 1;
            minute.met += u64::from(met);
        }
    }

    /// How many started, and how many met the objective.
    pub(crate) fn read(&self, now_ms: i64) -> (u64, u64) {
        let from = now_ms.div_euclid(MINUTE_MS) - MINUTES as i64;
        let within = self.0.iter().filter(|minute| minute.number > from);
        within.fold((0, 0), |(started, met), minute| (started + minute.started, met + minute.met))
    }
}

impl Readings {
    /// Notes that the counter was `count` at `now_ms`.
    pub(crate) fn note(&mut self, now_ms: i64, count: u64) {
        // What can start is not seen while nothing starts.
        if self.0.back().is_some_and(|(_, before)| *before == count) {
            self.0.clear();
        }
        self.0.push_back((now_ms, count));
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(at, _)| now_ms - at >= PACE_MS) {
            self.0.pop_front();
        }
    }

    /// How many there were per second, to a tenth.
    pub(crate) fn per_second(&self) -> f64 {
        let (Some((from_ms, before)), Some((to_ms, after))) = (self.0.front(), self.0.back())
        else {
            return 0.0;
        };
        let ms = (to_ms - from_ms).max(1) as f64;
        (after.saturating_sub(*before) as f64 * 10_000.0 / ms).round() / 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_counted_up_to_each_bound() {
        let histogram = Histogram::default();
        for ms in [-5, 1, 2, 100, 101, 300_000, 300_001] {
            histogram.note(ms);
        }
        let read = histogram.read();
        let at = |bound: i64| read[&bound];
        assert_eq!((at(1), at(5), at(50), at(100), at(250), at(300_000)), (2, 3, 3, 4, 5, 6));
    }

    #[test]
    fn the_share_is_that_of_the_last_hour() {
        let mut hour = LastHour::default();
        hour.note(0, false);
        hour.note(30 * MINUTE_MS, true);
        hour.note(30 * MINUTE_MS + 1, false);
        assert_eq!(hour.read(59 * MINUTE_MS), (3, 1));
        assert_eq!(hour.read(60 * MINUTE_MS), (2, 1));
        assert_eq!(hour.read(90 * MINUTE_MS), (0, 0));
        for minute in 100..300 {
            hour.note(minute * MINUTE_MS, true);
        }
        assert_eq!(hour.read(299 * MINUTE_MS), (60, 60));
    }

    #[test]
    fn the_pace_is_that_of_the_last_seconds_in_which_something_started() {
        let mut readings = Readings::default();
        assert_eq!(readings.per_second(), 0.0);
        for second in 0..30 {
            readings.note(second * 1_000, if second < 10 { 0 } else { (second as u64 - 10) * 50 });
            assert_eq!(readings.per_second(), if second < 11 { 0.0 } else { 50.0 });
        }
        readings.note(30_000, 19 * 50);
        assert_eq!(readings.per_second(), 0.0, "nothing starts any more");
    }
}
