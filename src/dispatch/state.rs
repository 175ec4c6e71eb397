//! Whether a target accepts jobs, as the health report shows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::health::{Health, ProblemKind};

/// No failure so far, in epoch milliseconds.
const NEVER: i64 = i64::MIN;

/// The state of one target. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct TargetState {
    subject: String,
    health: Health,
    /// When the latest job that the target did not accept was fired, epoch milliseconds.
    failed_ms: Arc<AtomicI64>,
}

impl TargetState {
    /// A target that is assumed to accept jobs, reported to `health` as `subject`.
    pub(super) fn new(subject: String, health: Health) -> Self {
        Self { subject, health, failed_ms: Arc::new(AtomicI64::new(NEVER)) }
    }

    /// Each job waits independently; that jobs wait is reported once.
    pub(super) fn report_waiting(&self, why: impl fmt::Display, fired_ms: i64) {
        self.failed_ms.fetch_max(fired_ms, Ordering::Relaxed);
        let why = format!("does not accept fired jobs, which wait: {why}");
        self.health.report(&self.subject, ProblemKind::TargetUnavailable, why);
    }

    /// The success of a job that was fired before the last failure does not show the current
    /// state.
    pub(super) fn accepted(&self, fired_ms: i64) {
        let failed_ms = self.failed_ms.load(Ordering::Relaxed);
        let is_over = failed_ms != NEVER && fired_ms > failed_ms;
        let (set, order) = (NEVER, Ordering::Relaxed);
        if is_over && self.failed_ms.compare_exchange(failed_ms, set, order, order).is_ok() {
            self.health.clear(&self.subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_takes_no_jobs_is_reported_until_one_that_was_fired_later_is_taken() {
        let health = Health::default();
        let state = TargetState::new("topic sms.fired".to_owned(), health.clone());
        state.accepted(1);
        state.report_waiting("no broker", 5);
        state.accepted(5);
        let problem = &health.read().degraded[0];
        assert_eq!(problem.kind, ProblemKind::TargetUnavailable);
        assert_eq!(problem.subject, "topic sms.fired");
        assert!(problem.message.contains("no broker"), "{problem}");
        state.accepted(6);
        assert!(health.read().degraded.is_empty());
    }
}
