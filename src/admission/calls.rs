//! Requests by API: the same judgement and the same admission, without a partition.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{Admission, Committed, Known, Lost, Pending, Policy, Tries, Written};
use crate::model::ids::{JobId, KeyId};
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::ScheduleJobRequest;
use crate::model::verdict::{Subject, Verdict, pack};
use crate::store::{
    BatchSource, Decision, Error as StoreError, IdempotencyKey, Lane, PlacedCandidate,
    Result as StoreResult,
};

/// How often an admission whose answer was lost is repeated.
const TRIES: u32 = 10;
/// The wait before that, doubling.
const WAIT: Duration = Duration::from_millis(50);

/// How long a call is remembered, in milliseconds: longer than all its tries take.
const TRIES_MS: i64 = 600_000;

/// What became of a request by API.
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
}

/// Why a request by API is not a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SubmitError {
    /// The request itself is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing is known of what became of it: the same can be asked again.
    #[error("no answer: {0}; ask the same again")]
    Unavailable(String),
}

impl Admission {
    /// Admits `request`, or says why not.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] if the request is at fault, [`SubmitError::Unavailable`] if it is
    /// not known what became of it.
    pub(crate) async fn submit(
        &self,
        mut request: ScheduleJobRequest,
    ) -> Result<Submitted, SubmitError> {
        // Named before it is tried, so that trying again is recognised.
        let name = request.request_id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        let (request_id, app) = (name.clone(), request.app_name.clone());
        let judgement = self.judge(request, None, None).await.map_err(unavailable)?;
        let mut candidate = match judgement {
            Ok(candidate) => candidate,
            Err(unfit) => {
                let refusal = unfit.into_refusal();
                self.announce_refusal(&refusal).await.map_err(unavailable)?;
                return Err(SubmitError::Refused(refusal));
            }
        };
        remember_tries(&mut candidate);
        let job_id = candidate.job.id;
        let mut policy = Limited::call();
        let mut pending = Pending::of_candidate(candidate);
        let decision = match self.admit_until_known(&mut pending, &mut policy).await {
            Known::Decided(decisions) => decisions.into_iter().next(),
            Known::Ended(End::Refused(why)) => {
                let message = format!("the database refuses this request: {why}");
                let refusal = Refusal::new(ErrorKind::RefusedByDatabase, message);
                let refusal = Refusal { request_id: Some(request_id), app: Some(app), ..refusal };
                self.announce_refusal(&refusal).await.map_err(unavailable)?;
                return Err(SubmitError::Refused(refusal));
            }
            Known::Ended(End::Unavailable(why)) => return Err(SubmitError::Unavailable(why)),
            Known::Fenced(_) | Known::Left => None,
        };
        match decision {
            Some(Decision::Accepted) => Ok(Submitted::Accepted { job_id, request_id }),
            Some(Decision::Duplicate { of, job: job_id, cancelled }) => {
                Ok(Submitted::Duplicate { job_id, of, cancelled })
            }
            Some(Decision::Dead(refusal)) => Err(SubmitError::Refused(refusal)),
            Some(Decision::Waits) | None => Err(SubmitError::Unavailable("no answer".into())),
        }
    }

    /// A request that is refused before it comes to an admission has its verdict by itself.
    async fn announce_refusal(&self, refusal: &Refusal) -> StoreResult<()> {
        if !self.rules.tells_verdicts {
            return Ok(());
        }
        let store = self.database.store();
        // Whose shard it is does not matter: its owner publishes what lies there.
        let Some(shard) = store.any_shard().await? else { return Ok(()) };
        let Refusal { kind, message, request_id, app } = refusal;
        let subject = Subject {
            request_id: request_id.as_deref().map(Into::into),
            app: app.as_deref(),
            ..Subject::default()
        };
        let about = uuid::Uuid::new_v4().to_string();
        let rejected = Verdict::Rejected { kind: *kind, message };
        let event = rejected.event(&subject, &about, self.clock.now_ms());
        store.announce(Lane::Shard(shard), pack(&[event])).await?;
        let lanes = [Lane::Shard(shard)].into();
        self.shards.committed(Committed { lanes, ..Committed::default() });
        Ok(())
    }
}

/// A caller waits for the answer: the tries are limited in number.
pub(super) struct Limited {
    source: BatchSource,
    /// Tries of the same caller before.
    made: u32,
    /// Why there is no answer yet.
    last: String,
}

/// Why there is no decision.
#[derive(Debug)]
pub(super) enum End {
    /// The database refuses the row for its content.
    Refused(String),
    /// There was no answer in all tries.
    Unavailable(String),
}

impl Limited {
    fn call() -> Self {
        let last = "no instance holds the shards".into();
        Self { source: BatchSource::Call { again: false }, made: 0, last }
    }

    /// What is replayed, after so many tries before.
    pub(super) fn replay(source: BatchSource, made: u32) -> Self {
        Self { source, made, last: "others change it all the time".into() }
    }

    /// Waits before the next try, the first one aside; false if there is none.
    pub(super) async fn wait(admission: &Admission, made: u32) -> bool {
        if (1..TRIES).contains(&made) {
            let wait = WAIT * (1 << made.min(5));
            admission.database.recovery().wait_no_longer(wait).await;
        }
        made < TRIES
    }
}

impl Policy for Limited {
    type End = End;

    fn source(&self, tries: &Tries) -> BatchSource {
        match &self.source {
            BatchSource::Call { .. } => BatchSource::Call { again: tries.unanswered },
            source @ (BatchSource::Records(_)
            | BatchSource::Parked { .. }
            | BatchSource::Replay { .. }) => source.clone(),
        }
    }

    fn reads_first(&self, tries: &Tries) -> bool {
        tries.unanswered || matches!(self.source, BatchSource::Replay { .. })
    }

    async fn before(&mut self, admission: &Admission, tries: &Tries) -> ControlFlow<End> {
        match Self::wait(admission, self.made + tries.made).await {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(End::Unavailable(std::mem::take(&mut self.last))),
        }
    }

    /// The next try meets the names or the row of this one, and waits for its transaction.
    async fn after(&mut self, _: &Admission, error: StoreError, _: &Tries) -> Lost<End> {
        match error {
            StoreError::Refused(why) => {
                Lost { written: Written::Nothing, next: ControlFlow::Break(End::Refused(why)) }
            }
            error => {
                self.last = error.to_string();
                Lost { written: Written::Unknown, next: ControlFlow::Continue(()) }
            }
        }
    }
}

/// A request without an idempotency key gets one that no other call has, for the time of
/// its tries: a job whose admission was not answered may have fired and gone before the
/// next try, which must not make it again.
fn remember_tries(candidate: &mut PlacedCandidate) {
    let call = format!("call {}", uuid::Uuid::new_v4());
    // A NUL cannot be in a key of a producer's.
    let id = KeyId::derive(&candidate.app.name, &format!("\0{call}"));
    let expires_ms = candidate.job.created_ms + TRIES_MS;
    candidate.key.get_or_insert(IdempotencyKey { id, name: call, expires_ms });
}

pub(super) fn unavailable(error: StoreError) -> SubmitError {
    SubmitError::Unavailable(error.to_string())
}
