//! Whether this instance may still fire and write, decided without a query.
//!
//! The lease is counted from before its last acknowledged renewal was *sent*, by a clock that
//! includes the time in which the machine or the process was suspended, and by the wall clock as
//! well. So a process that resumes after its lease has ended notices that before it acts.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::model::clock::SharedClock;

/// The lease as known to this process.
#[derive(Debug)]
pub(super) struct Lease {
    length: Duration,
    until_boot_ms: AtomicI64,
    until_wall_ms: AtomicI64,
    clock: SharedClock,
}

/// When a renewal was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentAt {
    boot_ms: i64,
    wall_ms: i64,
}

impl Lease {
    /// A lease counts as ended this fraction of its length early: for the steps between a check and
    /// the action that it allows, and for clocks that drift.
    const MARGIN: i32 = 10;

    pub(super) fn new(length: Duration, clock: SharedClock) -> Self {
        let (until_boot_ms, until_wall_ms) = (AtomicI64::new(0), AtomicI64::new(0));
        Self { length, until_boot_ms, until_wall_ms, clock }
    }

    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// To be called before a renewal is sent.
    pub(super) fn sending(&self) -> SentAt {
        SentAt { boot_ms: boot_ms(), wall_ms: self.clock.now_ms() }
    }

    /// Extends the lease after the renewal that was sent at `sent` was acknowledged.
    pub(super) fn renewed(&self, sent: SentAt) {
        let usable = self.length - self.length / Self::MARGIN as u32;
        let usable = i64::try_from(usable.as_millis()).unwrap_or(i64::MAX);
        self.until_boot_ms.store(sent.boot_ms + usable, Ordering::Release);
        self.until_wall_ms.store(sent.wall_ms + usable, Ordering::Release);
    }

    /// Ends the lease, since other instances have declared this one dead.
    pub(super) fn lost(&self) {
        self.until_boot_ms.store(0, Ordering::Release);
    }

    pub(super) fn is_valid(&self) -> bool {
        boot_ms() < self.until_boot_ms.load(Ordering::Acquire)
            && self.clock.now_ms() < self.until_wall_ms.load(Ordering::Acquire)
    }
}

/// Milliseconds since boot, including time in suspend.
pub(super) fn boot_ms() -> i64 {
    boot_ns() / 1_000_000
}

/// The same in nanoseconds.
pub(super) fn boot_ns() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::clock::ManualClock;

    #[test]
    fn a_lease_ends_by_the_wall_clock_too_and_before_its_length() {
        let clock = Arc::new(ManualClock::at(1_000_000));
        let lease = Lease::new(Duration::from_secs(10), clock.clone());
        assert!(!lease.is_valid(), "nothing was acknowledged yet");
        lease.renewed(lease.sending());
        assert!(lease.is_valid());
        clock.advance(8_999);
        assert!(lease.is_valid());
        clock.advance(1);
        assert!(!lease.is_valid());
    }

    #[test]
    fn a_lease_counts_from_the_moment_of_sending() {
        let clock = Arc::new(ManualClock::at(0));
        let lease = Lease::new(Duration::from_secs(10), clock.clone());
        let sent = lease.sending();
        clock.advance(9_500);
        lease.renewed(sent);
        assert!(!lease.is_valid(), "the answer came after the lease was over");
    }

    #[test]
    fn the_clock_of_leases_is_that_of_the_machine_since_its_boot() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let passed_ms = boot_ms() - (seconds * 1000.0) as i64;
        assert!((0..60_000).contains(&passed_ms), "{passed_ms} ms apart");
    }

    #[test]
    fn a_lost_lease_is_over_at_once() {
        let lease = Lease::new(Duration::from_secs(10), Arc::new(ManualClock::at(0)));
        lease.renewed(lease.sending());
        lease.lost();
        assert!(!lease.is_valid());
    }
}
