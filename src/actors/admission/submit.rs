//! Requests by API: the same judgement and the same admission, without a partition.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::directory::hint;
use super::super::messages::PublishLane;
use super::super::shared::Shared;
use super::judge::{Judgement, judge};
use super::{Judged, Tickets, batch_of, choose_shards, count_fates, tell_others};
use crate::model::ids::{JobId, KeyId};
use crate::model::letter::Refusal;
use crate::model::request::ScheduleJobRequest;
use crate::model::verdict::{Subject, Verdict, pack};
use crate::store::{
    Admitted, Course, Entry, Error as StoreError, Fate, IdempotencyKey, Lane, Result as StoreResult,
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

/// Admits `request`, or says why not.
pub(crate) async fn submit(
    shared: &Arc<Shared>,
    mut request: ScheduleJobRequest,
) -> Result<Submitted, SubmitError> {
    // Named before it is tried, so that trying again is recognised.
    let request_id = request.request_id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
    let (request_id, app) = (request_id.clone(), request.app_name.clone());
    let judged = match judge(shared, request, None, None).await.map_err(unavailable)? {
        Judgement::Sound(candidate, app) => Judged { entry: Entry::Job(candidate), app: Some(app) },
        Judgement::Refused(refusal) | Judgement::NotYet(refusal) => {
            announce(shared, &refusal).await.map_err(unavailable)?;
            return Err(SubmitError::Refused(refusal));
        }
    };
    let mut judged = [judged];
    remember_tries(&mut judged[0].entry);
    let mut unanswered: Option<Tickets> = None;
    let mut last = String::from("no instance holds the shards");
    for attempt in 0..TRIES {
        if attempt > 0 {
            shared.database.wait_no_longer(WAIT * (1 << attempt.min(5))).await;
        }
        let ours = attempt < TRIES / 2 && shared.lease.is_valid();
        let fences = choose_shards(shared, &mut judged, ours);
        let again = unanswered.is_some();
        let batch = batch_of(shared, &judged, fences, Course::Call { again }, again);
        let Some(tickets) = Tickets::take(shared, &batch, &CancellationToken::new()).await else {
            continue;
        };
        match shared.bounded(shared.store.admit(&batch)).await {
            Ok(Admitted::Done(fates)) => {
                let fate = fates.first().cloned();
                count_fates(shared, &batch, &fates, 1);
                tell_others(shared, &batch, &fates);
                tickets.give_back(batch, &fates);
                // The names of a transaction under way were waited for: that one has ended.
                let repeated = unanswered.take().map(Tickets::read_again).is_some();
                return answer(&judged[0].entry, fate, request_id, repeated);
            }
            Ok(_) => tickets.give_back_nothing(),
            Err(StoreError::Refused(why)) => {
                tickets.give_back_nothing();
                let refusal = refused_by_database(&why, request_id, app);
                announce(shared, &refusal).await.map_err(unavailable)?;
                return Err(SubmitError::Refused(refusal));
            }
            Err(error) => {
                last = error.to_string();
                match unanswered {
                    None => unanswered = Some(tickets),
                    Some(_) => drop(tickets),
                }
            }
        }
    }
    Err(SubmitError::Unavailable(last))
}

/// A request that the rules refuse never comes to an admission: its verdict is told by itself.
async fn announce(shared: &Shared, refusal: &Refusal) -> StoreResult<()> {
    if !shared.tells_verdicts() {
        return Ok(());
    }
    // Whose shard it is does not matter: somebody publishes what lies there.
    let Some(shard) = shared.store.any_shard().await? else { return Ok(()) };
    let Refusal { kind, message, request_id, app } = refusal;
    let subject = Subject {
        request_id: request_id.as_deref().map(Into::into),
        app: app.as_deref(),
        ..Subject::default()
    };
    let about = uuid::Uuid::new_v4().to_string();
    let rejected = Verdict::Rejected { kind: *kind, message };
    let event = rejected.tell(&subject, &about, shared.clock.now_ms());
    shared.store.announce(Lane::Shard(shard), pack(&[event])).await?;
    hint(shared.directory.retry_dlq(), PublishLane(Lane::Shard(shard)));
    Ok(())
}

/// A request without an idempotency key gets one that no other call has, for the time of
/// its tries: a job whose admission was not answered may have fired and gone before the
/// next try, which must not make it again.
fn remember_tries(entry: &mut Entry) {
    let Entry::Job(candidate) = entry else { return };
    let call = format!("call {}", uuid::Uuid::new_v4());
    // A NUL cannot be in a key of a producer's.
    let id = KeyId::derive(&candidate.app_name, &format!("\0{call}"));
    let expires_ms = candidate.job.created_ms + TRIES_MS;
    candidate.key.get_or_insert(IdempotencyKey { id, name: call, expires_ms });
}

fn answer(
    entry: &Entry,
    fate: Option<Fate>,
    request_id: String,
    repeated: bool,
) -> Result<Submitted, SubmitError> {
    let job_id = match entry {
        Entry::Job(candidate) => candidate.job.id,
        Entry::Letter(_) | Entry::Wait(_) => JobId::from_bytes([0; 16]),
    };
    match fate {
        Some(Fate::Accepted) => Ok(Submitted::Accepted { job_id, request_id }),
        // Our own earlier try, whose answer was lost, is not a duplicate to anybody.
        Some(Fate::Duplicate { of, job }) if repeated && of == request_id && job == job_id => {
            Ok(Submitted::Accepted { job_id, request_id })
        }
        Some(Fate::Duplicate { of, job }) => Ok(Submitted::Duplicate { job_id: job, of }),
        Some(Fate::Dead(refusal)) => Err(SubmitError::Refused(refusal)),
        Some(Fate::Waits) | None => Err(SubmitError::Unavailable("no answer".into())),
    }
}

fn refused_by_database(why: &str, request_id: String, app: String) -> Refusal {
    let kind = crate::model::letter::ErrorKind::RefusedByDatabase;
    let message = format!("the database refuses this request: {why}");
    Refusal { request_id: Some(request_id), app: Some(app), ..Refusal::new(kind, message) }
}

fn unavailable(error: StoreError) -> SubmitError {
    SubmitError::Unavailable(error.to_string())
}
