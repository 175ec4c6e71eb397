//! Dead letters that are tried once more: the same judgement and the same admission, in the
//! transaction that takes the letter's row.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::shared::Shared;
use super::judge::{Judgement, judge, too_large, trace_in};
use super::submit::SubmitError;
use super::{Judged, Tickets, batch_of, choose_shards, count_fates, tell_others};
use crate::model::ids::JobId;
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::ScheduleJobRequest;
use crate::store::{
    Admitted, Batch, Course, Entry, Error as StoreError, Fate, LetterToReplay, Names, Result,
};

/// How often an admission whose answer was lost is repeated.
const TRIES: u32 = 10;
/// The wait before that, doubling.
const WAIT: Duration = Duration::from_millis(50);

/// What is to be replayed.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    /// The letter.
    pub letter: Uuid,
    /// The request to admit in the place of the letter's own.
    pub value: Option<Vec<u8>>,
}

/// What became of a replay, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Replayed {
    /// It is a job now.
    Accepted {
        /// The job.
        job_id: JobId,
    },
    /// Its request has a job already.
    Duplicate {
        /// That job.
        job_id: JobId,
        /// The request that it came by.
        of: String,
    },
    /// Its request is refused; the letter stays as it was.
    Refused(Refusal),
    /// The letter cannot be replayed: why.
    NotPossible(String),
}

/// What a replay would come to just now, after those that were foreseen with the same `names`.
/// Nothing is written.
///
/// # Errors
/// [`SubmitError::Unavailable`] if the database is away.
pub(crate) async fn foresee_replay(
    shared: &Arc<Shared>,
    replay: &Replay,
    names: &mut Names,
) -> std::result::Result<Replayed, SubmitError> {
    let prepared = prepare(shared, replay, false).await.map_err(unavailable)?;
    let (batch, job_id) = match prepared {
        Prepared::Batch { batch, job_id } => (batch, job_id),
        Prepared::Answer(answer) => return Ok(answer),
    };
    let fates = shared.store.foresee(&batch, names).await.map_err(unavailable)?;
    Ok(answer(fates.into_iter().next(), job_id))
}

/// Replays a letter, or says why not.
///
/// # Errors
/// [`SubmitError::Unavailable`]: unknown whether it was replayed; asked again, it will not
/// be replayed twice.
pub(crate) async fn replay(
    shared: &Arc<Shared>,
    replay: &Replay,
) -> std::result::Result<Replayed, SubmitError> {
    let mut unanswered = None;
    for attempt in 0..TRIES {
        if attempt > 0 {
            shared.database.wait_no_longer(WAIT * (1 << attempt.min(5))).await;
        }
        match try_once(shared, replay, unanswered.is_some()).await {
            Ok(Some(replayed)) => return Ok(replayed),
            Ok(None) => {}
            Err(StoreError::Refused(why)) => {
                let message = format!("the database refuses this request: {why}");
                let refusal = Refusal::new(ErrorKind::RefusedByDatabase, message);
                return Ok(Replayed::Refused(refusal));
            }
            Err(error) => unanswered = Some(error.to_string()),
        }
    }
    let why = unanswered.unwrap_or_else(|| "others change it all the time".into());
    Err(SubmitError::Unavailable(why))
}

/// `None`: the letter or the shards moved meanwhile.
async fn try_once(shared: &Arc<Shared>, replay: &Replay, again: bool) -> Result<Option<Replayed>> {
    let (batch, job_id) = match prepare(shared, replay, again).await? {
        Prepared::Batch { batch, job_id } => (batch, job_id),
        Prepared::Answer(answer) => return Ok(Some(answer)),
    };
    let Some(tickets) = Tickets::take(shared, &batch, &CancellationToken::new()).await else {
        return Ok(None);
    };
    match shared.bounded(shared.store.admit(&batch)).await? {
        Admitted::Done(fates) => {
            count_fates(shared, &batch, &fates, 0);
            tell_others(shared, &batch, &fates);
            tickets.give_back(batch, &fates);
            Ok(Some(answer(fates.into_iter().next(), job_id)))
        }
        Admitted::Fenced | Admitted::ShardsMoved => {
            tickets.give_back_nothing();
            Ok(None)
        }
    }
}

enum Prepared {
    Batch { batch: Arc<Batch>, job_id: JobId },
    Answer(Replayed),
}

/// `again`: an earlier try of the same replay got no answer, and may have been it.
async fn prepare(shared: &Arc<Shared>, replay: &Replay, again: bool) -> Result<Prepared> {
    let id = replay.letter;
    let impossible = |why: String| Ok(Prepared::Answer(Replayed::NotPossible(why)));
    let refused = |refusal| Ok(Prepared::Answer(Replayed::Refused(refusal)));
    let Some(letter) = shared.store.letter_to_replay(id).await? else {
        return impossible(format!("there is no dead letter {id}"));
    };
    if let Some(job_id) = letter.replayed_as().filter(|_| again) {
        return Ok(Prepared::Answer(Replayed::Accepted { job_id }));
    }
    if let Some(why) = letter.not_replayable(shared.settings.dead_letters.max_replays) {
        return impossible(why);
    }
    let max_bytes = shared.settings.max_record_bytes;
    let request = match request_of(&letter, replay.value.as_deref(), max_bytes) {
        Ok(request) => request,
        Err(refusal) => return refused(refusal),
    };
    let (mut candidate, app) = match judge(shared, request, None, None).await? {
        Judgement::Sound(candidate, app) => (candidate, app),
        Judgement::Refused(refusal) | Judgement::NotYet(refusal) => return refused(refusal),
    };
    candidate.job.letter = Some(id);
    candidate.job.trace = trace_in(&letter.headers());
    let job_id = candidate.job.id;
    let mut judged = [Judged { entry: Entry::Job(candidate), app: Some(app) }];
    let fences = choose_shards(shared, &mut judged, shared.has_lease());
    let course = Course::Replay { letter: id, changed_ms: letter.changed_ms() };
    let batch = batch_of(shared, &judged, fences, course, true);
    Ok(Prepared::Batch { batch, job_id })
}

/// The request that a letter stands for. What a failed job was fired with is one, too.
fn request_of(
    letter: &LetterToReplay,
    value: Option<&[u8]>,
    max_bytes: usize,
) -> std::result::Result<ScheduleJobRequest, Refusal> {
    let Some(value) = value.or_else(|| letter.value()) else {
        let message = "the letter has no value: give it a correction";
        return Err(Refusal::new(ErrorKind::EmptyValue, message));
    };
    // What a job was fired with is a little larger than its record was.
    if let Some(refusal) = too_large(value, max_bytes).filter(|_| !letter.is_of_a_job()) {
        return Err(refusal);
    }
    let mut request = ScheduleJobRequest::from_json(value)?;
    let (max_attempts, timeout_ms) = letter.limits();
    request.max_attempts = request.max_attempts.or(max_attempts);
    request.timeout_ms = request.timeout_ms.or(timeout_ms);
    request.request_id.get_or_insert_with(|| letter.request_name());
    Ok(request)
}

fn answer(fate: Option<Fate>, job_id: JobId) -> Replayed {
    match fate {
        Some(Fate::Accepted) => Replayed::Accepted { job_id },
        Some(Fate::Duplicate { of, job }) => Replayed::Duplicate { job_id: job, of },
        Some(Fate::Dead(refusal)) => Replayed::Refused(refusal),
        Some(Fate::Waits) | None => Replayed::NotPossible("it is being tried already".into()),
    }
}

fn unavailable(error: StoreError) -> SubmitError {
    SubmitError::Unavailable(error.to_string())
}
