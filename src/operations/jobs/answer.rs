//! The answers of operations on one job, as programs and people see them.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::model::change::{Answer, ChangeResult};
use crate::model::ids::JobId;
use crate::operations::rfc3339_ms;

/// What is true of a job after an operation on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobAnswer {
    /// What is true of it.
    pub result: ChangeResult,
    /// The job; `None` where none is known by the name that was given.
    pub job_id: Option<JobId>,
    /// Whether that is what was asked for, now or by an earlier operation.
    pub done: bool,
    /// Whether this operation changed something.
    pub changed: bool,
    /// While an attempt runs: whether another one follows if it fails.
    pub will_retry: Option<bool>,
    /// When its next attempt is due, epoch milliseconds.
    pub due_ms: Option<i64>,
    /// When it was first cancelled, epoch milliseconds.
    pub cancelled_ms: Option<i64>,
    /// Who cancelled it first.
    pub cancelled_by: Option<String>,
    /// Whether its app is paused, so that it does not fire before that is resumed.
    pub app_paused: bool,
    /// The id by which the answer of an operation is found that was not answered in time.
    pub operation: Option<i64>,
}

/// What became of an operation that was not answered in time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperationState {
    /// Its id.
    pub operation: i64,
    /// `cancel`, `reschedule`, `run` or `edit`.
    pub kind: &'static str,
    /// When it was asked for, epoch milliseconds.
    pub created_ms: i64,
    /// What became of it.
    pub outcome: OperationOutcome,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationOutcome {
    /// It waits for the owner of the job's shard.
    Waiting(JobId),
    /// It was carried out.
    Answered(JobAnswer),
    /// It was refused, and changed nothing: why.
    Refused(String),
    /// It was withdrawn before it was carried out, and changed nothing.
    Withdrawn(JobId),
}

impl JobAnswer {
    pub(in crate::operations) fn of(answer: Answer) -> Self {
        let Answer { result, job_id, done, changed, will_retry, due_ms, cancelled } = answer;
        let (cancelled_ms, cancelled_by) = cancelled.unzip();
        let no = Self::no(result, Some(job_id));
        Self { done, changed, will_retry, due_ms, cancelled_ms, cancelled_by, ..no }
    }

    pub(in crate::operations) fn no(result: ChangeResult, job_id: Option<JobId>) -> Self {
        Self {
            result,
            job_id,
            done: false,
            changed: false,
            will_retry: None,
            due_ms: None,
            cancelled_ms: None,
            cancelled_by: None,
            app_paused: false,
            operation: None,
        }
    }

    pub(super) fn not_answered(job_id: JobId, operation: i64) -> Self {
        Self { operation: Some(operation), ..Self::no(ChangeResult::NotAnswered, Some(job_id)) }
    }
}

/// The JSON form of a [`JobAnswer`].
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobAnswer)]
pub(crate) struct WireAnswer<'a> {
    #[schema(value_type = String)]
    result: ChangeResult,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    remembered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    job_id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    will_retry: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_by: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    app_paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<i64>,
}

impl Serialize for JobAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let remembered = self.result == ChangeResult::Remembered;
        WireAnswer {
            result: if remembered { ChangeResult::Unknown } else { self.result },
            remembered,
            job_id: self.job_id,
            will_retry: self.will_retry,
            due_time: self.due_ms.map(rfc3339_ms),
            cancelled_time: self.cancelled_ms.map(rfc3339_ms),
            cancelled_by: self.cancelled_by.as_deref(),
            app_paused: self.app_paused,
            operation: self.operation,
        }
        .serialize(serializer)
    }
}

/// The JSON form of an [`OperationState`].
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Operation)]
pub(crate) struct WireOperation<'a> {
    operation: i64,
    #[schema(value_type = String)]
    kind: &'static str,
    asked_time: String,
    #[schema(value_type = String)]
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    job_id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WireAnswer>)]
    answer: Option<&'a JobAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl Serialize for OperationState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (state, job_id, answer, message) = match &self.outcome {
            OperationOutcome::Waiting(job) => ("waiting", Some(*job), None, None),
            OperationOutcome::Answered(answer) => ("answered", answer.job_id, Some(answer), None),
            OperationOutcome::Refused(why) => ("refused", None, None, Some(why.as_str())),
            OperationOutcome::Withdrawn(job) => ("withdrawn", Some(*job), None, None),
        };
        let (operation, kind) = (self.operation, self.kind);
        let asked_time = rfc3339_ms(self.created_ms);
        let wire = WireOperation { operation, kind, asked_time, state, job_id, answer, message };
        wire.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_says_what_it_knows() {
        let job_id = JobId::derive("sms", "r");
        let no = |result| JobAnswer::no(result, Some(job_id));
        for (answer, wire) in [
            (no(ChangeResult::AlreadyFired), json!({ "result": "already-fired", "jobId": job_id })),
            (
                JobAnswer { will_retry: Some(false), ..no(ChangeResult::Running) },
                json!({ "result": "running", "jobId": job_id, "willRetry": false }),
            ),
            (JobAnswer::no(ChangeResult::Unknown, None), json!({ "result": "unknown" })),
            (
                no(ChangeResult::Remembered),
                json!({ "result": "unknown", "remembered": true, "jobId": job_id }),
            ),
            (
                JobAnswer::not_answered(job_id, 17),
                json!({ "result": "not-answered", "jobId": job_id, "operation": 17 }),
            ),
            (
                JobAnswer {
                    cancelled_ms: Some(0),
                    cancelled_by: Some("ann".into()),
                    ..no(ChangeResult::Cancelled)
                },
                json!({
                    "result": "cancelled",
                    "jobId": job_id,
                    "cancelledTime": "1970-01-01T00:00:00.000Z",
                    "cancelledBy": "ann",
                }),
            ),
        ] {
            assert_eq!(serde_json::to_value(&answer).unwrap(), wire);
        }
    }
}
