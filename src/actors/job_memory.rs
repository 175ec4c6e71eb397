//! One limit, in bytes, for the jobs that this instance holds: those in the windows of all apps,
//! those that run, and those whose outcome is not written yet.
//!
//! Half of it is reserved in equal parts for the apps; the other half is divided among the apps
//! that need more than their part. An app may always hold a few jobs and run one, whatever their
//! size: only for that the limit is exceeded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The memory of all apps.
#[derive(Debug)]
pub(super) struct JobMemory {
    limit: usize,
    /// The bytes that are reserved for each app.
    part: usize,
    held: AtomicUsize,
    /// How many apps hold more than the reserved part.
    large: AtomicUsize,
}

/// The memory of one app.
#[derive(Debug)]
pub(super) struct AppMemory {
    all: Arc<JobMemory>,
    window: AtomicUsize,
    in_flight: AtomicUsize,
    is_large: AtomicBool,
}

impl JobMemory {
    /// A limit of `limit` bytes for this number of apps.
    pub(super) fn new(limit: usize, apps: usize) -> Arc<Self> {
        let (held, large) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { limit, part: limit / 2 / apps.max(1), held, large })
    }

    /// The bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl AppMemory {
    pub(super) fn of(all: &Arc<JobMemory>) -> Self {
        Self {
            all: all.clone(),
            window: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            is_large: AtomicBool::new(false),
        }
    }

    /// The bytes that the window may hold, given what is in flight.
    pub(super) fn for_window(&self) -> usize {
        self.allowed().saturating_sub(self.in_flight.load(Ordering::Relaxed))
    }

    /// The bytes of jobs that may start now. If none is in flight, this is at least one byte, which
    /// allows one job.
    pub(super) fn for_starts(&self) -> usize {
        match self.in_flight.load(Ordering::Relaxed) {
            0 => self.allowed().max(1),
            in_flight => self.allowed().saturating_sub(in_flight),
        }
    }

    /// Sets the bytes that the window holds.
    pub(super) fn set_window(&self, bytes: usize) {
        let before = self.window.swap(bytes, Ordering::Relaxed);
        if before != bytes {
            self.all.held.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
            self.update_large();
        }
    }

    /// Adds to the bytes that are in flight.
    pub(super) fn add_in_flight(&self, bytes: usize) {
        self.in_flight.fetch_add(bytes, Ordering::Relaxed);
        self.all.held.fetch_add(bytes, Ordering::Relaxed);
        self.update_large();
    }

    /// Subtracts from the bytes that are in flight.
    pub(super) fn remove_in_flight(&self, bytes: usize) {
        self.in_flight.fetch_sub(bytes, Ordering::Relaxed);
        self.all.held.fetch_sub(bytes, Ordering::Relaxed);
        self.update_large();
    }

    fn held(&self) -> usize {
        self.window.load(Ordering::Relaxed) + self.in_flight.load(Ordering::Relaxed)
    }

    /// The bytes that this app may hold: its reserved part, and its share of the other half as far
    /// as that is free.
    fn allowed(&self) -> usize {
        let JobMemory { limit, part, held, large } = &*self.all;
        let mine = self.held();
        let others = held.load(Ordering::Relaxed).saturating_sub(mine);
        let is_large = usize::from(self.is_large.load(Ordering::Relaxed));
        let others_are_large = large.load(Ordering::Relaxed).saturating_sub(is_large);
        let share = part + limit / 2 / (others_are_large + 1);
        share.min(limit.saturating_sub(others)).max(*part)
    }

    fn update_large(&self) {
        let is_large = self.held() > self.all.part;
        match (self.is_large.swap(is_large, Ordering::Relaxed), is_large) {
            (false, true) => {
                self.all.large.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                self.all.large.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_app_alone_has_all_of_it() {
        let all = JobMemory::new(100, 1);
        let app = AppMemory::of(&all);
        assert_eq!((app.for_window(), app.for_starts()), (100, 100));
        app.set_window(70);
        app.add_in_flight(30);
        assert_eq!((app.for_window(), app.for_starts(), all.held()), (70, 70, 100));
        app.add_in_flight(80);
        assert_eq!((app.for_window(), app.for_starts()), (0, 0));
        app.remove_in_flight(110);
        app.set_window(0);
        assert_eq!((app.for_window(), all.held()), (100, 0));
    }

    #[test]
    fn each_has_its_part_whatever_the_others_hold() {
        let all = JobMemory::new(100, 5);
        let (greedy, modest) = (AppMemory::of(&all), AppMemory::of(&all));
        assert_eq!(greedy.for_window(), 60, "its part and the other half");
        greedy.set_window(95);
        assert_eq!(modest.for_window(), 10, "its part");
        greedy.set_window(60);
        assert_eq!(modest.for_window(), 35, "its part and half of the other half");
        modest.set_window(35);
        assert_eq!(greedy.for_window(), 35, "the other one is large, too");
    }

    #[test]
    fn one_job_may_always_start_and_no_second_beside_one_that_is_too_large() {
        let all = JobMemory::new(0, 3);
        let app = AppMemory::of(&all);
        assert_eq!(app.for_starts(), 1);
        app.add_in_flight(900_000);
        assert_eq!(app.for_starts(), 0);
        app.remove_in_flight(900_000);
        assert_eq!(app.for_starts(), 1);
    }
}
