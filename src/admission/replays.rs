//! Dead letters that are tried once more: the same judgement and the same admission, in the
//! transaction that takes the letter's row.

use serde_json::Value;
use uuid::Uuid;

use super::calls::{End, Limited, SubmitError, unavailable};
use super::judge::{too_large, trace_in};
use super::{Admission, Known, Pending};
use crate::model::audit::{AuditAction, AuditEntry, By};
use crate::model::ids::JobId;
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::ScheduleJobRequest;
use crate::store::{
    BatchSource, Decision, LetterToReplay, Names, PlacedCandidate, Result as StoreResult,
};

/// What is to be replayed.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    /// The letter.
    pub letter: Uuid,
    /// The request to admit in the place of the letter's own.
    pub value: Option<Vec<u8>>,
    /// Who asks for it.
    pub by: By,
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

impl Admission {
    /// What a replay would come to just now, after those that were foreseen with the same
    /// `names`. Nothing is written.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`] if the database is unavailable.
    pub(crate) async fn foresee_replay(
        &self,
        replay: &Replay,
        names: &mut Names,
    ) -> Result<Replayed, SubmitError> {
        let (candidate, source) = match self.prepare(replay, false).await.map_err(unavailable)? {
            Prepared::Candidate { candidate, source } => (candidate, source),
            Prepared::Answer(answer) => return Ok(answer),
        };
        let job_id = candidate.job.id;
        let batch = Pending::of_candidate(candidate).batch(self, source, false, true);
        let decisions = self.database.store().foresee(&batch, names).await.map_err(unavailable)?;
        Ok(answer(decisions.into_iter().next(), job_id))
    }

    /// Replays a letter, or says why not.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`]: unknown whether it was replayed; asked again, it will not
    /// be replayed twice.
    pub(crate) async fn replay(&self, replay: &Replay) -> Result<Replayed, SubmitError> {
        let (mut made, mut unanswered, mut last) = (0, false, None);
        while Limited::wait(self, made).await {
            let (candidate, source) = match self.prepare(replay, unanswered).await {
                Ok(Prepared::Candidate { candidate, source }) => (candidate, source),
                Ok(Prepared::Answer(answer)) => return Ok(answer),
                Err(error) => {
                    last = Some(error.to_string());
                    made += 1;
                    continue;
                }
            };
            let job_id = candidate.job.id;
            let mut policy = Limited::replay(source, made);
            let mut pending = Pending::of_candidate(candidate);
            match self.admit_until_known(&mut pending, &mut policy).await {
                Known::Decided(decisions) => {
                    return Ok(answer(decisions.into_iter().next(), job_id));
                }
                Known::Ended(End::Refused(why)) => {
                    let message = format!("the database refuses this request: {why}");
                    let refusal = Refusal::new(ErrorKind::RefusedByDatabase, message);
                    return Ok(Replayed::Refused(refusal));
                }
                Known::Ended(End::Unavailable(why)) => return Err(SubmitError::Unavailable(why)),
                // Another operator has changed the letter, or a try of ours without an answer
                // has replayed it: its row tells.
                Known::Fenced(tries) => {
                    unanswered |= tries.unanswered;
                    made += tries.made;
                }
                Known::Left => made += 1,
            }
        }
        let why = last.unwrap_or_else(|| "others change it all the time".into());
        Err(SubmitError::Unavailable(why))
    }

    /// `again`: an earlier try of the same replay got no answer, and may have been it.
    async fn prepare(&self, replay: &Replay, again: bool) -> StoreResult<Prepared> {
        let id = replay.letter;
        let impossible = |why: String| Ok(Prepared::Answer(Replayed::NotPossible(why)));
        let refused = |refusal| Ok(Prepared::Answer(Replayed::Refused(refusal)));
        let Some(letter) = self.database.store().letter_to_replay(id).await? else {
            return impossible(format!("there is no dead letter {id}"));
        };
        if let Some(job_id) = letter.replayed_as().filter(|_| again) {
            return Ok(Prepared::Answer(Replayed::Accepted { job_id }));
        }
        if let Some(why) = letter.not_replayable(self.rules.max_replays) {
            return impossible(why);
        }
        let value = replay.value.as_deref();
        let request = match request_of(&letter, value, self.rules.max_record_bytes) {
            Ok(request) => request,
            Err(refusal) => return refused(refusal),
        };
        let app = request.app_name.clone();
        let mut candidate = match self.judge(request, None, None).await? {
            Ok(candidate) => candidate,
            Err(unfit) => return refused(unfit.into_refusal()),
        };
        candidate.job.letter = Some(id);
        candidate.job.trace = trace_in(&letter.headers());
        let entry = Box::new(AuditEntry {
            at_ms: self.clock.now_ms(),
            by: replay.by.clone(),
            action: AuditAction::ReplayDeadLetter,
            app: Some(app),
            subject: id.to_string(),
            details: Value::Null,
            count: 1,
        });
        let source = BatchSource::Replay { letter: id, changed_ms: letter.changed_ms(), entry };
        Ok(Prepared::Candidate { candidate, source })
    }
}

enum Prepared {
    Candidate { candidate: Box<PlacedCandidate>, source: BatchSource },
    Answer(Replayed),
}

/// The request that a letter stands for. What a failed job was fired with is one, too.
fn request_of(
    letter: &LetterToReplay,
    value: Option<&[u8]>,
    max_bytes: usize,
) -> Result<ScheduleJobRequest, Refusal> {
    let Some(value) = value.or_else(|| letter.value()) else {
        let message = "the letter has no value: give it a correction";
        return Err(Refusal::new(ErrorKind::EmptyValue, message));
    };
    // What a job was fired with is a little larger than its record was.
    if let Some(refusal) = too_large(value, max_bytes).filter(|_| !letter.is_of_a_job()) {
        return Err(refusal);
    }
    let mut request = ScheduleJobRequest::from_json(value)?;
    letter.complete(&mut request);
    Ok(request)
}

fn answer(decision: Option<Decision>, job_id: JobId) -> Replayed {
    match decision {
        Some(Decision::Accepted) => Replayed::Accepted { job_id },
        Some(Decision::Duplicate { of, job, .. }) => Replayed::Duplicate { job_id: job, of },
        Some(Decision::Dead(refusal)) => Replayed::Refused(refusal),
        Some(Decision::Waits) | None => Replayed::NotPossible("it is being tried already".into()),
    }
}
