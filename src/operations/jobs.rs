//! Requests for jobs, their status, and operations on one job.

mod answer;
mod change;
mod name;
mod patch;
mod show;
mod submit;

mod list;
mod selection;
mod ended;
mod listed;
mod running;

use std::collections::HashSet;
use std::mem::take;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use super::context::Context;
use super::{Error, Result, rfc3339_ms};
use crate::model::ids::JobId;
use crate::model::request::ScheduleJobRequest;
use crate::model::time::ScheduledTime;

pub use self::answer::{JobAnswer, OperationOutcome, OperationState};
pub(crate) use self::answer::{WireAnswer, WireOperation};
pub use self::change::JobOperation;
pub use self::list::JobPage;
pub(super) use self::list::Target;
pub(crate) use self::listed::WireListedJob;
pub use self::listed::{JobState, ListedJob};
pub use self::name::JobName;
pub use self::patch::JobPatch;
pub use self::running::RunningAttempt;
pub use self::show::ShownJob;
pub(crate) use self::show::WireJob;
pub use self::submit::{JobPreview, Submitted};
pub use crate::store::RequestStatus;
pub use crate::store::{AttemptState, HistoryEntry};

/// Requests of one call that are admitted at the same time.
const AT_ONCE: usize = 1000;

/// Requests for jobs, and their status.
#[derive(Clone, Copy, Debug)]
pub struct Jobs<'a> {
    context: &'a Arc<Context>,
}

impl<'a> Jobs<'a> {
    pub(super) fn new(context: &'a Arc<Context>) -> Self {
        Self { context }
    }

    /// Requests a job, or an operation on one that is named by its request id. When this returns,
    /// the job is in the database. An operation on a job that does not exist is remembered for it.
    ///
    /// # Errors
    /// [`Error::Refused`] with what is wrong with the request;
    /// [`Error::Unavailable`] when the database does not answer: the
    /// same request may be sent again; with the same `requestId` or idempotency key it does not
    /// become a second job.
    pub async fn schedule(&self, request: ScheduleJobRequest) -> Result<Submitted> {
        let mut answers = self.submit(vec![request]).await;
        answers.pop().unwrap_or_else(|| Err(Error::Unavailable("no answer".into())))
    }

    /// Requests several jobs; the results are in the order of the requests. Of two requests of one
    /// app with the same `requestId` or idempotency key, the earlier one is admitted first.
    ///
    /// # Errors
    /// For each request separately, as [`schedule`](Self::schedule).
    pub async fn schedule_all(
        &self,
        requests: impl IntoIterator<Item = ScheduleJobRequest>,
    ) -> Vec<Result<Submitted>> {
        let mut answers = Vec::new();
        let mut wave = Vec::new();
        let mut taken = HashSet::new();
        for request in requests {
            let names = names_of(&request);
            if wave.len() == AT_ONCE || names.iter().any(|name| taken.contains(name)) {
                answers.extend(self.submit(take(&mut wave)).await);
                taken.clear();
            }
            taken.extend(names);
            wave.push(request);
        }
        answers.extend(self.submit(wave).await);
        answers
    }

    /// What [`schedule`](Self::schedule) would come to just now, with the instant at which the
    /// job would fire. Nothing is written.
    ///
    /// # Errors
    /// As [`schedule`](Self::schedule).
    pub async fn preview(&self, request: ScheduleJobRequest) -> Result<JobPreview> {
        self.context.run(|context| async move { context.preview(request).await }).await
    }

    async fn submit(&self, requests: Vec<ScheduleJobRequest>) -> Vec<Result<Submitted>> {
        let count = requests.len();
        let submitted = self
            .context
            .run(move |context| async move { Ok(context.submit(requests).await) })
            .await;
        submitted.unwrap_or_else(|error| vec![Err(error); count])
    }

    /// The status of the request `request_id` of `app`, as far as the tables have it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn request(
        &self,
        app: impl Into<String>,
        request_id: impl Into<String>,
    ) -> Result<RequestStatus> {
        let (app, request_id) = (app.into(), request_id.into());
        self.context
            .run(|context| async move {
                let status = context.store().status_of(&app, &request_id).await;
                status.map_err(|error| context.database_error(error))
            })
            .await
    }
}

impl Jobs<'_> {
    /// The job as it is, or as it ended, with its attempts as far as they are kept.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such job, or its end is not kept any more;
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn show(&self, job: impl Into<JobName>) -> Result<ShownJob> {
        let name = job.into();
        self.context
            .run(|context| async move {
                let id = context.job_named(&name).await?;
                let id = id.ok_or_else(|| Error::NotFound(unknown(&name)))?;
                let store = context.store();
                let Some(located) = context.locate(id).await? else {
                    let ended = store.ended_job(id).await;
                    let ended = ended.map_err(|error| context.database_error(error))?;
                    return ended
                        .map(ShownJob::of_ended)
                        .ok_or_else(|| Error::NotFound(unknown(&name)));
                };
                let created_ms = located.stored.job.created_ms;
                let attempts = store.attempts_of(id, created_ms).await;
                let attempts = attempts.map_err(|error| context.database_error(error))?;
                let is_running = context.admission.is_running(id);
                let jobs = std::slice::from_ref(&located.stored.job);
                let running = context.running_among(jobs).await?.remove(&id);
                let job = ShownJob::of(located, context.now_ms(), is_running, running);
                Ok(ShownJob { history: attempts, ..job })
            })
            .await
    }

    /// Carries an operation on one job out: at once where its shard belongs to this scheduler or
    /// to nobody, else the owner is asked, which takes about a heartbeat.
    ///
    /// # Errors
    /// [`Error::Refused`] with what is wrong with the new values; [`Error::NotMatched`] if the job
    /// was changed since; [`Error::Unavailable`] when there was no answer: ask the same again,
    /// what was done already is found to be so.
    pub async fn carry_out(&self, operation: JobOperation) -> Result<JobAnswer> {
        self.context.run(|context| async move { context.operate(operation).await }).await
    }

    /// No further attempt at the job starts: [`JobOperation::cancel`].
    ///
    /// # Errors
    /// As [`carry_out`](Self::carry_out).
    pub async fn cancel(&self, job: impl Into<JobName>) -> Result<JobAnswer> {
        self.carry_out(JobOperation::cancel(job)).await
    }

    /// The job is due at `time`: [`JobOperation::reschedule`].
    ///
    /// # Errors
    /// As [`carry_out`](Self::carry_out).
    pub async fn reschedule(
        &self,
        job: impl Into<JobName>,
        time: impl Into<ScheduledTime>,
    ) -> Result<JobAnswer> {
        self.carry_out(JobOperation::reschedule(job, time)).await
    }

    /// The job is due now: [`JobOperation::run`].
    ///
    /// # Errors
    /// As [`carry_out`](Self::carry_out).
    pub async fn run(&self, job: impl Into<JobName>) -> Result<JobAnswer> {
        self.carry_out(JobOperation::run(job)).await
    }

    /// Fields of the job get other values: [`JobOperation::edit`].
    ///
    /// # Errors
    /// As [`carry_out`](Self::carry_out).
    pub async fn edit(&self, job: impl Into<JobName>, patch: JobPatch) -> Result<JobAnswer> {
        self.carry_out(JobOperation::edit(job, patch)).await
    }

    /// What became of an operation that was not answered in time; answers are kept for a day.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Unavailable`] when the database does not
    /// answer.
    pub async fn operation(&self, id: i64) -> Result<OperationState> {
        self.context.run(move |context| async move { context.operation(id).await }).await
    }
}

fn unknown(name: &JobName) -> String {
    match name {
        JobName::Id(id) => format!("job {id}: there is none, or its end is not kept any more"),
        JobName::Request { app, request_id } => {
            format!(
                "request {request_id:?} of {app}: there is no such job, or its end is not kept any more"
            )
        }
        JobName::Key { app, key } => {
            format!(
                "idempotency key {key:?} of {app}: it has no job, or the end of that is not kept any more"
            )
        }
    }
}

/// What identifies a request and its job: its app with its request ids, and with its idempotency key.
fn names_of(request: &ScheduleJobRequest) -> Vec<(String, bool, String)> {
    let app = || request.app_name.clone();
    let id = request.request_id.clone().map(|id| (app(), true, id));
    let target = request.target_request_id.clone().map(|target| (app(), true, target));
    let key = request.idempotency_key.clone().map(|key| (app(), false, key));
    id.into_iter().chain(target).chain(key).collect()
}

/// The JSON form of a [`RequestStatus`].
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[schema(as = RequestStatus)]
pub(crate) enum WireStatus<'a> {
    /// Its job waits for its moment.
    Accepted {
        #[schema(value_type = Uuid)]
        job_id: JobId,
        scheduled_time: String,
    },
    /// Its job has failed and will be tried again.
    Retrying {
        #[schema(value_type = Uuid)]
        job_id: JobId,
        scheduled_time: String,
        attempts: u32,
        message: &'a str,
    },
    /// Its job was cancelled.
    Cancelled {
        #[schema(value_type = Uuid)]
        job_id: JobId,
        cancelled_time: String,
        cancelled_by: &'a str,
    },
    /// Operations on its job came before it, and are remembered.
    Awaited {
        #[schema(value_type = Uuid)]
        job_id: JobId,
        until_time: String,
    },
    /// It cannot become a job yet and is tried again by itself.
    Parked { message: &'a str },
    /// It could not become a job and is a dead letter.
    Rejected { dead_letter: Uuid, kind: &'a str, message: &'a str },
    /// Its job has succeeded.
    Succeeded {
        #[schema(value_type = Uuid)]
        job_id: JobId,
        ended_time: String,
        attempts: u32,
    },
    /// Its job failed for good; the dead letter may have been discarded or replayed since.
    Dead {
        dead_letter: Option<Uuid>,
        #[schema(value_type = Uuid)]
        job_id: JobId,
        kind: &'a str,
        message: &'a str,
    },
    /// Nothing is known of it.
    Unknown,
}

impl Serialize for RequestStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = match self {
            Self::Accepted { job_id, due_ms } => {
                WireStatus::Accepted { job_id: *job_id, scheduled_time: rfc3339_ms(*due_ms) }
            }
            Self::Retrying { job_id, due_ms, attempts, error } => WireStatus::Retrying {
                job_id: *job_id,
                scheduled_time: rfc3339_ms(*due_ms),
                attempts: *attempts,
                message: error,
            },
            Self::Cancelled { job_id, at_ms, by } => WireStatus::Cancelled {
                job_id: *job_id,
                cancelled_time: rfc3339_ms(*at_ms),
                cancelled_by: by,
            },
            Self::Awaited { job_id, until_ms } => {
                WireStatus::Awaited { job_id: *job_id, until_time: rfc3339_ms(*until_ms) }
            }
            Self::Parked { message } => WireStatus::Parked { message },
            Self::Rejected { letter, kind, message } => {
                WireStatus::Rejected { dead_letter: *letter, kind, message }
            }
            Self::Succeeded { job_id, at_ms, attempts } => WireStatus::Succeeded {
                job_id: *job_id,
                ended_time: rfc3339_ms(*at_ms),
                attempts: *attempts,
            },
            Self::Dead { letter, job_id, kind, message } => {
                WireStatus::Dead { dead_letter: *letter, job_id: *job_id, kind, message }
            }
            Self::Unknown => WireStatus::Unknown,
        };
        wire.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_one_flat_object() {
        let job_id = JobId::derive("sms", "r-1");
        let error = "busy".to_owned();
        for (status, wire) in [
            (RequestStatus::Unknown, json!({ "status": "unknown" })),
            (
                RequestStatus::Retrying { job_id, due_ms: 0, attempts: 2, error },
                json!({
                    "status": "retrying",
                    "jobId": job_id,
                    "scheduledTime": "1970-01-01T00:00:00.000Z",
                    "attempts": 2,
                    "message": "busy",
                }),
            ),
        ] {
            assert_eq!(serde_json::to_value(&status).unwrap(), wire);
        }
    }
}
