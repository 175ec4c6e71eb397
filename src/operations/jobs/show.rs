//! One job as it is shown, or as it ended.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::listed::JobState;
use super::running::{RunningAttempt, WireRunning};
use crate::model::ids::JobId;
use crate::model::job::{JobData, Priority};
use crate::operations::rfc3339_ms;
use crate::store::{AttemptState, EndedJob, HistoryEntry, LocatedJob, StoredJob};

/// A job as it is in the database, or as its history says that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShownJob {
    /// The job.
    pub job_id: JobId,
    /// Its request's id.
    pub request_id: String,
    /// Its app.
    pub app_name: String,
    /// What it is doing.
    pub state: JobState,
    /// When it is scheduled to fire, epoch milliseconds.
    pub scheduled_ms: i64,
    /// When its next attempt is due, epoch milliseconds; none if it is cancelled or has ended.
    pub due_ms: Option<i64>,
    /// Its priority; none if it is cancelled.
    pub priority: Option<Priority>,
    /// After which it is not fired, epoch milliseconds.
    pub expires_ms: Option<i64>,
    /// How long after `scheduled_ms` it may fire, milliseconds.
    pub flexible_window_ms: Option<u64>,
    /// When it was admitted, epoch milliseconds.
    pub created_ms: i64,
    /// The attempts that have ended.
    pub attempts: u32,
    /// The attempt that runs, if it has run for a second.
    pub running: Option<RunningAttempt>,
    /// How often it is tried.
    pub max_attempts: u32,
    /// How long one attempt may take, milliseconds.
    pub timeout_ms: u64,
    /// The error of its last attempt.
    pub last_error: Option<String>,
    /// What its handler is given; none if it is cancelled.
    pub job_data: Option<JobData>,
    /// When it was cancelled, epoch milliseconds. A job that runs may have been, too.
    pub cancelled_ms: Option<i64>,
    /// Who cancelled it.
    pub cancelled_by: Option<String>,
    /// When it ended, epoch milliseconds; none if it has not, or only its cancellation is known.
    pub ended_ms: Option<i64>,
    /// Whether its app is paused; false of one that has ended.
    pub app_paused: bool,
    /// Identifies this state of it, for changes that are to be made only while it lasts.
    pub etag: String,
    /// The attempts that have ended, oldest first, as far as they are kept; with its cancellation
    /// if it was cancelled while it waited.
    pub history: Vec<HistoryEntry>,
}

impl ShownJob {
    pub(super) fn of(
        located: LocatedJob,
        now_ms: i64,
        is_running: bool,
        running: Option<RunningAttempt>,
    ) -> Self {
        let LocatedJob { stored, app_name, rules, is_paused, .. } = located;
        let StoredJob { job, is_tombstone } = stored;
        let state = match (is_tombstone, is_running || running.is_some()) {
            (true, _) if job.changes.cancelled.is_none() => JobState::Awaited,
            (true, _) => JobState::Cancelled,
            (false, true) => JobState::Running,
            (false, false) if job.due_ms <= now_ms => JobState::Due,
            (false, false) => JobState::Scheduled,
        };
        let etag = job.etag();
        let (cancelled_ms, cancelled_by) =
            job.changes.cancelled.map(|first| (first.at_ms, first.by)).unzip();
        Self {
            job_id: job.id,
            request_id: job.request_id,
            app_name,
            state,
            scheduled_ms: job.scheduled_ms,
            due_ms: (!is_tombstone).then_some(job.due_ms),
            priority: (!is_tombstone).then_some(job.priority),
            expires_ms: job.expires_ms,
            flexible_window_ms: job.flexible_ms,
            created_ms: job.created_ms,
            attempts: job.attempts,
            running: running.filter(|_| !is_tombstone),
            max_attempts: job.max_attempts.unwrap_or(rules.policy.max_attempts),
            timeout_ms: job.timeout_ms.unwrap_or(rules.policy.timeout_ms),
            last_error: job.last_error,
            job_data: (!is_tombstone).then_some(job.data),
            cancelled_ms,
            cancelled_by,
            ended_ms: None,
            app_paused: is_paused,
            etag,
            history: Vec::new(),
        }
    }

    pub(super) fn of_ended(job: EndedJob) -> Self {
        let EndedJob { end, created_ms, rules, .. } = job;
        let is_cancelled = end.state == AttemptState::Cancelled;
        Self {
            job_id: job.id,
            request_id: job.request_id,
            app_name: job.app_name,
            state: JobState::of_end(end.state),
            scheduled_ms: job.scheduled_ms,
            due_ms: None,
            priority: Some(job.priority),
            expires_ms: None,
            flexible_window_ms: None,
            created_ms,
            attempts: end.attempt,
            running: None,
            max_attempts: job.max_attempts.unwrap_or(rules.policy.max_attempts),
            timeout_ms: job.timeout_ms.unwrap_or(rules.policy.timeout_ms),
            last_error: end.error,
            job_data: job.data,
            cancelled_ms: is_cancelled.then_some(end.ended_ms),
            cancelled_by: end.cancelled_by,
            ended_ms: Some(end.ended_ms),
            app_paused: false,
            etag: format!("{created_ms:x}-{:x}-{:x}-ended", end.attempt, end.ended_ms),
            history: job.attempts,
        }
    }
}

/// The JSON form of a [`HistoryEntry`].
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attempt)]
struct WireAttempt<'a> {
    attempt: u32,
    state: &'static str,
    due_time: String,
    started_time: Option<String>,
    ended_time: String,
    lateness_ms: Option<i64>,
    duration_ms: Option<i64>,
    kind: Option<&'a str>,
    error: Option<&'a str>,
    instance: Option<&'a str>,
}

impl<'a> WireAttempt<'a> {
    fn of(entry: &'a HistoryEntry) -> Self {
        Self {
            attempt: entry.attempt,
            state: entry.state.as_str(),
            due_time: rfc3339_ms(entry.due_ms),
            started_time: entry.started_ms.map(rfc3339_ms),
            ended_time: rfc3339_ms(entry.ended_ms),
            lateness_ms: entry.lateness_ms,
            duration_ms: entry.duration_ms(),
            kind: entry.kind.as_deref(),
            error: entry.error.as_deref(),
            instance: entry.instance.as_deref(),
        }
    }
}

/// The JSON form of a [`ShownJob`].
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Job)]
pub(crate) struct WireJob<'a> {
    #[schema(value_type = Uuid)]
    job_id: JobId,
    request_id: &'a str,
    app_name: &'a str,
    #[schema(value_type = String)]
    state: JobState,
    scheduled_time: String,
    due_time: Option<String>,
    #[schema(value_type = Option<String>)]
    priority: Option<Priority>,
    expires_time: Option<String>,
    flexible_window_ms: Option<u64>,
    created_time: String,
    attempts: u32,
    running: Option<WireRunning<'a>>,
    max_attempts: u32,
    timeout_ms: u64,
    last_error: Option<&'a str>,
    cancelled_time: Option<String>,
    cancelled_by: Option<&'a str>,
    ended_time: Option<String>,
    app_paused: bool,
    etag: &'a str,
    history: Vec<WireAttempt<'a>>,
    #[schema(value_type = Option<Object>)]
    job_data: Option<&'a JobData>,
}

impl Serialize for ShownJob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireJob {
            job_id: self.job_id,
            request_id: &self.request_id,
            app_name: &self.app_name,
            state: self.state,
            scheduled_time: rfc3339_ms(self.scheduled_ms),
            due_time: self.due_ms.map(rfc3339_ms),
            priority: self.priority,
            expires_time: self.expires_ms.map(rfc3339_ms),
            flexible_window_ms: self.flexible_window_ms,
            created_time: rfc3339_ms(self.created_ms),
            attempts: self.attempts,
            running: self.running.as_ref().map(WireRunning::from),
            max_attempts: self.max_attempts,
            timeout_ms: self.timeout_ms,
            last_error: self.last_error.as_deref(),
            cancelled_time: self.cancelled_ms.map(rfc3339_ms),
            cancelled_by: self.cancelled_by.as_deref(),
            ended_time: self.ended_ms.map(rfc3339_ms),
            app_paused: self.app_paused,
            etag: &self.etag,
            history: self.history.iter().map(WireAttempt::of).collect(),
            job_data: self.job_data.as_ref(),
        }
        .serialize(serializer)
    }
}
