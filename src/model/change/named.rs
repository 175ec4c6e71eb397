//! Changes of a job that a message asks for by one of the job's names, with or without a version.
//! What they come to is decided by what exists when they are carried out.

use serde::{Deserialize, Serialize};

use super::{Answer, ChangeResult, Circumstances, Decision, cancel, read_data, write_data};
use crate::model::fingerprint::Fingerprint;
use crate::model::job::{Job, JobData, Origin, Priority, TraceContext, instant_of};
use crate::model::letter::{ErrorKind, Refusal, Source};
use crate::model::verdict::{Event, Subject, Verdict, about_change, about_job};
use crate::model::versions::{Effect, Memory, Met, Moved, Standing, schedule_version};

/// A change of a job, asked for by one of its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedChange {
    /// The change.
    pub change: Named,
    /// Its version.
    pub version: Option<i64>,
    /// It names the job by an idempotency key.
    pub by_key: bool,
    /// The message, whose producer gets a verdict.
    pub message: Message,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Named {
    /// No further attempt at it starts.
    Cancel,
    /// It fires at that moment, epoch milliseconds.
    Reschedule(i64),
    /// It becomes the job of this schedule, which has a higher version.
    Replace(Box<Replacement>),
}

/// The message that asks for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its own request id.
    pub request_id: String,
    /// Identifies it in the ids of verdicts.
    pub about: String,
    /// Its record; `None` if it came by API.
    pub source: Option<Source>,
}

/// What a job becomes by a schedule with a higher version. The job keeps its request id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// When the schedule was admitted, epoch milliseconds.
    pub created_ms: i64,
    /// When it is to fire, epoch milliseconds.
    pub scheduled_ms: i64,
    /// After which it is not fired, epoch milliseconds.
    pub expires_ms: Option<i64>,
    /// How long after its time it may fire, milliseconds.
    pub flexible_ms: Option<u64>,
    /// Its priority.
    pub priority: Priority,
    /// How often it is tried.
    pub max_attempts: Option<u32>,
    /// How long one attempt may take, milliseconds.
    pub timeout_ms: Option<u64>,
    /// The input of its handler.
    #[serde(serialize_with = "write_data", deserialize_with = "read_data")]
    pub data: Option<JobData>,
    /// The trace context of its record.
    pub trace: Option<TraceContext>,
    /// Its record.
    pub origin: Option<Origin>,
}

impl Replacement {
    /// What the job of a schedule would make of another one.
    pub fn of(job: &Job) -> Self {
        Self {
            created_ms: job.created_ms,
            scheduled_ms: job.scheduled_ms,
            expires_ms: job.expires_ms,
            flexible_ms: job.flexible_ms,
            priority: job.priority,
            max_attempts: job.max_attempts,
            timeout_ms: job.timeout_ms,
            data: Some(job.data.clone()),
            trace: job.trace.clone(),
            origin: job.origin.clone(),
        }
    }

    /// `job` as it is from now on, at `scheduled_ms`.
    fn apply(&self, job: &Job, version: Option<i64>, scheduled_ms: i64, now_ms: i64) -> Job {
        let Self { expires_ms, flexible_ms, .. } = *self;
        let mut replaced = job.clone();
        replaced.priority = self.priority;
        replaced.scheduled_ms = scheduled_ms;
        replaced.due_ms = instant_of(job.id, scheduled_ms, flexible_ms, expires_ms);
        (replaced.expires_ms, replaced.flexible_ms) = (expires_ms, flexible_ms);
        (replaced.max_attempts, replaced.timeout_ms) = (self.max_attempts, self.timeout_ms);
        replaced.data = self.data.clone().unwrap_or_default();
        (replaced.trace, replaced.origin) = (self.trace.clone(), self.origin.clone());
        (replaced.version, replaced.letter) = (version, None);
        replaced.changes.original = None;
        replaced.changes.moved_ms = Some(now_ms);
        replaced
    }
}

impl NamedChange {
    /// Its name, for people.
    pub fn as_str(&self) -> &'static str {
        match self.change {
            Named::Cancel => "cancel",
            Named::Reschedule(_) => "reschedule",
            Named::Replace(_) => "replace",
        }
    }

    /// Whether an attempt that runs at `job` is to be the last.
    pub fn ends(&self, job: &Job) -> bool {
        let is_above = |version| version >= schedule_version(job.version);
        matches!(self.change, Named::Cancel) && self.version.is_none_or(is_above)
    }

    /// What it comes to for a live job, or for what is remembered of a name.
    pub fn decide(&self, job: &Job, is_kept: bool, now: Circumstances<'_>) -> Decision {
        let s = schedule_version(job.version);
        let standing = match (is_kept, &job.changes.cancelled) {
            (false, _) => Standing::Live(s),
            (true, Some(_)) => Standing::Cancelled(s),
            (true, None) => Standing::Awaited,
        };
        let of = Of { job, standing, now };
        match &self.change {
            Named::Cancel => self.cancel(of),
            Named::Reschedule(to_ms) => self.reschedule(of, *to_ms),
            Named::Replace(replacement) => self.replace(of, replacement),
        }
    }

    fn cancel(&self, of: Of<'_>) -> Decision {
        let mut memory = of.job.memory();
        let effect = memory.cancel(of.standing, self.version);
        match effect {
            Effect::Superseded => of.no(ChangeResult::Superseded),
            Effect::Remembered => {
                of.remembers(memory, Answer::no(ChangeResult::Remembered, of.job.id))
            }
            Effect::Unchanged => of.remembers(memory, Answer::cancelled(of.job, true)),
            Effect::Applied if of.now.running && of.job.changes.cancelled.is_some() => {
                of.remembers(memory, Answer::running(of.job, false, true))
            }
            Effect::Applied => {
                let mut job = of.job.clone();
                remember(&mut job, memory);
                cancel(&job, of.now)
            }
        }
    }

    fn reschedule(&self, of: Of<'_>, to_ms: i64) -> Decision {
        let Of { job, now, .. } = of;
        let mut memory = job.memory();
        let moved = Moved { version: self.version, to_ms, by_key: self.by_key };
        let effect = memory.reschedule(of.standing, moved);
        match effect {
            Effect::Superseded => of.no(ChangeResult::Superseded),
            Effect::Remembered => {
                of.remembers(memory, Answer::no(ChangeResult::Remembered, job.id))
            }
            Effect::Unchanged if of.standing != Standing::Live(schedule_version(job.version)) => {
                Decision::Answered(Answer::cancelled(job, false))
            }
            Effect::Applied | Effect::Unchanged if now.running => of.runs(),
            Effect::Applied | Effect::Unchanged if job.changes.cancelled.is_some() => {
                Decision::Answered(Answer::cancelled(job, false))
            }
            Effect::Applied | Effect::Unchanged => {
                let mut after = job.clone();
                // One that was moved by other means since keeps that time.
                if effect == Effect::Applied {
                    after.scheduled_ms = to_ms;
                    after.due_ms = instant_of(job.id, to_ms, job.flexible_ms, job.expires_ms);
                }
                remember(&mut after, memory);
                let answer = Answer::yes(ChangeResult::Rescheduled, job.id);
                let answer = Answer { due_ms: Some(after.due_ms), ..answer };
                if after == *job {
                    return Decision::Answered(answer);
                }
                if after.due_ms != job.due_ms {
                    after.changes.moved_ms = Some(now.now_ms);
                }
                Decision::changed(revised(after), None, answer)
            }
        }
    }

    fn replace(&self, of: Of<'_>, replacement: &Replacement) -> Decision {
        let Of { job, now, .. } = of;
        let mut memory = job.memory();
        let met = match of.standing {
            // What it was to replace has ended.
            Standing::Awaited => return of.no(ChangeResult::AlreadyFired),
            standing => memory.schedule(standing, self.version, replacement.scheduled_ms),
        };
        let to_ms = match met {
            Met::Superseded => return of.no(ChangeResult::Superseded),
            Met::RepeatsCancelled | Met::Cancelled => {
                return Decision::Answered(Answer::cancelled(job, false));
            }
            Met::Repeats => return of.repeats(replacement),
            Met::Lives(to_ms) | Met::Replaces(to_ms) => to_ms,
        };
        let is_live = matches!(of.standing, Standing::Live(_));
        if is_live && now.running {
            return of.runs();
        }
        if is_live && job.changes.cancelled.is_some() {
            return of.no(ChangeResult::AlreadyFired);
        }
        let mut after = replacement.apply(job, self.version, to_ms, now.now_ms);
        remember(&mut after, memory);
        if !is_live || job.attempts > 0 {
            // Another job under the same name: what is told of the two is not to be mixed up, and
            // who received an attempt at the old one is not to take the next for its repetition.
            after.created_ms = replacement.created_ms.max(job.created_ms.saturating_add(1));
            (after.attempts, after.last_error) = (0, None);
        }
        if !is_live {
            (after.changes.cancelled, after.changes.moved_ms) = (None, None);
        }
        let answer = Answer::yes(ChangeResult::Replaced, job.id);
        let answer = Answer { due_ms: Some(after.due_ms), ..answer };
        Decision::changed(revised(after), None, answer)
    }

    /// What the producers of the message and of the job are told: `before` is the job's row, and
    /// `after` what it is now if it was changed.
    pub fn events(
        &self,
        app: &str,
        before: Option<&Job>,
        after: Option<&Job>,
        told: Result<&Answer, &Refusal>,
        now_ms: i64,
    ) -> Vec<Event> {
        let Message { request_id, about, source } = &self.message;
        let mine = Subject {
            request_id: Some(request_id.as_str().into()),
            app: Some(app),
            job_id: told.ok().and_then(|answer| answer.job_id),
            source: source.clone(),
        };
        let is_schedule = matches!(self.change, Named::Replace(_));
        let of = before.map_or(request_id.as_str(), |job| &job.request_id);
        let verdict = match told {
            Err(Refusal { kind, message, .. }) => Verdict::Rejected { kind: *kind, message },
            Ok(answer) => match (answer.result, answer.changed) {
                (ChangeResult::Running, _) => Verdict::Running,
                (ChangeResult::AlreadyFired, _) => Verdict::AlreadyFired,
                (ChangeResult::Superseded, _) => Verdict::Superseded,
                (ChangeResult::Remembered, _) => Verdict::Remembered,
                (ChangeResult::Replaced, true) => Verdict::Accepted,
                (result, false) if is_schedule => {
                    Verdict::Duplicate { of, cancelled: result == ChangeResult::Cancelled }
                }
                (_, true) => Verdict::Applied,
                (_, false) => Verdict::Unchanged,
            },
        };
        let own = verdict.event(&mine, about, now_ms);
        let changed = told.ok().filter(|answer| answer.changed);
        let (Some(answer), Some(before), Some(after)) = (changed, before, after) else {
            return vec![own];
        };
        let subject = Subject {
            request_id: Some(after.request_id.as_str().into()),
            app: Some(app),
            job_id: Some(after.id),
            source: None,
        };
        let of_job = match answer.result {
            ChangeResult::Cancelled => {
                Verdict::Cancelled.event(&subject, &about_job(after), now_ms)
            }
            ChangeResult::Rescheduled => {
                let rescheduled = Verdict::Rescheduled { due_ms: after.due_ms };
                rescheduled.event(&subject, &about_change(after), now_ms)
            }
            // The old job is told of first.
            ChangeResult::Replaced if before.changes.cancelled.is_none() => {
                let replaced = Verdict::Replaced.event(&subject, &about_change(after), now_ms);
                return vec![replaced, own];
            }
            _ => return vec![own],
        };
        vec![own, of_job]
    }
}

/// What a change is decided by.
#[derive(Clone, Copy)]
struct Of<'a> {
    job: &'a Job,
    standing: Standing,
    now: Circumstances<'a>,
}

impl Of<'_> {
    fn no(&self, result: ChangeResult) -> Decision {
        Decision::Answered(Answer::no(result, self.job.id))
    }

    /// An attempt runs, and nothing changes.
    fn runs(&self) -> Decision {
        let most = self.job.max_attempts.unwrap_or(self.now.max_attempts);
        let is_cancelled = self.job.changes.cancelled.is_some();
        let will_retry = !is_cancelled && self.job.attempts.saturating_add(1) < most;
        Decision::Answered(Answer::running(self.job, will_retry, false))
    }

    /// Only what is remembered changes, if it does.
    fn remembers(&self, memory: Memory, answer: Answer) -> Decision {
        if memory == self.job.memory() {
            return Decision::Answered(answer);
        }
        let mut job = self.job.clone();
        remember(&mut job, memory);
        let until_ms = match self.standing {
            Standing::Live(_) => None,
            Standing::Cancelled(_) => Some(job.due_ms),
            Standing::Awaited => {
                Some(job.due_ms.max(self.now.now_ms.saturating_add(self.now.window_ms)))
            }
        };
        Decision::Changed { job: Box::new(revised(job)), tombstone_until: until_ms, answer }
    }

    /// A schedule with the version that the live job has.
    fn repeats(&self, replacement: &Replacement) -> Decision {
        let data = replacement.data.clone().unwrap_or_default();
        let requested = self.job.changes.original;
        let requested = requested.or_else(|| Fingerprint::of_json(self.job.data.as_str()).ok());
        if Fingerprint::of_json(data.as_str()).ok() == requested {
            return Decision::Answered(Answer::yes(ChangeResult::Replaced, self.job.id));
        }
        let message = format!(
            "requestId \"{}\" stands for a live job with the same version and other jobData: use a \
             higher version to replace it",
            self.job.request_id
        );
        Decision::Refused(Refusal::new(ErrorKind::RequestConflict, message))
    }
}

/// Remembers this with the job.
pub fn remember(job: &mut Job, memory: Memory) {
    job.changes.memory = Some(Box::new(memory)).filter(|memory| !memory.is_empty());
}

fn revised(mut job: Job) -> Job {
    job.changes.revision = job.changes.revision.saturating_add(1);
    job
}

#[cfg(test)]
mod tests;
