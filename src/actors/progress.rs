//! How far an attempt has come, shared by the task that runs it and by the one that watches over
//! it: only one of them reports its end.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

const RUNS: u8 = 0;
/// Its end is reported, and its handler still runs.
const HANGS: u8 = 1;
const GONE: u8 = 2;

/// How far one attempt has come.
#[derive(Debug)]
pub(super) struct Progress {
    created: Instant,
    begun: OnceLock<Instant>,
    state: AtomicU8,
}

/// What the task of an attempt leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// An end that is to be reported.
    Unreported,
    /// Nothing: its end was reported, and its handler hung until now.
    Hanging,
}

impl Progress {
    /// An attempt that was just created.
    pub(super) fn new() -> Self {
        Self { created: Instant::now(), begun: OnceLock::new(), state: AtomicU8::new(RUNS) }
    }

    /// A thread has begun to run it: its time counts from now on.
    pub(super) fn begin(&self) {
        self.begun.get_or_init(Instant::now);
    }

    /// How long ago it was created.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.created)
    }

    /// Whether it is over its time limit, or has waited for a thread as long.
    pub(super) fn is_late(&self, limit: Duration, now: Instant) -> bool {
        let since = self.begun.get().unwrap_or(&self.created);
        now.saturating_duration_since(*since) > limit
    }

    /// Whether a thread runs it.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.get().is_some()
    }

    /// Its time is over, and the caller reports that. False if its end is reported already.
    pub(super) fn hang(&self) -> bool {
        let order = Ordering::AcqRel;
        self.state.compare_exchange(RUNS, HANGS, order, Ordering::Acquire).is_ok()
    }

    /// Its task has ended.
    pub(super) fn end(&self) -> Left {
        match self.state.swap(GONE, Ordering::AcqRel) {
            HANGS => Left::Hanging,
            _ => Left::Unreported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_reported_once() {
        let progress = Progress::new();
        assert_eq!((progress.end(), progress.hang()), (Left::Unreported, false));
        let progress = Progress::new();
        assert!(progress.hang() && !progress.hang());
        assert_eq!(progress.end(), Left::Hanging);
    }

    #[test]
    fn its_time_counts_from_its_begin() {
        let progress = Progress::new();
        let (limit, now) = (Duration::from_secs(2), Instant::now());
        assert!(!progress.is_late(limit, now) && progress.is_late(limit, now + limit * 2));
        std::thread::sleep(Duration::from_millis(1));
        progress.begin();
        let since = *progress.begun.get().unwrap();
        progress.begin();
        assert_eq!(*progress.begun.get().unwrap(), since);
        assert!(!progress.is_late(limit, since + limit) && progress.has_begun());
    }
}
