//! How operations admit requests: the one file here that calls the admission.
//!
//! With a running scheduler a request goes into a shard of its own where it has any. On a database
//! alone nothing is owned: each job comes with a command that asks the owner of its shard to
//! look, so that it may be noticed one heartbeat later.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Error, Result};
use crate::admission::{
    Admission as Path, AdmissionRules, AskedChange, ChangeReply, Replay, Replayed as Answer, SubmitError,
    change_until_known,
};
use crate::model::audit::By;
use crate::model::clock::{SharedClock, SystemClock};
use crate::model::ids::{AppId, JobId, ShardId};
use crate::model::letter::Refusal;
use crate::model::request::{Resolved, ScheduleJobRequest};
use crate::store::{AppRules, ChangeRequest, Claim, LocatedJob, Names, Store};

pub use crate::admission::Submitted;

/// What a replay of a dead letter came to, or would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replayed {
    /// Its request is a job now.
    Accepted {
        /// The job.
        job_id: JobId,
    },
    /// Its request repeats an earlier one, which has a job already.
    Duplicate {
        /// That job.
        job_id: JobId,
        /// The name of that request.
        of: String,
    },
}

/// Why a letter was not replayed.
#[derive(Debug)]
pub(super) enum NotReplayed {
    /// For a reason that has nothing to do with the letter's state.
    Failed(Error),
    /// There is no such letter, or its state does not allow it: why.
    NotPossible(String),
}

/// The way in for requests and replays.
#[derive(Clone, Debug)]
pub(super) struct Admission(Arc<Path>);

impl Admission {
    /// That of a running scheduler.
    pub(super) fn of_scheduler(path: Arc<Path>) -> Self {
        Self(path)
    }

    /// One that owns no shard. `lease` is that of the instances.
    pub(super) fn on_database(store: Store, rules: AdmissionRules, lease: Duration) -> Self {
        Self(Arc::new(Path::stand_alone(store, Arc::new(SystemClock), rules, lease)))
    }

    pub(super) fn store(&self) -> &Store {
        self.0.database().store()
    }

    pub(super) fn clock(&self) -> &SharedClock {
        self.0.clock()
    }

    /// The largest value that is read as a request, in bytes.
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
        let window_ms = i64::try_from(rules.idempotency_window.as_millis()).unwrap_or(i64::MAX);
        let asked = AskedChange {
            request,
            command: None,
            claim,
            app: &located.app_name,
            max_attempts: located.rules.policy.max_attempts,
            window_ms,
            tells_verdicts: rules.tells_verdicts,
            is_running: false,
        };
        change_until_known(self.0.database(), &**self.0.clock(), asked).await.0
    }

    /// As [`Path::check_edited`].
    pub(super) fn check_edited(
        &self,
        edited: &ScheduleJobRequest,
        rules: &AppRules,
        has_new_data: bool,
    ) -> Result<Resolved, Refusal> {
        self.0.check_edited(edited, rules, has_new_data)
    }

    pub(super) async fn submit(&self, request: ScheduleJobRequest) -> Result<Submitted> {
        Ok(self.0.submit(request).await?)
    }

    pub(super) async fn replay(
        &self,
        letter: Uuid,
        value: Option<Vec<u8>>,
        by: By,
    ) -> Result<Replayed, NotReplayed> {
        answered(self.0.replay(&Replay { letter, value, by }).await)
    }

    /// What a replay would come to after those that were foreseen with the same `names`.
    pub(super) async fn foresee_replay(
        &self,
        letter: Uuid,
        value: Option<Vec<u8>>,
        by: By,
        names: &mut Names,
    ) -> Result<Replayed, NotReplayed> {
        answered(self.0.foresee_replay(&Replay { letter, value, by }, names).await)
    }
}

fn answered(answer: Result<Answer, SubmitError>) -> Result<Replayed, NotReplayed> {
    match answer {
        Ok(Answer::Accepted { job_id }) => Ok(Replayed::Accepted { job_id }),
        Ok(Answer::Duplicate { job_id, of }) => Ok(Replayed::Duplicate { job_id, of }),
        Ok(Answer::Refused(refusal)) => Err(NotReplayed::Failed(refusal.into())),
        Ok(Answer::NotPossible(why)) => Err(NotReplayed::NotPossible(why)),
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
