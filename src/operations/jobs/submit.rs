//! Requests for jobs, and operations in the form of a request. Where a live job is to be changed,
//! the owner of its shard is asked.

use tokio::time::Instant;

use super::answer::JobAnswer;
use super::change::{JobOperation, TRIES};
use crate::admission::{JobPreview as CorePreview, Submitted as CoreSubmitted};
use crate::model::change::ChangeResult;
use crate::model::ids::JobId;
use crate::model::request::{Operation, ScheduleJobRequest};
use crate::operations::context::Context;
use crate::operations::{Error, Result};
use crate::store::ChangeRequest;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Submitted {
    /// It is a job now.
    Accepted {
        /// The job.
        job_id: JobId,
        /// The request's name, made here if it brought none.
        request_id: String,
    },
    /// It repeats an earlier request.
    Duplicate {
        /// That request's job.
        job_id: JobId,
        /// That request's name.
        of: String,
        /// Whether that job was cancelled.
        cancelled: bool,
    },
    /// It is an operation, or a schedule that was decided by its version.
    Operated(JobAnswer),
}

/// What a request would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobPreview {
    /// Whether it would be a job, or a duplicate.
    pub submitted: Submitted,
    /// When the job would fire, epoch milliseconds; `None` of one that would not.
    pub due_ms: Option<i64>,
    /// After when it would not fire any more, epoch milliseconds.
    pub expires_ms: Option<i64>,
}

/// What a request comes to, or whom to ask.
enum Submission {
    Known(Submitted),
    /// The owner of a live job, which this is about.
    Asked(Box<ChangeRequest>),
}

impl Context {
    /// The answers in the order of the requests; those with a name in common in any order.
    pub(super) async fn submit(&self, requests: Vec<ScheduleJobRequest>) -> Vec<Result<Submitted>> {
        // Only these may have to be asked for again.
        let changes = |request: &ScheduleJobRequest| {
            request.operation != Operation::Schedule || request.version.is_some()
        };
        let again: Vec<Option<ScheduleJobRequest>> =
            requests.iter().map(|request| changes(request).then(|| request.clone())).collect();
        let submitted = self.admission.submit_all(requests).await;
        let mut answers = Vec::with_capacity(submitted.len());
        for (submission, request) in submitted.into_iter().zip(again) {
            answers.push(match (submission.map(Submission::from), request) {
                (Ok(Submission::Known(submitted)), _) => Ok(submitted),
                (Ok(Submission::Asked(change)), Some(request)) => {
                    self.ask_for(*change, request).await
                }
                (Ok(Submission::Asked(change)), None) => Err(not_settled(&change)),
                (Err(error), _) => Err(error),
            });
        }
        answers
    }

    pub(super) async fn preview(&self, request: ScheduleJobRequest) -> Result<JobPreview> {
        let CorePreview { submitted, due_ms, expires_ms } = self.admission.preview(request).await?;
        let submitted = match Submission::from(submitted) {
            Submission::Known(submitted) => submitted,
            Submission::Asked(change) => {
                Submitted::Operated(JobAnswer::no(ChangeResult::NotAnswered, Some(change.job)))
            }
        };
        Ok(JobPreview { submitted, due_ms, expires_ms })
    }

    /// Asks for a change of a live job, or for the request again if that job has ended meanwhile.
    async fn ask_for(
        &self,
        mut change: ChangeRequest,
        request: ScheduleJobRequest,
    ) -> Result<Submitted> {
        let operation = JobOperation::cancel(change.job);
        let deadline = Instant::now() + operation.waits();
        for _ in 0..TRIES {
            change.by = self.by.clone();
            let located = self.locate(change.job).await?;
            if let Some(located) = located.filter(|located| !located.stored.is_tombstone)
                && let Some(waited) = self.ask(&change, &located, &operation, deadline).await?
            {
                let answer = self.told(waited, change.job)?;
                let is_paused = located.is_paused && answer.due_ms.is_some();
                return Ok(submitted(JobAnswer { app_paused: is_paused, ..answer }, &request));
            }
            let mut again = self.admission.submit_all(vec![request.clone()]).await;
            match again.pop().map(|answer| answer.map(Submission::from)) {
                Some(Ok(Submission::Known(submitted))) => return Ok(submitted),
                Some(Ok(Submission::Asked(next))) => change = *next,
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Err(not_settled(&change))
    }
}

impl From<CoreSubmitted> for Submission {
    fn from(submitted: CoreSubmitted) -> Self {
        Self::Known(match submitted {
            CoreSubmitted::Accepted { job_id, request_id } => {
                Submitted::Accepted { job_id, request_id }
            }
            CoreSubmitted::Duplicate { job_id, of, cancelled } => {
                Submitted::Duplicate { job_id, of, cancelled }
            }
            CoreSubmitted::Operated(answer) => Submitted::Operated(JobAnswer::of(answer)),
            CoreSubmitted::Asked(change) => return Self::Asked(change),
        })
    }
}

/// The answer to a schedule with the version that the job has by now is that it is a duplicate.
fn submitted(answer: JobAnswer, request: &ScheduleJobRequest) -> Submitted {
    let cancelled = match (answer.result, answer.changed) {
        (ChangeResult::Replaced, false) => false,
        (ChangeResult::Cancelled, false) => true,
        _ => return Submitted::Operated(answer),
    };
    match (request.operation, answer.job_id, &request.request_id) {
        (Operation::Schedule, Some(job_id), Some(of)) => {
            Submitted::Duplicate { job_id, of: of.clone(), cancelled }
        }
        _ => Submitted::Operated(answer),
    }
}

fn not_settled(change: &ChangeRequest) -> Error {
    let job = change.job;
    Error::Unavailable(format!("job {job}: it changes again and again; ask the same again"))
}
