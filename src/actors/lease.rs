//! Whether we may still fire and write, judged without asking anybody.
//!
//! The lease counts from the moment before its last acknowledged renewal was *sent*, by a
//! clock that runs on while the machine or the process is suspended, and by the wall clock
//! as well. So a process that wakes up after its lease knows it before it does anything.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::model::clock::SharedClock;

/// The lease as it is known here.
#[derive(Debug)]
pub(super) struct Lease {
    length: Duration,
    until_boot_ms: AtomicI64,
    until_wall_ms: AtomicI64,
    clock: SharedClock,
}

/// The moment at which a renewal was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentAt {
    boot_ms: i64,
    wall_ms: i64,
}

impl Lease {
    /// The part of a lease that is kept in hand: for the steps between a check and what it
    /// allows, and for clocks that run unevenly.
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

    /// The renewal that was sent then has been acknowledged.
    pub(super) fn renewed(&self, sent: SentAt) {
        let usable = self.length - self.length / Self::MARGIN as u32;
        let usable = i64::try_from(usable.as_millis()).unwrap_or(i64::MAX);
        self.until_boot_ms.store(sent.boot_ms + usable, Ordering::Release);
        self.until_wall_ms.store(sent.wall_ms + usable, Ordering::Release);
    }

    /// We were declared dead.
    pub(super) fn lost(&self) {
        self.until_boot_ms.store(0, Ordering::Release);
    }

    pub(super) fn is_valid(&self) -> bool {
        boot_ms() < self.until_boot_ms.load(Ordering::Acquire)
            && self.clock.now_ms() < self.until_wall_ms.load(Ordering::Acquire)
    }
}

/// Milliseconds since boot, time in suspend included.
pub(super) fn boot_ms() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
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
