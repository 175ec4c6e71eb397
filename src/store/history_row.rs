//! What is written of an attempt into the history.

use std::sync::Arc;

use crate::model::ids::AppId;
use crate::model::job::Job;

/// How an attempt ended for its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// The job is retried.
    Retried,
    /// The job is done.
    Succeeded,
    /// The job failed for good.
    Dead,
    /// The job was cancelled.
    Cancelled,
}

impl AttemptState {
    pub(super) const ALL: [Self; 4] = [Self::Retried, Self::Succeeded, Self::Dead, Self::Cancelled];

    /// Its number in the table.
    pub(super) fn code(self) -> i16 {
        self as i16
    }

    /// The state of that number; one that only a newer version knows is taken for a failure.
    pub(super) fn of_code(code: i16) -> Self {
        Self::ALL.into_iter().find(|state| state.code() == code).unwrap_or(Self::Dead)
    }

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What the history keeps of an attempt, besides what its job and its outcome say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAttempt {
    /// The job's app.
    pub app: AppId,
    /// When the attempt started, epoch milliseconds; `None` if it did not.
    pub started_ms: Option<i64>,
    /// When it ended, epoch milliseconds.
    pub ended_ms: i64,
    /// The name of the instance on which it ran.
    pub instance: Arc<str>,
}

/// The values of a row that is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryRow<'a> {
    pub(super) job: &'a Job,
    pub(super) kept: &'a KeptAttempt,
    pub(super) attempt: u32,
    pub(super) state: AttemptState,
    pub(super) kind: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    pub(super) cancelled_by: Option<&'a str>,
}

impl<'a> HistoryRow<'a> {
    pub(super) fn lateness_ms(&self) -> Option<i64> {
        Some(self.kept.started_ms?.saturating_sub(self.job.ready_ms()))
    }

    /// A job that is retried has its `jobData` in its own row.
    pub(super) fn data(&self) -> Option<&'a str> {
        (self.state != AttemptState::Retried).then_some(self.job.data.as_str())
    }
}
