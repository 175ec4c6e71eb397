//! A job as lists show it, and its JSON form.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::running::{RunningAttempt, WireRunning};
use crate::model::ids::JobId;
use crate::model::job::{Job, JobData, Priority};
use crate::operations::rfc3339_ms;
use crate::store::{AttemptState, EndedRow};

/// A job as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedJob {
    /// The job.
    pub job_id: JobId,
    /// The id of its request.
    pub request_id: String,
    /// Its app.
    pub app_name: String,
    /// What it is doing.
    pub state: JobState,
    /// When it is scheduled to fire, epoch milliseconds.
    pub scheduled_ms: i64,
    /// When its next attempt is due, or its last one was, epoch milliseconds.
    pub due_ms: i64,
    /// Its priority.
    pub priority: Priority,
    /// It is not fired after this moment, epoch milliseconds.
    pub expires_ms: Option<i64>,
    /// How long after `scheduled_ms` it may fire, in milliseconds.
    pub flexible_window_ms: Option<u64>,
    /// The key by which it is kept together with others.
    pub concurrency_key: Option<String>,
    /// When it was admitted, epoch milliseconds.
    pub created_ms: i64,
    /// The number of attempts that have ended.
    pub attempts: u32,
    /// The attempt that runs, if it has run for a second.
    pub running: Option<RunningAttempt>,
    /// The error of its last attempt.
    pub last_error: Option<String>,
    /// When it ended, epoch milliseconds; none if it has not.
    pub ended_ms: Option<i64>,
    /// Of one that failed for good, the kind of error.
    pub error_kind: Option<String>,
    /// Of one that was cancelled, by whom.
    pub cancelled_by: Option<String>,
    /// What its handler is given.
    pub job_data: JobData,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobState {
    /// Its next attempt is due later.
    Scheduled,
    /// Its next attempt is due.
    Due,
    /// An attempt at it runs: for a second or more, or on the instance that was asked.
    Running,
    /// It is done.
    Succeeded,
    /// It failed for good.
    Dead,
    /// It was cancelled.
    Cancelled,
    /// It does not exist yet, and operations on it are remembered. No list has it.
    Awaited,
}

impl JobState {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Due => "due",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Awaited => "awaited",
        }
    }

    /// That of a job whose last attempt ended so.
    pub(super) fn of_end(end: AttemptState) -> Self {
        match end {
            AttemptState::Succeeded => Self::Succeeded,
            AttemptState::Dead | AttemptState::Retried => Self::Dead,
            AttemptState::Cancelled => Self::Cancelled,
        }
    }
}

impl ListedJob {
    pub(super) fn new(job: Job, app: &str, running: Option<RunningAttempt>, now_ms: i64) -> Self {
        Self {
            job_id: job.id,
            request_id: job.request_id,
            app_name: app.to_owned(),
            state: match running {
                Some(_) => JobState::Running,
                None if job.due_ms <= now_ms => JobState::Due,
                None => JobState::Scheduled,
            },
            scheduled_ms: job.scheduled_ms,
            due_ms: job.due_ms,
            priority: job.priority,
            expires_ms: job.expires_ms,
            flexible_window_ms: job.flexible_ms,
            concurrency_key: job.concurrency_key,
            created_ms: job.created_ms,
            attempts: job.attempts,
            running,
            last_error: job.last_error,
            ended_ms: None,
            error_kind: None,
            cancelled_by: None,
            job_data: job.data,
        }
    }

    pub(super) fn of_ended(row: EndedRow, app: &str) -> Self {
        Self {
            job_id: row.id,
            request_id: row.request_id,
            app_name: app.to_owned(),
            state: JobState::of_end(row.state),
            scheduled_ms: row.scheduled_ms,
            due_ms: row.due_ms,
            priority: row.priority,
            expires_ms: None,
            flexible_window_ms: None,
            concurrency_key: None,
            created_ms: row.created_ms,
            attempts: row.attempts,
            running: None,
            last_error: row.error,
            ended_ms: Some(row.ended_ms),
            error_kind: row.kind,
            cancelled_by: row.cancelled_by,
            job_data: row.data,
        }
    }
}

/// The JSON form of a [`ListedJob`].
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ListedJob)]
pub(crate) struct WireListedJob<'a> {
    #[schema(value_type = Uuid)]
    job_id: JobId,
    request_id: &'a str,
    app_name: &'a str,
    #[schema(value_type = String)]
    state: JobState,
    scheduled_time: String,
    due_time: String,
    #[schema(value_type = String)]
    priority: Priority,
    expires_time: Option<String>,
    flexible_window_ms: Option<u64>,
    concurrency_key: Option<&'a str>,
    created_time: String,
    attempts: u32,
    running: Option<WireRunning<'a>>,
    last_error: Option<&'a str>,
    ended_time: Option<String>,
    error_kind: Option<&'a str>,
    cancelled_by: Option<&'a str>,
    #[schema(value_type = Object)]
    job_data: &'a JobData,
}

impl Serialize for ListedJob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireListedJob {
            job_id: self.job_id,
            request_id: &self.request_id,
            app_name: &self.app_name,
            state: self.state,
            scheduled_time: rfc3339_ms(self.scheduled_ms),
            due_time: rfc3339_ms(self.due_ms),
            priority: self.priority,
            expires_time: self.expires_ms.map(rfc3339_ms),
            flexible_window_ms: self.flexible_window_ms,
            concurrency_key: self.concurrency_key.as_deref(),
            created_time: rfc3339_ms(self.created_ms),
            attempts: self.attempts,
            running: self.running.as_ref().map(WireRunning::from),
            last_error: self.last_error.as_deref(),
            ended_time: self.ended_ms.map(rfc3339_ms),
            error_kind: self.error_kind.as_deref(),
            cancelled_by: self.cancelled_by.as_deref(),
            job_data: &self.job_data,
        }
        .serialize(serializer)
    }
}
