//! What a target leaves out or does without effect, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one target.
#[derive(Debug, Default)]
pub(crate) struct TargetNotes {
    trace_left_out: AtomicU64,
    published_to_nobody: AtomicU64,
}

impl TargetNotes {
    /// Trace headers of a job that were left out, since they are none or too long.
    pub(crate) fn trace_left_out(&self) -> u64 {
        self.trace_left_out.load(Ordering::Relaxed)
    }

    /// Messages that were published while nobody had subscribed.
    pub(crate) fn published_to_nobody(&self) -> u64 {
        self.published_to_nobody.load(Ordering::Relaxed)
    }

    pub(super) fn leave_out_trace(&self) {
        self.trace_left_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn publish_to_nobody(&self) {
        self.published_to_nobody.fetch_add(1, Ordering::Relaxed);
    }
}
