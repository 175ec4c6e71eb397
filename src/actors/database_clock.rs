//! The database's clock as last read, and its difference to the clock of this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::lease::boot_ms;
use crate::model::clock::{Clock, SharedClock};

/// The database's clock: read with each heartbeat, and advanced between two readings by the boot
/// clock, which nobody can set.
#[derive(Debug)]
pub(super) struct DatabaseClock {
    /// The database's time minus the time since boot; [`UNKNOWN`] before the first reading.
    since_boot_ms: AtomicI64,
}

const UNKNOWN: i64 = i64::MIN;

impl Default for DatabaseClock {
    fn default() -> Self {
        Self { since_boot_ms: AtomicI64::new(UNKNOWN) }
    }
}

impl DatabaseClock {
    /// Records the time that an answer of the database contained. The database's actual time is
    /// this or later.
    pub(super) fn seen(&self, now_us: i64) {
        self.since_boot_ms.store(now_us / 1000 - boot_ms(), Ordering::Relaxed);
    }

    /// A lower bound of the database's current time; `None` before the first reading.
    pub(super) fn now_ms(&self) -> Option<i64> {
        let since_boot_ms = self.since_boot_ms.load(Ordering::Relaxed);
        (since_boot_ms != UNKNOWN).then(|| since_boot_ms + boot_ms())
    }
}

/// The clock that decides when jobs are due: this machine's clock, or the database's while that is
/// earlier by more than the tolerated difference.
#[derive(Debug)]
pub(super) struct SchedulingClock {
    own: SharedClock,
    database: Arc<DatabaseClock>,
    most_ms: u64,
}

impl SchedulingClock {
    pub(super) fn new(own: SharedClock, database: Arc<DatabaseClock>, most: Duration) -> Self {
        let most_ms = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Self { own, database, most_ms }
    }
}

impl Clock for SchedulingClock {
    fn now_ms(&self) -> i64 {
        earlier_of(self.own.now_ms(), self.database.now_ms(), self.most_ms)
    }
}

/// This machine's time, or the earlier of both where they differ by more than `most_ms`.
fn earlier_of(own_ms: i64, database_ms: Option<i64>, most_ms: u64) -> i64 {
    match database_ms {
        Some(database_ms) if own_ms.abs_diff(database_ms) > most_ms => own_ms.min(database_ms),
        _ => own_ms,
    }
}

/// The smallest difference of the database's clock to ours that explains an answer, if our clock
/// showed `asked_ms` before the question and `answered_ms` after the answer.
pub(super) fn skew_of(database_ms: i64, asked_ms: i64, answered_ms: i64) -> i64 {
    if database_ms < asked_ms { database_ms - asked_ms } else { (database_ms - answered_ms).max(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_clock_decides_where_they_differ_too_much() {
        for (own, database, moment) in [
            (10_000, Some(10_400), 10_000),
            (10_400, Some(10_000), 10_400),
            (10_600, Some(10_000), 10_000),
            (10_000, Some(10_600), 10_000),
            (10_000, None, 10_000),
        ] {
            assert_eq!(earlier_of(own, database, 500), moment, "{own}, {database:?}");
        }
    }

    #[test]
    fn a_slow_answer_is_no_difference_of_clocks() {
        assert_eq!(skew_of(1_500, 1_000, 9_000), 0);
        assert_eq!(skew_of(900, 1_000, 9_000), -100);
        assert_eq!(skew_of(9_300, 1_000, 9_000), 300);
    }

    #[test]
    fn the_databases_clock_is_known_once_it_was_seen_and_goes_on() {
        let clock = DatabaseClock::default();
        assert_eq!(clock.now_ms(), None);
        clock.seen(5_000_000);
        let read = clock.now_ms().expect("a time");
        assert!((5_000..60_000).contains(&read), "{read}");
    }
}
