//! Requests by API: the same rules and the same admission as for records, without a partition.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{Admission, Committed, Conclusion, LostAnswer, Pending, Tries, TryPolicy, Written};
use crate::model::ids::{JobId, KeyId};
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::ScheduleJobRequest;
use crate::model::verdict::{Subject, Verdict, pack};
use crate::store::{
    BatchSource, Decision, Error as StoreError, IdempotencyKey, OrderingKey, PlacedCandidate,
    Result as StoreResult,
};

/// How many times an admission is tried whose answers are lost.
const TRIES: u32 = 10;
/// The wait before the second try, doubling.
const WAIT: Duration = Duration::from_millis(50);

/// How long the key of a call is kept, in milliseconds: longer than all its tries take.
const TRIES_MS: i64 = 600_000;

/// The result of a request by API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Submitted {
    /// It is a job now.
    Accepted {
        /// The job.
        job_id: JobId,
        /// The request's id, generated if the request had none.
        request_id: String,
    },
    /// It repeats an earlier request.
    Duplicate {
        /// The job of that request.
        job_id: JobId,
        /// The id of that request.
        of: String,
        /// Whether that job was cancelled.
        cancelled: bool,
    },
}

/// Why a request by API did not become a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SubmitError {
    /// The request is invalid.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not known whether the request was admitted; the same one may be sent again.
    #[error("no answer: {0}; ask the same again")]
    Unavailable(String),
}

impl Admission {
    /// Admits `request`.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] if the request is invalid, [`SubmitError::Unavailable`] if it is
    /// not known whether it was admitted.
    pub(crate) async fn submit(
        &self,
        mut request: ScheduleJobRequest,
    ) -> Result<Submitted, SubmitError> {
        // Assigned before the first try, so that a repeated try is recognised.
        let name = request.request_id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        let (request_id, app) = (name.clone(), request.app_name.clone());
        let judgement = self.judge(request, None, None).await.map_err(unavailable)?;
        let mut candidate = match judgement {
            Ok(candidate) => candidate,
            Err(reason) => {
                let refusal = reason.into_refusal();
                self.publish_refusal(&refusal).await.map_err(unavailable)?;
                return Err(SubmitError::Refused(refusal));
            }
        };
        remember_tries(&mut candidate);
        let job_id = candidate.job.id;
        let mut policy = BoundedTries::call();
        let mut pending = Pending::of_candidate(candidate);
        let decision = match self.admit_until_known(&mut pending, &mut policy).await {
            Conclusion::Decided(decisions) => decisions.into_iter().next(),
            Conclusion::Ended(End::Refused(why)) => {
                let message = format!("the database refuses this request: {why}");
                let refusal = Refusal::new(ErrorKind::RefusedByDatabase, message);
                let refusal = Refusal { request_id: Some(request_id), app: Some(app), ..refusal };
                self.publish_refusal(&refusal).await.map_err(unavailable)?;
                return Err(SubmitError::Refused(refusal));
            }
            Conclusion::Ended(End::Unavailable(why)) => return Err(SubmitError::Unavailable(why)),
            Conclusion::Fenced(_) | Conclusion::Cancelled => None,
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

    /// Writes the verdict on a request that is refused before its admission.
    async fn publish_refusal(&self, refusal: &Refusal) -> StoreResult<()> {
        if !self.rules.publishes_verdicts {
            return Ok(());
        }
        let store = self.database.store();
        // Any shard will do: its owner publishes the verdict.
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
        store.enqueue_verdicts(OrderingKey::Shard(shard), pack(&[event])).await?;
        let ordering_keys = [OrderingKey::Shard(shard)].into();
        self.shards.committed(Committed { ordering_keys, ..Committed::default() });
        Ok(())
    }
}

/// A limited number of tries, since a caller waits for the answer.
pub(super) struct BoundedTries {
    source: BatchSource,
    /// Tries that the caller has already made.
    made: u32,
    /// Why the last try had no answer.
    last: String,
}

/// Why there is no decision.
#[derive(Debug)]
pub(super) enum End {
    /// The database rejects the content of the row.
    Refused(String),
    /// No try had an answer.
    Unavailable(String),
}

impl BoundedTries {
    fn call() -> Self {
        let last = "no instance owns the shards".into();
        Self { source: BatchSource::Call { again: false }, made: 0, last }
    }

    /// The tries of a replay, of which `made` were already made.
    pub(super) fn replay(source: BatchSource, made: u32) -> Self {
        Self { source, made, last: "it was changed at the same time, repeatedly".into() }
    }

    /// Waits before the next try, except before the first. Returns false if no try is left.
    pub(super) async fn wait(admission: &Admission, made: u32) -> bool {
        if (1..TRIES).contains(&made) {
            let wait = WAIT * (1 << made.min(5));
            admission.database.recovery().wait_no_longer(wait).await;
        }
        made < TRIES
    }
}

impl TryPolicy for BoundedTries {
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

    async fn before_try(&mut self, admission: &Admission, tries: &Tries) -> ControlFlow<End> {
        match Self::wait(admission, self.made + tries.made).await {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(End::Unavailable(std::mem::take(&mut self.last))),
        }
    }

    /// The next try has the same ids or row, and therefore waits for the transaction of this one.
    async fn after_error(
        &mut self,
        _: &Admission,
        error: StoreError,
        _: &Tries,
    ) -> LostAnswer<End> {
        match error {
            StoreError::Refused(why) => LostAnswer {
                written: Written::Nothing,
                next: ControlFlow::Break(End::Refused(why)),
            },
            error => {
                self.last = error.to_string();
                LostAnswer { written: Written::Unknown, next: ControlFlow::Continue(()) }
            }
        }
    }
}

/// Gives a request without an idempotency key a unique one for the time of its tries. If a try
/// commits without an answer, its job may have fired and been deleted before the next try, which
/// then must not create the job again.
fn remember_tries(candidate: &mut PlacedCandidate) {
    let call = format!("call {}", uuid::Uuid::new_v4());
    // Producers' keys contain no NUL, so this one differs from all of them.
    let id = KeyId::derive(&candidate.app.name, &format!("\0{call}"));
    let expires_ms = candidate.job.created_ms + TRIES_MS;
    candidate.key.get_or_insert(IdempotencyKey { id, name: call, expires_ms });
}

pub(super) fn unavailable(error: StoreError) -> SubmitError {
    SubmitError::Unavailable(error.to_string())
}
