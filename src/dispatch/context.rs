//! The context of an attempt, which a handler gets.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::job::{Fence, Job};

/// One attempt at one job. Clones are cheap and mean the same attempt.
#[derive(Clone, Debug)]
pub struct JobContext {
    app: Arc<str>,
    job: Arc<Job>,
    fence: Fence,
    fired_ms: i64,
    timeout: Duration,
    cancelled: CancellationToken,
}

impl JobContext {
    /// The attempt at `job` of `app` that starts at `fired_ms`, epoch milliseconds, and may take
    /// `timeout`.
    pub(crate) fn new(
        app: Arc<str>,
        job: Arc<Job>,
        fence: Fence,
        fired_ms: i64,
        timeout: Duration,
        cancelled: CancellationToken,
    ) -> Self {
        Self { app, job, fence, fired_ms, timeout, cancelled }
    }

    /// The job as it was when the attempt started.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The job's app.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The number of this attempt, 1 for the first.
    pub fn attempt(&self) -> u32 {
        attempt_at(&self.job)
    }

    /// Grows with each firing of the job: a receiver that remembers the highest can refuse
    /// a late one.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// When the attempt started, epoch milliseconds.
    pub fn fired_ms(&self) -> i64 {
        self.fired_ms
    }

    /// How long the attempt may take: the job's own time, or the app's.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Cancelled when this instance may no longer run the job, or when the attempt's time is over;
    /// the attempt may end early then.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }
}

/// The number of the next attempt at `job`.
pub(super) fn attempt_at(job: &Job) -> u32 {
    job.attempts.saturating_add(1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::ids::{JobId, ShardId};
    use crate::model::job::{Changes, JobData, Priority, TraceContext};

    /// The third attempt, 15 ms late, at a job of `sms` with this data.
    pub(in super::super) fn context(data: &str) -> JobContext {
        let job = Job {
            id: JobId::derive("sms", "r-1"),
            shard: ShardId(1),
            priority: Priority::High,
            due_ms: 1_762_185_605_000,
            request_id: "r-1".to_owned(),
            scheduled_ms: 1_762_185_600_000,
            expires_ms: None,
            flexible_ms: None,
            concurrency_key: None,
            created_ms: 1_762_185_000_000,
            attempts: 2,
            max_attempts: None,
            timeout_ms: None,
            data: JobData::from_trusted(data),
            trace: Some(TraceContext {
                parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
                state: None,
            }),
            origin: None,
            last_error: None,
            letter: None,
            version: None,
            changes: Changes::default(),
        };
        context_of(job)
    }

    /// The next attempt at `job`.
    pub(in super::super) fn context_of(job: Job) -> JobContext {
        let fired_ms = job.due_ms + 15;
        let cancelled = CancellationToken::new();
        let timeout = Duration::from_secs(60);
        JobContext::new("sms".into(), Arc::new(job), Fence::new(7, 3), fired_ms, timeout, cancelled)
    }

    #[test]
    fn the_attempt_is_the_one_after_those_that_have_ended() {
        let attempt = |attempts| {
            let job = Job { attempts, ..context("{}").job().clone() };
            context_of(job).attempt()
        };
        assert_eq!([0, 2, u32::MAX].map(attempt), [1, 3, u32::MAX]);
    }

    #[test]
    fn a_clone_is_cancelled_with_the_attempt() {
        let context = context("{}");
        let clone = context.clone();
        context.cancelled().cancel();
        assert!(clone.cancelled().is_cancelled());
    }
}
