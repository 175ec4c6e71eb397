//! Changing one job: read, decided and written until it is known what was committed.
//!
//! The owner of the job's shard does so with the job out of its window, and a program that is no
//! instance where nobody owns the shard.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Database;
use crate::model::audit::{AuditAction, AuditEntry, AuditSource};
use crate::model::change::named::Named;
use crate::model::change::{Answer, ChangeResult, Circumstances, Decision, JobChange};
use crate::model::clock::Clock;
use crate::model::job::Job;
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::verdict::{Event, Subject, Verdict, about_change, about_job, pack};
use crate::recovery::Backoff;
use crate::store::{
    ChangeAnswer, ChangeRequest, Claim, Error as StoreError, JobWrite, JobWritten, OrderingKey,
    Result as StoreResult, StoredJob,
};

/// A change that is asked for, and what holds for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedChange<'a> {
    pub(crate) request: &'a ChangeRequest,
    /// The command that brought it.
    pub(crate) command: Option<i64>,
    /// By what right the job is changed.
    pub(crate) claim: Claim,
    /// The app's name.
    pub(crate) app: &'a str,
    /// The attempts that the app allows.
    pub(crate) max_attempts: u32,
    /// For how long a cancelled job is remembered, milliseconds.
    pub(crate) window_ms: i64,
    /// Whether producers get verdicts.
    pub(crate) publishes_verdicts: bool,
    /// Whether an attempt at the job runs.
    pub(crate) is_running: bool,
}

/// How a change was answered.
#[derive(Clone, Debug)]
pub(crate) enum ChangeReply {
    /// It was decided, and what it changed is committed.
    Answered(ChangeAnswer),
    /// The claim does not hold: nothing was changed.
    NotOurs,
    /// The command was withdrawn, or answered before: nothing was changed now.
    Withdrawn,
}

/// What the row of the job is at the end of a change.
#[derive(Clone, Debug)]
pub(crate) enum RowNow {
    /// This.
    Is(Box<Job>),
    /// Nothing that could be fired.
    Gone,
    /// Nobody knows: the claim did not hold.
    Unknown,
}

/// The longest wait before the database is asked again.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How often a change is tried of which the database does not say what is wrong with it.
pub(super) const UNCLEAR: u32 = 3;

/// What was written, and may be committed though the answer to that was lost.
#[derive(Debug)]
struct Tried {
    write: JobWrite,
    answer: ChangeAnswer,
}

impl Tried {
    fn is_written(&self, now: &Job) -> bool {
        let after = &self.write.after;
        now.created_ms == after.created_ms
            && now.changes.revision == after.changes.revision
            && now.version == after.version
            && now.memory() == after.memory()
    }
}

/// Carries a change out. It does not end before it is known what was committed, unless it is
/// dropped: the same can be asked again then.
///
/// Nobody else may change a live job meanwhile: so its row shows, by its revision, whether a write
/// was committed whose answer was lost with its connection. What is remembered of a name is changed
/// by admissions as well, so there the content counts, too.
pub(crate) async fn change_until_known(
    database: &Database,
    clock: &dyn Clock,
    asked: AskedChange<'_>,
) -> (ChangeReply, RowNow) {
    let (mut backoff, mut tried, mut unclear) = (Backoff::default(), None, 0);
    // One moment for every try: the same row is then decided in the same way.
    let now_ms = clock.now_ms();
    loop {
        match asked.try_once(database, now_ms, &mut tried).await {
            Ok(Some(done)) => return done,
            // The row is not what it was a moment before: it was written by an earlier try whose
            // answer was lost.
            Ok(None) => {}
            Err(StoreError::Unclear(why)) if unclear < UNCLEAR => {
                unclear += 1;
                tracing::debug!(job = %asked.request.job, why, "a change is tried again");
            }
            Err(
                StoreError::Refused(why) | StoreError::Unclear(why) | StoreError::Unusable(why),
            ) => {
                let why = format!("the database refuses the new values: {why}");
                tried = None;
                let refused = ChangeAnswer::Refused(why);
                if let Ok(done) = asked.unchanged(database, refused, None, now_ms).await {
                    return done;
                }
            }
            Err(error) => {
                tracing::debug!(job = %asked.request.job, %error, "a change is tried again");
            }
        }
        let recovery = database.recovery();
        recovery.wait(backoff.failed(recovery.recoveries()).min(LONGEST_WAIT)).await;
    }
}

impl AskedChange<'_> {
    async fn try_once(
        &self,
        database: &Database,
        now_ms: i64,
        tried: &mut Option<Tried>,
    ) -> StoreResult<Option<(ChangeReply, RowNow)>> {
        let stored = database.bounded(database.store().stored_job(self.request.job)).await?;
        if let (Some(now), Some(tried)) = (&stored, tried.as_ref())
            && tried.is_written(&now.job)
        {
            return Ok(Some((ChangeReply::Answered(tried.answer.clone()), row_of(&stored))));
        }
        if let Some(stored) = &stored
            && stored.job.shard != self.claim.shard()
        {
            return self.forward(database, stored).await.map(Some);
        }
        let answer = match stored.as_ref().map(|stored| self.decide(stored, now_ms)) {
            Some(Decided::Written(write, answer)) => {
                let Tried { write, answer } = tried.insert(Tried { write: *write, answer });
                let written = database.store().change_job(&self.claim, write);
                let done = match database.bounded(written).await? {
                    JobWritten::Done => (ChangeReply::Answered(answer.clone()), row_after(write)),
                    JobWritten::NotOurs => (ChangeReply::NotOurs, RowNow::Unknown),
                    JobWritten::Withdrawn => {
                        (ChangeReply::Withdrawn, RowNow::Is(Box::new(write.before.clone())))
                    }
                    JobWritten::Changed => return Ok(None),
                };
                return Ok(Some(done));
            }
            Some(Decided::Unchanged(answer)) => answer,
            None => self.already_fired(),
        };
        let job = stored.as_ref().map(|stored| &stored.job);
        let (reply, _) = self.unchanged(database, answer, job, now_ms).await?;
        Ok(Some((reply, row_of(&stored))))
    }

    /// Its name has another job now, which is in another shard.
    async fn forward(
        &self,
        database: &Database,
        stored: &StoredJob,
    ) -> StoreResult<(ChangeReply, RowNow)> {
        if let Some(command) = self.command {
            let forwarded = database.store().forward_command(command, stored.job.shard);
            database.bounded(forwarded).await?;
        }
        Ok((ChangeReply::NotOurs, RowNow::Unknown))
    }

    pub(super) fn decide(&self, stored: &StoredJob, now_ms: i64) -> Decided {
        let StoredJob { job, is_tombstone } = stored;
        let Self { request, .. } = self;
        if !request.is_of(job) {
            return Decided::Unchanged(self.already_fired());
        }
        if request.bulk.is_some_and(|mark| mark.revision != job.changes.revision) {
            return Decided::Unchanged(ChangeAnswer::NotMatched(job.etag()));
        }
        if request.if_match.as_ref().is_some_and(|state| *state != job.etag()) {
            return Decided::Unchanged(ChangeAnswer::NotMatched(job.etag()));
        }
        let circumstances = Circumstances {
            now_ms,
            running: self.is_running,
            max_attempts: self.max_attempts,
            window_ms: self.window_ms,
            by: request.by.who(),
        };
        match request.change.decide(job, *is_tombstone, circumstances) {
            Decision::Answered(answer) => Decided::Unchanged(ChangeAnswer::Answered(answer)),
            Decision::Refused(refusal) if refusal.kind == ErrorKind::RequestConflict => {
                Decided::Unchanged(ChangeAnswer::Conflict(refusal.message))
            }
            Decision::Refused(refusal) => {
                Decided::Unchanged(ChangeAnswer::Refused(refusal.message))
            }
            Decision::Changed { job: after, tombstone_until, answer } => {
                let is_first = job.changes.cancelled.is_none();
                // What comes by a record has its verdict, and is counted with its partition.
                let is_audited = answer.changed && request.by.source() != AuditSource::Kafka;
                let verdicts = self.verdicts(Some(job), Some(&after), Ok(&answer), now_ms);
                let answer = ChangeAnswer::Answered(answer);
                let write = JobWrite {
                    before: job.clone(),
                    // A cancellation that only ends what an earlier one began is in the audit, and
                    // a bulk action is there as a whole.
                    audit: (is_first && is_audited && request.bulk.is_none())
                        .then(|| self.audit(job, &after, now_ms)),
                    after: *after,
                    tombstone_until,
                    was_tombstone: *is_tombstone,
                    verdicts,
                    command: self.command.map(|command| (command, answer.clone())),
                    bulk: request.bulk.map(|mark| mark.bulk),
                };
                Decided::Written(Box::new(write), answer)
            }
        }
    }

    /// Nothing changes but that the command has its answer, and what asked for it its verdict.
    async fn unchanged(
        &self,
        database: &Database,
        answer: ChangeAnswer,
        job: Option<&Job>,
        now_ms: i64,
    ) -> StoreResult<(ChangeReply, RowNow)> {
        let conflict;
        let told = match &answer {
            ChangeAnswer::Answered(answer) => Ok(answer),
            ChangeAnswer::Refused(why) | ChangeAnswer::NotMatched(why) => {
                conflict = Refusal::new(ErrorKind::InvalidField, why.as_str());
                Err(&conflict)
            }
            ChangeAnswer::Conflict(why) => {
                conflict = Refusal::new(ErrorKind::RequestConflict, why.as_str());
                Err(&conflict)
            }
        };
        let verdicts = match self.request.change {
            JobChange::Named(_) => self.verdicts(job, None, told, now_ms),
            JobChange::Cancel { .. } | JobChange::Run | JobChange::Edit(_) => Vec::new(),
        };
        let key = OrderingKey::Shard(self.claim.shard());
        let verdicts = (!verdicts.is_empty()).then(|| (key, pack(&verdicts)));
        let store = database.store();
        let waited = match (self.command, verdicts) {
            (Some(command), verdicts) => {
                database.bounded(store.answer_command(command, &answer, verdicts)).await?
            }
            (None, Some((key, packed))) => {
                database.bounded(store.enqueue_verdicts(key, packed)).await?;
                true
            }
            (None, None) => true,
        };
        let reply = match waited {
            true => ChangeReply::Answered(answer),
            false => ChangeReply::Withdrawn,
        };
        Ok((reply, RowNow::Unknown))
    }

    /// Its row was there when the change was asked for.
    pub(super) fn already_fired(&self) -> ChangeAnswer {
        ChangeAnswer::Answered(Answer::no(ChangeResult::AlreadyFired, self.request.job))
    }

    fn verdicts(
        &self,
        before: Option<&Job>,
        after: Option<&Job>,
        told: Result<&Answer, &Refusal>,
        now_ms: i64,
    ) -> Vec<Event> {
        if !self.publishes_verdicts {
            return Vec::new();
        }
        match (&self.request.change, after, told) {
            (JobChange::Named(named), after, told) => {
                named.events(self.app, before, after, told, now_ms)
            }
            (_, Some(after), Ok(answer)) => {
                self.verdict(after, answer, now_ms).into_iter().collect()
            }
            (_, None, _) | (_, _, Err(_)) => Vec::new(),
        }
    }

    fn verdict(&self, after: &Job, answer: &Answer, now_ms: i64) -> Option<Event> {
        let (verdict, about) = match answer.result {
            ChangeResult::Cancelled => (Verdict::Cancelled, about_job(after)),
            ChangeResult::Rescheduled => {
                (Verdict::Rescheduled { due_ms: after.due_ms }, about_change(after))
            }
            _ => return None,
        };
        let subject = Subject {
            request_id: Some(after.request_id.as_str().into()),
            app: Some(self.app),
            job_id: Some(after.id),
            source: None,
        };
        Some(verdict.event(&subject, &about, now_ms))
    }

    fn audit(&self, before: &Job, after: &Job, now_ms: i64) -> AuditEntry {
        let action = match (&self.request.change, self.request.change.kind()) {
            (JobChange::Cancel { .. }, _) => AuditAction::CancelJob,
            (JobChange::Run, _) => AuditAction::RunJob,
            (JobChange::Edit(_), "reschedule") => AuditAction::RescheduleJob,
            (JobChange::Edit(_), _) => AuditAction::EditJob,
            (JobChange::Named(named), _) => match named.change {
                Named::Cancel => AuditAction::CancelJob,
                Named::Reschedule(_) => AuditAction::RescheduleJob,
                Named::Replace(_) => AuditAction::ReplaceJob,
            },
        };
        AuditEntry {
            at_ms: now_ms,
            by: self.request.by.clone(),
            action,
            app: Some(self.app.to_owned()),
            subject: before.id.to_string(),
            details: self.details(before, after),
            count: 1,
        }
    }

    /// The request, and what differs, old and new. Of `jobData` only that it does.
    fn details(&self, before: &Job, after: &Job) -> Value {
        let mut details = Map::new();
        details.insert("requestId".into(), json!(before.request_id));
        let mut differs = |name: &str, old: Value, new: Value| {
            if old != new {
                details.insert(name.into(), json!({ "old": old, "new": new }));
            }
        };
        differs("scheduledMs", json!(before.scheduled_ms), json!(after.scheduled_ms));
        differs("priority", json!(before.priority), json!(after.priority));
        differs("expiresMs", json!(before.expires_ms), json!(after.expires_ms));
        differs("flexibleWindowMs", json!(before.flexible_ms), json!(after.flexible_ms));
        differs("maxAttempts", json!(before.max_attempts), json!(after.max_attempts));
        differs("timeoutMs", json!(before.timeout_ms), json!(after.timeout_ms));
        if before.data != after.data {
            details.insert("jobData".into(), json!("replaced"));
        }
        if self.is_running {
            details.insert("running".into(), json!(true));
        }
        Value::Object(details)
    }
}

/// What a change comes to.
pub(super) enum Decided {
    Written(Box<JobWrite>, ChangeAnswer),
    Unchanged(ChangeAnswer),
}

pub(super) fn row_of(stored: &Option<StoredJob>) -> RowNow {
    match stored {
        Some(StoredJob { job, is_tombstone: false }) => RowNow::Is(Box::new(job.clone())),
        Some(_) | None => RowNow::Gone,
    }
}

pub(super) fn row_after(write: &JobWrite) -> RowNow {
    match write.tombstone_until {
        Some(_) => RowNow::Gone,
        None => RowNow::Is(Box::new(write.after.clone())),
    }
}
