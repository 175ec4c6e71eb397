//! Operations on one job: asked of the owner of its shard, or carried out here where there is none.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::answer::{JobAnswer, OperationOutcome, OperationState};
use super::name::JobName;
use super::patch::JobPatch;
use crate::admission::ChangeReply;
use crate::model::audit::By;
use crate::model::change::{ChangeResult, JobChange};
use crate::model::ids::{JobId, KeyId};
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::time::ScheduledTime;
use crate::operations::context::Context;
use crate::operations::{Error, Result};
use crate::store::{
    AttemptState, ChangeAnswer, ChangeRequest, Claim, CommandState, LocatedJob, Operation,
    RequestStatus,
};

/// How long an answer is waited for, unless the operation says otherwise.
const WAIT: Duration = Duration::from_secs(5);
/// How often a command's answer is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How often a job is looked for again whose shard changed hands meanwhile.
pub(super) const TRIES: usize = 5;

/// An operation on one job.
#[derive(Clone, Debug)]
#[must_use = "nothing is changed before it is carried out"]
pub struct JobOperation {
    job: JobName,
    change: Change,
    if_match: Option<String>,
    wait: Duration,
    withdraws: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Cancel {
        stop: bool,
    },
    Run,
    /// Its time is moved by so many milliseconds.
    Shift(i64),
    Edit(Box<JobPatch>),
}

impl JobOperation {
    fn new(job: impl Into<JobName>, change: Change) -> Self {
        Self { job: job.into(), change, if_match: None, wait: WAIT, withdraws: false }
    }

    /// No further attempt at the job starts. One that runs goes on: it may be the good one.
    pub fn cancel(job: impl Into<JobName>) -> Self {
        Self::new(job, Change::Cancel { stop: false })
    }

    /// The job is due now.
    pub fn run(job: impl Into<JobName>) -> Self {
        Self::new(job, Change::Run)
    }

    /// The job is due at `time`; at once if that is past.
    pub fn reschedule(job: impl Into<JobName>, time: impl Into<ScheduledTime>) -> Self {
        let patch = JobPatch { scheduled_time: Some(time.into()), ..JobPatch::default() };
        Self::edit(job, patch)
    }

    /// Fields of the job get other values.
    pub fn edit(job: impl Into<JobName>, patch: JobPatch) -> Self {
        Self::new(job, Change::Edit(Box::new(patch)))
    }

    /// The job is due so many milliseconds later than it is now.
    pub(in crate::operations) fn shift(job: impl Into<JobName>, by_ms: i64) -> Self {
        Self::new(job, Change::Shift(by_ms))
    }

    /// Of a cancellation: an attempt that runs is asked to stop, through its
    /// [`cancelled`](crate::JobContext::cancelled).
    pub fn stop_running(mut self) -> Self {
        if let Change::Cancel { stop } = &mut self.change {
            *stop = true;
        }
        self
    }

    /// The job must still be in the state of which an answer said that it has this `etag`.
    pub fn if_match(mut self, etag: impl Into<String>) -> Self {
        self.if_match = Some(etag.into());
        self
    }

    /// How long the answer is waited for. Default 5 s.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// For how long its answer is waited.
    pub(super) fn waits(&self) -> Duration {
        self.wait
    }

    /// An operation that is not answered in time is withdrawn, so that it changes nothing later.
    /// Otherwise it is carried out as soon as an instance owns the job's shard, and its answer is
    /// found by [`Jobs::operation`](super::Jobs::operation).
    pub fn or_withdraw(mut self) -> Self {
        self.withdraws = true;
        self
    }
}

/// What became of a command while it was waited for.
pub(super) enum Waited {
    Answered(ChangeAnswer),
    Withdrawn,
    NotAnswered(i64),
}

impl Context {
    pub(in crate::operations) async fn operate(
        &self,
        operation: JobOperation,
    ) -> Result<JobAnswer> {
        let deadline = Instant::now() + operation.wait;
        let Some(id) = self.job_named(&operation.job).await? else {
            return Ok(JobAnswer::no(ChangeResult::Unknown, None));
        };
        let mut seen = None;
        for _ in 0..TRIES {
            let Some(located) = self.locate(id).await? else {
                return self.without_row(id, &operation.job, seen.is_some()).await;
            };
            let created_ms = *seen.get_or_insert(located.stored.job.created_ms);
            let request = ChangeRequest {
                job: id,
                created_ms,
                change: self.change_of(&operation.change, &located)?,
                if_match: operation.if_match.clone(),
                by: self.by_of(&operation.change),
                bulk: None,
            };
            let Some(answer) = self.ask(&request, &located, &operation, deadline).await? else {
                continue;
            };
            let waits = located.is_paused;
            return self.told(answer, id).map(|answer| JobAnswer {
                app_paused: waits && answer.due_ms.is_some(),
                ..answer
            });
        }
        Err(Error::Unavailable(format!(
            "job {id}: its shard changes hands again and again; ask the same again"
        )))
    }

    /// The answer, or nothing if the shard changed hands and the job is to be looked for again.
    pub(super) async fn ask(
        &self,
        request: &ChangeRequest,
        located: &LocatedJob,
        operation: &JobOperation,
        deadline: Instant,
    ) -> Result<Option<Waited>> {
        let shard = located.stored.job.shard;
        let asked = self.admission.ask_own(located.app, shard, request.clone());
        match timeout_at(deadline, asked).await {
            Ok(Some(ChangeReply::Answered(answer))) => return Ok(Some(Waited::Answered(answer))),
            Ok(Some(ChangeReply::NotOurs | ChangeReply::Withdrawn) | None) => {}
            Err(_) => {
                let why = format!(
                    "job {}: not answered within {} ms; ask the same again",
                    request.job,
                    operation.wait.as_millis()
                );
                return Err(Error::Unavailable(why));
            }
        }
        if let Some(epoch) = located.free_at {
            let claim = Claim::Free(shard, epoch);
            let asked = self.admission.change_free(claim, located, request);
            // One that is not known to be committed is asked again by the caller.
            return match timeout_at(deadline.max(Instant::now() + LOOK), asked).await {
                Ok(ChangeReply::Answered(answer)) => Ok(Some(Waited::Answered(answer))),
                Ok(ChangeReply::NotOurs | ChangeReply::Withdrawn) => Ok(None),
                Err(_) => Err(Error::Unavailable(format!(
                    "{}: job {} could not be changed in time; ask the same again",
                    self.database, request.job
                ))),
            };
        }
        self.command(request, located, operation, deadline).await.map(Some)
    }

    /// Asks the owner of the shard by a row, and waits.
    async fn command(
        &self,
        request: &ChangeRequest,
        located: &LocatedJob,
        operation: &JobOperation,
        deadline: Instant,
    ) -> Result<Waited> {
        let (store, now_ms) = (self.store(), self.now_ms());
        let wait_ms = i64::try_from(operation.wait.as_millis()).unwrap_or(i64::MAX);
        let until_ms = operation.withdraws.then(|| now_ms.saturating_add(wait_ms));
        let shard = located.stored.job.shard;
        let sent = store.send_command(shard, request, now_ms, until_ms).await;
        let command = sent.map_err(|error| self.database_error(error))?;
        loop {
            // An outage does not end the wait, which has an end anyway.
            match timeout(WAIT, store.operation(command)).await {
                Ok(Ok(Some(Operation { state: CommandState::Answered(answer), .. }))) => {
                    return Ok(Waited::Answered(answer));
                }
                Ok(Ok(Some(Operation { state: CommandState::Withdrawn, .. }) | None)) => {
                    return Ok(Waited::Withdrawn);
                }
                Ok(Ok(Some(_)) | Err(_)) | Err(_) => {}
            }
            if Instant::now() < deadline {
                sleep(LOOK).await;
            } else if !operation.withdraws {
                return Ok(Waited::NotAnswered(command));
            } else if store
                .withdraw_command(command)
                .await
                .map_err(|error| self.database_error(error))?
            {
                return Ok(Waited::Withdrawn);
            }
            // It was answered at the last moment.
        }
    }

    pub(super) fn told(&self, waited: Waited, id: JobId) -> Result<JobAnswer> {
        match waited {
            Waited::Answered(ChangeAnswer::Answered(answer)) => Ok(JobAnswer::of(answer)),
            Waited::Answered(ChangeAnswer::Refused(why)) => {
                Err(Refusal::new(ErrorKind::InvalidField, why).into())
            }
            Waited::Answered(ChangeAnswer::Conflict(why)) => {
                Err(Refusal::new(ErrorKind::RequestConflict, why).into())
            }
            Waited::Answered(ChangeAnswer::NotMatched(etag)) => {
                Err(Error::NotMatched(not_matched(id, &etag)))
            }
            Waited::NotAnswered(operation) => Ok(JobAnswer::not_answered(id, operation)),
            Waited::Withdrawn => Err(Error::Unavailable(format!(
                "job {id}: the owner of its shard did not answer in time, and the operation was \
                 withdrawn: nothing was changed; ask again"
            ))),
        }
    }

    /// What there is to say of a job without a row.
    async fn without_row(&self, id: JobId, name: &JobName, was_there: bool) -> Result<JobAnswer> {
        let has_ended = was_there
            || match name {
                // The key is kept for longer than its job.
                JobName::Key { .. } => true,
                JobName::Request { app, request_id } => {
                    let status = self.store().status_of(app, request_id).await;
                    let status = status.map_err(|error| self.database_error(error))?;
                    matches!(status, RequestStatus::Dead { .. } | RequestStatus::Succeeded { .. })
                }
                JobName::Id(_) => {
                    let ended = self.store().ended_job(id).await;
                    let ended = ended.map_err(|error| self.database_error(error))?;
                    ended.is_some_and(|ended| ended.end.state != AttemptState::Cancelled)
                }
            };
        let result = if has_ended { ChangeResult::AlreadyFired } else { ChangeResult::Unknown };
        Ok(JobAnswer::no(result, Some(id)))
    }

    /// The id of a job by its name; `None` for a key that nobody has used.
    pub(super) async fn job_named(&self, name: &JobName) -> Result<Option<JobId>> {
        match name {
            JobName::Id(id) => Ok(Some(*id)),
            JobName::Request { app, request_id } => Ok(Some(JobId::derive(app, request_id))),
            JobName::Key { app, key } => {
                let job = self.store().job_of_key(KeyId::derive(app, key)).await;
                job.map_err(|error| self.database_error(error))
            }
        }
    }

    pub(super) async fn locate(&self, id: JobId) -> Result<Option<LocatedJob>> {
        self.store().locate_job(id).await.map_err(|error| self.database_error(error))
    }

    /// The change of a job that an operation asks for.
    ///
    /// # Errors
    /// [`Error::Refused`] for values that the job cannot have.
    pub(in crate::operations) fn change_by(
        &self,
        operation: &JobOperation,
        located: &LocatedJob,
    ) -> Result<JobChange> {
        self.change_of(&operation.change, located)
    }

    fn change_of(&self, change: &Change, located: &LocatedJob) -> Result<JobChange> {
        match change {
            Change::Cancel { stop } => Ok(JobChange::Cancel { stop: *stop }),
            Change::Run => Ok(JobChange::Run),
            Change::Shift(by_ms) => {
                let to_ms = located.stored.job.scheduled_ms.saturating_add(*by_ms);
                let time = ScheduledTime::from_epoch_ms(to_ms).ok_or_else(|| {
                    let why =
                        format!("shiftMs {by_ms}: the new time is outside the years 0 to 9999");
                    Refusal::new(ErrorKind::InvalidField, why)
                })?;
                let patch = JobPatch { scheduled_time: Some(time), ..JobPatch::default() };
                self.change_of(&Change::Edit(Box::new(patch)), located)
            }
            Change::Edit(patch) => {
                if patch.is_empty() {
                    let why = "nothing is to be changed: name at least one field";
                    return Err(Refusal::new(ErrorKind::MissingField, why).into());
                }
                let request = patch.request(&located.app_name, &located.stored.job)?;
                let has_data = patch.job_data.is_some();
                let times = self.admission.check_edited(&request, &located.rules, has_data)?;
                Ok(JobChange::Edit(Box::new(patch.edit(&times))))
            }
        }
    }

    fn by_of(&self, change: &Change) -> By {
        match change {
            Change::Edit(patch) if patch.reason.is_some() => {
                self.by.clone().because(patch.reason.clone().unwrap_or_default())
            }
            Change::Cancel { .. } | Change::Run | Change::Edit(_) | Change::Shift(_) => {
                self.by.clone()
            }
        }
    }

    pub(super) async fn operation(&self, id: i64) -> Result<OperationState> {
        let operation = self.store().operation(id).await;
        let operation = operation.map_err(|error| self.database_error(error))?;
        let Some(Operation { request, state, created_ms, .. }) = operation else {
            return Err(Error::NotFound(format!(
                "operation {id}: there is none; answers are kept for a day"
            )));
        };
        let outcome = match state {
            CommandState::Waiting => OperationOutcome::Waiting(request.job),
            CommandState::Withdrawn => OperationOutcome::Withdrawn(request.job),
            CommandState::Answered(ChangeAnswer::Answered(answer)) => {
                OperationOutcome::Answered(JobAnswer::of(answer))
            }
            CommandState::Answered(ChangeAnswer::Refused(why) | ChangeAnswer::Conflict(why)) => {
                OperationOutcome::Refused(why)
            }
            CommandState::Answered(ChangeAnswer::NotMatched(etag)) => {
                OperationOutcome::Refused(not_matched(request.job, &etag))
            }
        };
        let kind = match &request.change {
            JobChange::Named(named) => named.as_str(),
            change => change.kind(),
        };
        Ok(OperationState { operation: id, kind, created_ms, outcome })
    }
}

fn not_matched(id: JobId, etag: &str) -> String {
    format!("job {id} was changed since: its etag is {etag} now; look at it again")
}
