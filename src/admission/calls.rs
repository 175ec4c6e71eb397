//! Requests by API: the same judgement and the same admission, without a partition.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::bounded_tries::{BoundedTries, End};
use super::call_queue::Call;
use super::{Admission, Committed, Conclusion, Pending};
use crate::model::change::Answer;
use crate::model::ids::{JobId, KeyId};
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::ScheduleJobRequest;
use crate::model::verdict::{Subject, Verdict, pack};
use crate::store::{
    BatchSource, ChangeRequest, Decision, Entry, Error as StoreError, IdempotencyKey, Names,
    OrderingKey, PlacedCandidate, Result as StoreResult,
};

/// How long a call is remembered, in milliseconds: longer than all its tries take.
const TRIES_MS: i64 = 600_000;

/// What became of a request by API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
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
    Operated(Answer),
    /// The owner of a live job is to be asked for this.
    Asked(Box<ChangeRequest>),
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

/// What a request by API would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobPreview {
    pub(crate) submitted: Submitted,
    /// When the job would fire, epoch milliseconds.
    pub(crate) due_ms: Option<i64>,
    /// After when it would not, epoch milliseconds.
    pub(crate) expires_ms: Option<i64>,
}

/// A call on its way: its names, and where its decision will be.
struct Asked {
    job_id: JobId,
    request_id: String,
    app: String,
    decision: oneshot::Receiver<Result<Decision, End>>,
}

impl Admission {
    /// Admits `requests`, or says of each why not; the answers are in their order. Calls at the
    /// same time share their transactions. Of two requests with a name in common, either may be
    /// the first.
    ///
    /// # Errors
    /// For each by itself, [`SubmitError::Refused`] if the request is at fault,
    /// [`SubmitError::Unavailable`] if it is not known what became of it.
    pub(crate) async fn submit_all(
        self: &Arc<Self>,
        requests: Vec<ScheduleJobRequest>,
    ) -> Vec<Result<Submitted, SubmitError>> {
        let mut calls = Vec::with_capacity(requests.len());
        let mut judged: Vec<Result<Asked, SubmitError>> = Vec::with_capacity(requests.len());
        for request in requests {
            let unavailable = judged.last().and_then(|last| match last {
                // An outage takes its time for each request that is asked for.
                Err(SubmitError::Unavailable(why)) => Some(why.clone()),
                Err(SubmitError::Refused(_)) | Ok(_) => None,
            });
            judged.push(match unavailable {
                Some(why) => Err(SubmitError::Unavailable(why)),
                None => self.judge_call(request, &mut calls).await,
            });
        }
        if self.calls.push(calls) {
            let admission = self.clone();
            drop(tokio::spawn(async move { admission.admit_waiting_calls().await }));
        }
        let mut answers = Vec::with_capacity(judged.len());
        for asked in judged {
            answers.push(match asked {
                Ok(asked) => self.answer(asked).await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// What `request` would come to just now. Nothing is written.
    ///
    /// # Errors
    /// As [`submit_all`](Self::submit_all).
    pub(crate) async fn preview(
        &self,
        mut request: ScheduleJobRequest,
    ) -> Result<JobPreview, SubmitError> {
        request.request_id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        let judgement = self.judge(request, None, None).await.map_err(unavailable)?;
        let entry = judgement.map_err(|unfit| SubmitError::Refused(unfit.into_refusal()))?;
        let (job_id, request_id) = names_of(&entry);
        let source = BatchSource::Call { again: false };
        let batch = Pending::of_entry(entry.clone()).batch(self, source, false, true);
        let decisions = self.database.store().foresee(&batch, &mut Names::default()).await;
        let decision = decisions.map_err(unavailable)?.into_iter().next();
        let job = match (&decision, &entry) {
            (Some(Decision::Met { job, is_live, .. }), _) => is_live.then_some(&**job),
            (_, Entry::Job(candidate)) => Some(&candidate.job),
            (_, Entry::Operation(_) | Entry::Letter(_) | Entry::Wait(_)) => None,
        };
        let (due_ms, expires_ms) = (job.map(|job| job.due_ms), job.and_then(|job| job.expires_ms));
        let decision = match decision {
            Some(Decision::Asked(asked)) => Some(asked.into_foreseen()),
            other => other,
        };
        let submitted = submitted(decision, job_id, request_id)?;
        Ok(JobPreview { submitted, due_ms, expires_ms })
    }

    /// Adds the call for `request` to `calls`, if the rules accept it.
    async fn judge_call(
        &self,
        mut request: ScheduleJobRequest,
        calls: &mut Vec<Call>,
    ) -> Result<Asked, SubmitError> {
        // Named before it is tried, so that trying again is recognised.
        let name = request.request_id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        let (request_id, app) = (name.clone(), request.app_name.clone());
        let judgement = self.judge(request, None, None).await.map_err(unavailable)?;
        let mut entry = match judgement {
            Ok(entry) => entry,
            Err(unfit) => {
                let refusal = unfit.into_refusal();
                self.publish_refusal(&refusal).await.map_err(unavailable)?;
                return Err(SubmitError::Refused(refusal));
            }
        };
        if let Entry::Job(candidate) = &mut entry {
            remember_tries(candidate);
        }
        let (job_id, _) = names_of(&entry);
        let (answer, decision) = oneshot::channel();
        calls.push(Call { entry, answer });
        Ok(Asked { job_id, request_id, app, decision })
    }

    /// Admits what waits until nothing does.
    async fn admit_waiting_calls(&self) {
        let mut writer = self.calls.writer();
        while let Some(calls) = writer.take() {
            self.admit_calls(calls).await;
        }
    }

    async fn admit_calls(&self, calls: Vec<Call>) {
        let split = |call: Call| (call.entry, call.answer);
        let (entries, answers): (Vec<_>, Vec<_>) = calls.into_iter().map(split).unzip();
        let (mut pending, mut policy) = (Pending::new(entries), BoundedTries::call(false));
        let ended = match self.admit_until_known(&mut pending, &mut policy).await {
            Conclusion::Decided(decisions) => {
                for (answer, decision) in answers.into_iter().zip(decisions) {
                    // A caller that stopped waiting asks again, or not.
                    answer.send(Ok(decision)).ok();
                }
                return;
            }
            // The database does not say which row it refuses: each is tried alone.
            Conclusion::Ended(End::Refused(_)) if answers.len() > 1 => {
                for answer in answers {
                    let rest = pending.split_off(1);
                    let mut policy = BoundedTries::call(policy.unanswered);
                    let decision = match self.admit_until_known(&mut pending, &mut policy).await {
                        Conclusion::Decided(decisions) => decisions.into_iter().next(),
                        Conclusion::Ended(end) => {
                            answer.send(Err(end)).ok();
                            pending = rest;
                            continue;
                        }
                        Conclusion::Fenced(_) | Conclusion::Cancelled => None,
                    };
                    answer.send(decision.ok_or_else(End::no_answer)).ok();
                    pending = rest;
                }
                return;
            }
            Conclusion::Ended(end) => end,
            Conclusion::Fenced(_) | Conclusion::Cancelled => End::no_answer(),
        };
        for answer in answers {
            answer.send(Err(ended.clone())).ok();
        }
    }

    async fn answer(&self, asked: Asked) -> Result<Submitted, SubmitError> {
        let Asked { job_id, request_id, app, decision } = asked;
        match decision.await.unwrap_or_else(|_| Err(End::no_answer())) {
            Ok(decision) => submitted(Some(decision), job_id, request_id),
            Err(End::Unavailable(why)) => Err(SubmitError::Unavailable(why)),
            Err(End::Refused(why)) => {
                let message = format!("the database refuses this request: {why}");
                let refusal = Refusal::new(ErrorKind::RefusedByDatabase, message);
                let refusal = Refusal { request_id: Some(request_id), app: Some(app), ..refusal };
                self.publish_refusal(&refusal).await.map_err(unavailable)?;
                Err(SubmitError::Refused(refusal))
            }
        }
    }

    /// A request that is refused before it comes to an admission has its verdict by itself.
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

fn submitted(
    decision: Option<Decision>,
    job_id: JobId,
    request_id: String,
) -> Result<Submitted, SubmitError> {
    match decision {
        Some(Decision::Accepted | Decision::Met { .. }) => {
            Ok(Submitted::Accepted { job_id, request_id })
        }
        Some(Decision::Operated { answer, .. }) => Ok(Submitted::Operated(*answer)),
        Some(Decision::Asked(asked)) => Ok(Submitted::Asked(Box::new(asked.request))),
        Some(Decision::Duplicate { of, job: job_id, cancelled }) => {
            Ok(Submitted::Duplicate { job_id, of, cancelled })
        }
        Some(Decision::Dead(refusal)) => Err(SubmitError::Refused(refusal)),
        Some(Decision::Waits) | None => Err(SubmitError::Unavailable("no answer".into())),
    }
}

/// The job that a request is about, and its own request id.
pub(super) fn names_of(entry: &Entry) -> (JobId, String) {
    match entry {
        Entry::Job(candidate) => (candidate.job.id, candidate.job.request_id.clone()),
        Entry::Operation(operation) => (operation.job, operation.change.message.request_id.clone()),
        // The rules make neither of a call.
        Entry::Letter(_) | Entry::Wait(_) => (JobId::from_bytes([0; 16]), String::new()),
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
