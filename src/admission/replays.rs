//! Replays of dead letters: the same rules and the same admission as for other requests, in the
//! transaction that changes the letter's row.

use serde_json::Value;
use uuid::Uuid;

use super::bounded_tries::{BoundedTries, End};
use super::calls::{SubmitError, names_of, unavailable};
use super::raw::{too_large, trace_in};
use super::{Admission, Conclusion, Pending};
use crate::model::audit::{AuditAction, AuditEntry, By};
use crate::model::ids::JobId;
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::ScheduleJobRequest;
use crate::store::{
    BatchSource, Decision, Entry, LetterToReplay, Names, Result as StoreResult, Told,
};

/// A replay to be made.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    /// The dead letter.
    pub letter: Uuid,
    /// A request that replaces the letter's own.
    pub value: Option<Vec<u8>>,
    /// Who asks for it.
    pub by: By,
    /// The bulk action of which it is a part.
    pub bulk: Option<i64>,
}

/// The result of a replay, or of its preview.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Replayed {
    /// It is a job now.
    Accepted {
        /// The job.
        job_id: JobId,
    },
    /// Its request is an operation, or was decided by its version.
    Operated {
        /// The job that it is about.
        job_id: JobId,
    },
    /// Its request already has a job.
    Duplicate {
        /// That job.
        job_id: JobId,
        /// The id of the request that created it.
        of: String,
    },
    /// The request is refused; the letter is unchanged.
    Refused(Refusal),
    /// The letter cannot be replayed, for this reason.
    NotPossible(String),
}

impl Admission {
    /// The result that a replay would have now, after those that were previewed with the same
    /// `names`. Nothing is written.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`] if the database is unavailable.
    pub(crate) async fn preview_replay(
        &self,
        replay: &Replay,
        names: &mut Names,
    ) -> Result<Replayed, SubmitError> {
        let (entry, source) = match self.prepare(replay, false).await.map_err(unavailable)? {
            Prepared::Entry { entry, source } => (entry, source),
            Prepared::Answer(answer) => return Ok(answer),
        };
        let (job_id, _) = names_of(&entry);
        let batch = Pending::of_entry(entry).batch(self, source, false, true);
        let decisions = self.database.store().foresee(&batch, names).await.map_err(unavailable)?;
        Ok(answer(decisions.into_iter().next(), job_id))
    }

    /// Replays a letter.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`] if it is not known whether it was replayed. It may be replayed
    /// again, which does not create a second job.
    pub(crate) async fn replay(&self, replay: &Replay) -> Result<Replayed, SubmitError> {
        let (mut made, mut unanswered, mut last) = (0, false, None);
        while BoundedTries::wait(self, made).await {
            let (entry, source) = match self.prepare(replay, unanswered).await {
                Ok(Prepared::Entry { entry, source }) => (entry, source),
                Ok(Prepared::Answer(answer)) => return Ok(answer),
                Err(error) => {
                    last = Some(error.to_string());
                    made += 1;
                    continue;
                }
            };
            let (job_id, _) = names_of(&entry);
            let mut policy = BoundedTries::replay(source, made);
            let mut pending = Pending::of_entry(entry);
            match self.admit_until_known(&mut pending, &mut policy).await {
                Conclusion::Decided(decisions) => {
                    return Ok(answer(decisions.into_iter().next(), job_id));
                }
                Conclusion::Ended(End::Refused(why)) => {
                    let message = format!("the database refuses this request: {why}");
                    let refusal = Refusal::new(ErrorKind::RefusedByDatabase, message);
                    return Ok(Replayed::Refused(refusal));
                }
                Conclusion::Ended(End::Unavailable(why)) => {
                    return Err(SubmitError::Unavailable(why));
                }
                // Another operator has changed the letter, or a try whose answer was lost has
                // replayed it: the next look at its row shows which.
                Conclusion::Fenced(tries) => {
                    unanswered |= tries.unanswered;
                    made += tries.made;
                }
                Conclusion::Cancelled => made += 1,
            }
        }
        let why = last.unwrap_or_else(|| "it was changed at the same time, repeatedly".into());
        Err(SubmitError::Unavailable(why))
    }

    /// Reads the letter and validates its request. `again`: the answer to an earlier try of this
    /// replay was lost, so that a replayed letter may be its result.
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
        let mut judged = match self.judge(request, None, None).await? {
            Ok(judged) => judged,
            Err(reason) => return refused(reason.into_refusal()),
        };
        if let Entry::Job(candidate) = &mut judged {
            candidate.job.letter = Some(id);
            candidate.job.trace = trace_in(&letter.headers());
        }
        let told = match replay.bulk {
            Some(bulk) => Told::Bulk(bulk),
            None => Told::Audit(Box::new(AuditEntry {
                at_ms: self.clock.now_ms(),
                by: replay.by.clone(),
                action: AuditAction::ReplayDeadLetter,
                app: Some(app),
                subject: id.to_string(),
                details: Value::Null,
                count: 1,
            })),
        };
        let source = BatchSource::Replay { letter: id, changed_ms: letter.changed_ms(), told };
        Ok(Prepared::Entry { entry: judged, source })
    }
}

enum Prepared {
    Entry { entry: Entry, source: BatchSource },
    Answer(Replayed),
}

/// The request of a letter. The body that a failed job was fired with is a valid request, too.
fn request_of(
    letter: &LetterToReplay,
    value: Option<&[u8]>,
    max_bytes: usize,
) -> Result<ScheduleJobRequest, Refusal> {
    let Some(value) = value.or_else(|| letter.value()) else {
        let message = "the letter has no value: give it a correction";
        return Err(Refusal::new(ErrorKind::EmptyValue, message));
    };
    // That body is a little larger than the record was.
    if let Some(refusal) = too_large(value, max_bytes).filter(|_| !letter.is_of_a_job()) {
        return Err(refusal);
    }
    let mut request = ScheduleJobRequest::from_json(value)?;
    letter.complete(&mut request);
    Ok(request)
}

fn answer(decision: Option<Decision>, job_id: JobId) -> Replayed {
    match decision {
        Some(Decision::Accepted | Decision::Met { .. }) => Replayed::Accepted { job_id },
        Some(Decision::Operated { answer, .. }) => Replayed::Operated { job_id: answer.job_id },
        Some(Decision::Asked(asked)) => Replayed::Operated { job_id: asked.request.job },
        Some(Decision::Duplicate { of, job, .. }) => Replayed::Duplicate { job_id: job, of },
        Some(Decision::Dead(refusal)) => Replayed::Refused(refusal),
        Some(Decision::Waits) | None => Replayed::NotPossible("it is being tried already".into()),
    }
}
