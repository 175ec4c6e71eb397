//! Admits requests for operations; the only file here that uses the admission.
//!
//! With a running scheduler, a request goes into a shard of its instance if it owns one. Without,
//! no shard is owned: each job is written with a command for the owner of its shard, who may notice
//! it one heartbeat later.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use uuid::Uuid;

use super::{Error, Result};
use crate::admission::{
    Admission as CoreAdmission, AdmissionRules, AskedBatch, AskedChange, ChangeReply, JobPreview,
    Replay, Replayed as CoreReplayed, SubmitError, Submitted, change_batch_until_known,
    change_until_known,
};
use crate::model::audit::By;
use crate::model::clock::{SharedClock, SystemClock};
use crate::model::ids::{AppId, Epoch, JobId, ShardId};
use crate::model::letter::Refusal;
use crate::model::request::{Resolved, ScheduleJobRequest};
use crate::store::{
    AppRules, BatchRequest, ChangeRequest, Claim, LocatedJob, LocatedShard, Names, Store,
};

/// The result of a replay of a dead letter, or of its preview.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replayed {
    /// Its request is a job now.
    Accepted {
        /// The job.
        job_id: JobId,
    },
    /// Its request is an operation, or was decided by its version.
    Operated {
        /// The job that it is about, if one is known.
        job_id: Option<JobId>,
    },
    /// Its request repeats an earlier one, which has a job already.
    Duplicate {
        /// That job.
        job_id: JobId,
        /// The id of that request.
        of: String,
    },
}

/// Why a letter was not replayed.
#[derive(Debug)]
pub(super) enum NotReplayed {
    /// For a reason other than the letter's state.
    Failed(Error),
    /// There is no such letter, or its state does not allow a replay, for this reason.
    NotPossible(String),
}

/// Admits requests and replays.
#[derive(Clone, Debug)]
pub(super) struct Admission(Arc<CoreAdmission>);

impl Admission {
    /// The admission of a running scheduler.
    pub(super) fn of_scheduler(path: Arc<CoreAdmission>) -> Self {
        Self(path)
    }

    /// An admission that owns no shards. `lease` is the lease of the instances.
    pub(super) fn on_database(store: Store, rules: AdmissionRules, lease: Duration) -> Self {
        Self(Arc::new(CoreAdmission::stand_alone(store, Arc::new(SystemClock), rules, lease)))
    }

    pub(super) fn store(&self) -> &Store {
        self.0.database().store()
    }

    pub(super) fn clock(&self) -> &SharedClock {
        self.0.clock()
    }

    /// The zone of local times that name none.
    pub(super) fn default_time_zone(&self) -> &TimeZone {
        &self.0.rules().requests.default_time_zone
    }

    /// The largest value that is parsed as a request, in bytes.
    pub(super) fn max_record_bytes(&self) -> usize {
        self.0.rules().max_record_bytes
    }

    /// Asks the instance that this belongs to for a change of a job in `shard`; `None` if it has
    /// no scheduler of that app to ask.
    pub(super) async fn ask_own(
        &self,
        app: AppId,
        shard: ShardId,
        request: ChangeRequest,
    ) -> Option<ChangeReply> {
        self.0.shards().change(app, shard, request).await
    }

    /// Whether an attempt at this job runs in this process.
    pub(super) fn is_running(&self, job: JobId) -> bool {
        self.0.shards().is_running(job)
    }

    /// Changes a job in a shard that nobody owns.
    pub(super) async fn change_free(
        &self,
        claim: Claim,
        located: &LocatedJob,
        request: &ChangeRequest,
    ) -> ChangeReply {
        let rules = self.0.rules();
        let asked = AskedChange {
            request,
            command: None,
            claim,
            app: &located.app_name,
            max_attempts: located.rules.policy.max_attempts,
            window_ms: rules.window_ms(),
            publishes_verdicts: rules.publishes_verdicts,
            is_running: false,
        };
        change_until_known(self.0.database(), &**self.0.clock(), asked).await.0
    }

    /// As [`ask_own`](Self::ask_own) for a part of a bulk action.
    pub(super) async fn ask_own_batch(
        &self,
        shard: &LocatedShard,
        request: Arc<BatchRequest>,
    ) -> Option<Vec<ChangeReply>> {
        self.0.shards().change_batch(shard.app, shard.id, request).await
    }

    /// Changes jobs in a shard that nobody owns, which is at this epoch.
    pub(super) async fn change_free_batch(
        &self,
        shard: &LocatedShard,
        epoch: Epoch,
        request: &BatchRequest,
    ) -> Vec<ChangeReply> {
        let rules = self.0.rules();
        let requests: Vec<ChangeRequest> =
            request.jobs.iter().filter_map(|job| request.of(job)).collect();
        let asked = AskedBatch {
            bulk: request.bulk,
            requests: &requests,
            claim: Claim::Free(shard.id, epoch),
            app: &shard.app_name,
            max_attempts: shard.rules.policy.max_attempts,
            window_ms: rules.window_ms(),
            publishes_verdicts: rules.publishes_verdicts,
        };
        let done = change_batch_until_known(self.0.database(), &**self.0.clock(), asked).await;
        done.into_iter().map(|(reply, _)| reply).collect()
    }

    /// As [`CoreAdmission::check_edited`].
    pub(super) fn check_edited(
        &self,
        edited: &ScheduleJobRequest,
        rules: &AppRules,
        has_new_data: bool,
    ) -> Result<Resolved, Refusal> {
        self.0.check_edited(edited, rules, has_new_data)
    }

    /// The answers in the order of the requests; those with a name in common in any order.
    pub(super) async fn submit_all(
        &self,
        requests: Vec<ScheduleJobRequest>,
    ) -> Vec<Result<Submitted>> {
        let answers = self.0.submit_all(requests).await;
        answers.into_iter().map(|answer| Ok(answer?)).collect()
    }

    pub(super) async fn preview(&self, request: ScheduleJobRequest) -> Result<JobPreview> {
        Ok(self.0.preview(request).await?)
    }

    pub(super) async fn replay(
        &self,
        letter: Uuid,
        value: Option<Vec<u8>>,
        by: By,
        bulk: Option<i64>,
    ) -> Result<Replayed, NotReplayed> {
        answered(self.0.replay(&Replay { letter, value, by, bulk }).await)
    }

    /// The result that a replay would have after those that were previewed with the same `names`.
    pub(super) async fn preview_replay(
        &self,
        letter: Uuid,
        value: Option<Vec<u8>>,
        by: By,
        names: &mut Names,
    ) -> Result<Replayed, NotReplayed> {
        answered(self.0.preview_replay(&Replay { letter, value, by, bulk: None }, names).await)
    }
}

fn answered(answer: Result<CoreReplayed, SubmitError>) -> Result<Replayed, NotReplayed> {
    match answer {
        Ok(CoreReplayed::Accepted { job_id }) => Ok(Replayed::Accepted { job_id }),
        Ok(CoreReplayed::Operated { job_id }) => Ok(Replayed::Operated { job_id }),
        Ok(CoreReplayed::Duplicate { job_id, of }) => Ok(Replayed::Duplicate { job_id, of }),
        Ok(CoreReplayed::Refused(refusal)) => Err(NotReplayed::Failed(refusal.into())),
        Ok(CoreReplayed::NotPossible(why)) => Err(NotReplayed::NotPossible(why)),
        Err(error) => Err(NotReplayed::Failed(error.into())),
    }
}

impl From<SubmitError> for Error {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refusal) => Self::Refused(refusal),
            SubmitError::Unavailable(_) => Self::Unavailable(error.to_string()),
        }
    }
}
