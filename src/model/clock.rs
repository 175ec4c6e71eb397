//! The source of time, which tests can replace and set.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// Wall-clock time. The instance's clock decides when a job is due, the database's clock when a
/// lease ends.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Epoch milliseconds, rounded down, so that no job is due early.
    fn now_ms(&self) -> i64;

    /// The same moment as a date.
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.now_ms()).unwrap_or(DateTime::UNIX_EPOCH)
    }
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now_ms(&self) -> i64 {
        Utc::now().timestamp_millis()
    }
}

/// A clock that changes only when it is set.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now_ms`.
    pub fn at(now_ms: i64) -> Self {
        Self(AtomicI64::new(now_ms))
    }

    /// Advances it by `ms`, or sets it back if negative.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_moved_by_hand_shows_where_it_was_moved() {
        let clock = ManualClock::at(1_500);
        assert_eq!(clock.now().to_rfc3339(), "1970-01-01T00:00:01.500+00:00");
        clock.advance(500);
        clock.advance(-1);
        assert_eq!(clock.now_ms(), 1_999);
    }

    #[test]
    fn the_machines_clock_is_past_the_day_this_was_written() {
        let written_ms = 1_762_185_600_000;
        assert!(SystemClock.now_ms() > written_ms);
        assert!(SystemClock.now().timestamp_millis() > written_ms);
    }
}
