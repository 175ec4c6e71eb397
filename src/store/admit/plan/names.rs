//! A request id on which operations are, or which has several schedules: what becomes of it in a
//! batch, one entry after the other, and what is written of it in the end.
//!
//! The memory of a name is a row under the id of its job, so that admissions and operations that
//! race meet each other's insert. A live job in the database is changed by the owner of its shard
//! only; everything else is decided here.

use std::mem::replace;

use super::super::batch::{Asked, Batch, Decision, Entry, PlacedCandidate, PlacedOperation};
use super::super::known::Earlier;
use super::repeated;
use crate::model::change::named::{Message, Named, NamedChange, Replacement, remember};
use crate::model::change::{
    Answer, ChangeResult, Circumstances, Decision as Changed, remembered_until,
};
use crate::model::fingerprint::Fingerprint;
use crate::model::job::{Cancellation, Changes, Job, JobData, Priority, instant_of};
use crate::model::letter::{ErrorKind, Refusal, Source};
use crate::model::versions::{Met, Standing, schedule_version};
use crate::store::job_rows::{
    IS_KEPT, bury, insert_awaited, remember as remember_row, update_changes, version,
};
use crate::store::steps::Step;
use crate::store::{StoredJob, history};

/// Who cancelled a job before it came.
const EARLIER: &str = "an operation that came before the job";

/// Why a batch is decided again.
pub(in crate::store::admit) const NAME_CHANGED: &str = "what is remembered of a name was changed";

/// A name, as the batch has it so far.
#[derive(Debug)]
pub(super) struct NameState {
    /// What the database has.
    row: Row,
    /// Its job, or what is remembered in the form of one.
    job: Job,
    fingerprint: Fingerprint,
    /// Nothing lives under the name, and this is kept until then, epoch milliseconds.
    kept_until: Option<i64>,
    /// The entries of the batch that became jobs under this name, in their order.
    places: Vec<usize>,
    is_changed: bool,
}

#[derive(Debug)]
enum Row {
    Absent,
    Kept(Box<Job>),
    Live,
}

/// What is written of a name.
#[derive(Debug, Default)]
pub(in crate::store::admit) struct NameWrites {
    /// Before jobs are inserted; each must find its row as it was read.
    pub(in crate::store::admit) before: Vec<Step>,
    /// After that.
    pub(in crate::store::admit) after: Vec<Step>,
}

impl NameState {
    /// A name that has this row.
    pub(super) fn of_row(stored: &StoredJob, fingerprint: Fingerprint, now_ms: i64) -> Self {
        let StoredJob { job, is_tombstone } = stored;
        let mut state = Self::of_new(job.clone(), fingerprint);
        state.row = Row::Live;
        if *is_tombstone {
            state.row = Row::Kept(Box::new(job.clone()));
            state.kept_until = Some(job.due_ms);
            // What was remembered for long enough, though its row is not removed yet.
            if job.changes.cancelled.is_none() && job.due_ms <= now_ms {
                state.job.changes.memory = None;
            }
        }
        state
    }

    /// A name of which the batch has this job at `place`.
    pub(super) fn of_entry(candidate: &PlacedCandidate, place: usize) -> Self {
        let state = Self::of_new(candidate.job.clone(), candidate.fingerprint);
        Self { places: vec![place], is_changed: true, ..state }
    }

    /// A name of which nothing is known.
    pub(super) fn unknown(operation: &PlacedOperation, batch: &Batch) -> Self {
        let until_ms = batch.now_ms.saturating_add(batch.window_ms);
        let job = Job {
            id: operation.job,
            shard: operation.shard,
            priority: Priority::Normal,
            due_ms: until_ms,
            request_id: operation.target.clone(),
            scheduled_ms: batch.now_ms,
            expires_ms: None,
            flexible_ms: None,
            concurrency_key: None,
            created_ms: batch.now_ms,
            attempts: 0,
            max_attempts: None,
            timeout_ms: None,
            data: JobData::default(),
            trace: None,
            origin: None,
            last_error: None,
            letter: None,
            version: None,
            changes: Changes::default(),
        };
        let state = Self::of_new(job, Fingerprint::from_bytes([0; 16]));
        Self { kept_until: Some(until_ms), ..state }
    }

    fn of_new(job: Job, fingerprint: Fingerprint) -> Self {
        let (row, places) = (Row::Absent, Vec::new());
        Self { row, job, fingerprint, kept_until: None, places, is_changed: false }
    }

    /// Whether its job is cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.kept_until.is_some() && self.job.changes.cancelled.is_some()
    }

    fn standing(&self) -> Standing {
        let s = schedule_version(self.job.version);
        match (self.kept_until, &self.job.changes.cancelled) {
            (None, _) => Standing::Live(s),
            (Some(_), Some(_)) => Standing::Cancelled(s),
            (Some(_), None) => Standing::Awaited,
        }
    }

    /// Whether the owner of its shard has to be asked.
    fn is_of_owner(&self) -> bool {
        matches!(self.row, Row::Live)
    }

    /// Takes an operation on the name.
    pub(super) fn operate(&mut self, operation: &PlacedOperation, batch: &Batch) -> Decision {
        let refused = |Refusal { kind, message, .. }| operation.refusal(kind, message);
        self.change(&operation.change, &operation.app.name, batch)
            .unwrap_or_else(|refusal| Decision::Dead(refused(refusal)))
    }

    /// An operation of which this is known without a look at the name.
    pub(super) fn answered(
        &self,
        operation: &PlacedOperation,
        batch: &Batch,
        answer: Answer,
    ) -> Decision {
        self.operated(&operation.change, &operation.app.name, batch, answer, None)
    }

    fn change(
        &mut self,
        change: &NamedChange,
        app: &str,
        batch: &Batch,
    ) -> Result<Decision, Refusal> {
        let by = format!("request {}", change.message.request_id);
        let now = Circumstances {
            now_ms: batch.now_ms,
            running: false,
            // Of a job that does not run nobody asks whether it will be tried again.
            max_attempts: 1,
            window_ms: batch.window_ms,
            by: &by,
        };
        let decided = change.decide(&self.job, self.kept_until.is_some(), now);
        if self.is_of_owner() {
            // The version of a job only grows, so this does not change any more.
            let is_final = |answer: &Answer| answer.result == ChangeResult::Superseded;
            let answer = match decided {
                Changed::Answered(answer) if is_final(&answer) => {
                    return Ok(self.operated(change, app, batch, answer, None));
                }
                Changed::Answered(answer) | Changed::Changed { answer, .. } => answer,
                Changed::Refused(refusal) => return Err(refusal),
            };
            return Ok(Decision::Asked(Asked::of(&self.job, change.clone(), answer)));
        }
        match decided {
            Changed::Answered(answer) => Ok(self.operated(change, app, batch, answer, None)),
            Changed::Changed { job, tombstone_until, answer } => {
                let before = replace(&mut self.job, *job);
                (self.kept_until, self.is_changed) = (tombstone_until, true);
                Ok(self.operated(change, app, batch, answer, Some(&before)))
            }
            Changed::Refused(refusal) => Err(refusal),
        }
    }

    /// `before` is what the job was, if it was changed.
    fn operated(
        &self,
        change: &NamedChange,
        app: &str,
        batch: &Batch,
        answer: Answer,
        before: Option<&Job>,
    ) -> Decision {
        let after = before.and(Some(&self.job));
        let before = before.or(Some(&self.job));
        let events = match batch.verdicts {
            true => change.events(app, before, after, Ok(&answer), batch.now_ms),
            false => Vec::new(),
        };
        Decision::Operated { answer: Box::new(answer), shard: self.job.shard, events }
    }

    /// Takes the schedule at `place`.
    pub(super) fn schedule(
        &mut self,
        candidate: &PlacedCandidate,
        place: usize,
        batch: &Batch,
    ) -> Decision {
        let mut memory = self.job.memory();
        let new = &candidate.job;
        match memory.schedule(self.standing(), new.version, new.scheduled_ms) {
            Met::Repeats => repeated(
                batch,
                candidate,
                &Earlier::of(&self.job, self.fingerprint),
                ErrorKind::RequestConflict,
            ),
            Met::RepeatsCancelled => Decision::Duplicate {
                of: self.job.request_id.clone(),
                job: self.job.id,
                cancelled: true,
            },
            Met::Superseded | Met::Replaces(_) => self.replace(candidate, batch),
            Met::Lives(scheduled_ms) => {
                let mut job = self.successor(candidate, scheduled_ms);
                remember(&mut job, memory);
                job.changes.revision = u32::from(job.changes.memory.is_some());
                self.become_job(candidate, job, place, None);
                Decision::Met { job: Box::new(self.job.clone()), is_live: true, cancelled: false }
            }
            Met::Cancelled => {
                let mut job = self.successor(candidate, new.scheduled_ms);
                remember(&mut job, memory);
                let first = Cancellation { at_ms: batch.now_ms, by: EARLIER.to_owned() };
                job.changes.revision = 1;
                job.changes.cancelled = Some(Box::new(first));
                let until_ms = remembered_until(&job, batch.window_ms);
                self.become_job(candidate, job, place, Some(until_ms));
                Decision::Met { job: Box::new(self.job.clone()), is_live: false, cancelled: true }
            }
        }
    }

    /// The job of a schedule, at this time.
    fn successor(&self, candidate: &PlacedCandidate, scheduled_ms: i64) -> Job {
        let mut job = candidate.job.clone();
        job.scheduled_ms = scheduled_ms;
        job.due_ms = instant_of(job.id, scheduled_ms, job.flexible_ms, job.expires_ms);
        if self.job.changes.cancelled.is_some() {
            // What is told of two jobs of one name is not to be mixed up.
            job.created_ms = job.created_ms.max(self.job.created_ms.saturating_add(1));
        }
        job
    }

    fn become_job(
        &mut self,
        candidate: &PlacedCandidate,
        job: Job,
        place: usize,
        kept_until: Option<i64>,
    ) {
        (self.job, self.fingerprint) = (job, candidate.fingerprint);
        (self.kept_until, self.is_changed) = (kept_until, true);
        self.places.push(place);
    }

    /// A schedule with a version that the live job does not have.
    fn replace(&mut self, candidate: &PlacedCandidate, batch: &Batch) -> Decision {
        if candidate.job.concurrency_key != self.job.concurrency_key {
            let message = format!(
                "requestId \"{}\" stands for a live job with another concurrencyKey, which a \
                 higher version does not change: cancel that job first",
                self.job.request_id
            );
            return Decision::Dead(candidate.refusal(ErrorKind::RequestConflict, message));
        }
        let change = NamedChange {
            change: Named::Replace(Box::new(Replacement::of(&candidate.job))),
            version: candidate.job.version,
            by_key: false,
            message: message_of(candidate),
        };
        let decision = self.change(&change, &candidate.app.name, batch);
        match &decision {
            Ok(Decision::Asked(_)) => {
                // Later entries of the batch are decided by what the owner is asked for.
                self.job.version = candidate.job.version;
                self.fingerprint = candidate.fingerprint;
            }
            Ok(Decision::Operated { answer, .. }) if answer.changed => {
                self.fingerprint = candidate.fingerprint;
            }
            Ok(_) | Err(_) => {}
        }
        decision.unwrap_or_else(|Refusal { kind, message, .. }| {
            Decision::Dead(candidate.refusal(kind, message))
        })
    }

    /// What is to be written of the name, and which entry's job is inserted: as it is here, or as
    /// its request says. The decisions on its entries become final.
    pub(super) fn finish(
        self,
        batch: &Batch,
        decisions: &mut [Decision],
        writes: &mut NameWrites,
    ) -> Option<(usize, Job)> {
        if !self.is_changed || self.is_of_owner() {
            return None;
        }
        let Some((place, earlier)) = self.places.split_last() else {
            let until_ms = self.kept_until.unwrap_or(self.job.due_ms);
            writes.before.push(match &self.row {
                Row::Kept(was) => remember_row(was, &self.job, until_ms),
                Row::Absent | Row::Live => insert_awaited(&self.job, until_ms),
            });
            return None;
        };
        if let Row::Kept(was) = &self.row {
            let delete = format!("delete from scheduler_job where {IS_KEPT}");
            writes.before.push(Step::one(delete, version(was).into()));
        }
        for place in earlier {
            if let Some(decision) = decisions.get_mut(*place) {
                end(decision, batch, *place);
            }
        }
        let inserted = Job { changes: Changes::default(), ..self.job.clone() };
        match self.kept_until {
            Some(until_ms) => {
                writes.after.push(bury(&inserted, &self.job, until_ms));
                let first = self.job.changes.cancelled.as_deref();
                writes.after.extend(first.map(|first| history::cancelled(&self.job, first)));
                if let Some(decision) = decisions.get_mut(*place) {
                    end(decision, batch, *place);
                }
            }
            None => {
                if self.job.changes != Changes::default() {
                    writes.after.push(update_changes(&self.job));
                }
                if let Some(decision) = decisions.get_mut(*place) {
                    let job = Box::new(self.job.clone());
                    *decision = Decision::Met { job, is_live: true, cancelled: false };
                }
            }
        }
        Some((*place, self.job))
    }
}

/// The entry's job does not live any more.
fn end(decision: &mut Decision, batch: &Batch, place: usize) {
    match decision {
        Decision::Met { is_live, .. } => *is_live = false,
        decision => {
            if let Some(Entry::Job(candidate)) = batch.entries.get(place) {
                let job = Box::new(candidate.job.clone());
                *decision = Decision::Met { job, is_live: false, cancelled: false };
            }
        }
    }
}

/// The message of a schedule.
fn message_of(candidate: &PlacedCandidate) -> Message {
    let about = match &candidate.job.origin {
        Some(origin) => origin.about(),
        None => uuid::Uuid::new_v4().to_string(),
    };
    let source = candidate.record.as_ref().map(|record| Source::of(record));
    Message { request_id: candidate.job.request_id.clone(), about, source }
}
