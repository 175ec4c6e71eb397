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
    Admission as Path, AdmissionRules, Replay, Replayed as Answer, SubmitError,
};
use crate::model::audit::By;
use crate::model::clock::{SharedClock, SystemClock};
use crate::model::ids::JobId;
use crate::model::request::ScheduleJobRequest;
use crate::store::{Names, Store};

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
