//! Changes of one job that a person or a program asks for, and how each is answered by what is
//! true of the job at that moment.

pub mod named;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::fingerprint::Fingerprint;
use super::ids::JobId;
use super::job::{Cancellation, Job, JobData, Priority, instant_of};
use super::letter::{ErrorKind, Refusal};
use super::verdict::rfc3339;
use named::NamedChange;

/// A change of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobChange {
    /// No further attempt at it starts.
    Cancel {
        /// An attempt that runs is asked to stop.
        stop: bool,
    },
    /// It is due now.
    Run,
    /// Some of its fields get other values.
    Edit(Box<JobEdit>),
    /// A message asks for it by one of the job's names.
    Named(Box<NamedChange>),
}

/// Other values for the fields of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobEdit {
    /// When it is to fire, epoch milliseconds.
    pub scheduled_ms: Option<i64>,
    /// The whole of its `jobData`.
    #[serde(serialize_with = "write_data", deserialize_with = "read_data")]
    pub data: Option<JobData>,
    /// Its priority.
    pub priority: Option<Priority>,
    /// After which it is not fired, epoch milliseconds.
    pub expires_ms: Setting<i64>,
    /// How long after its time it may fire, milliseconds.
    pub flexible_ms: Setting<u64>,
    /// How often it is tried.
    pub max_attempts: Setting<u32>,
    /// How long one attempt may take, milliseconds.
    pub timeout_ms: Setting<u64>,
}

/// What becomes of a field that may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Setting<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is absent from now on, so that its default holds.
    Default,
    /// It has this value from now on.
    To(T),
}

/// How a change is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What is true of the job now.
    pub result: ChangeResult,
    /// The job.
    pub job_id: JobId,
    /// Whether that is what was asked for.
    pub done: bool,
    /// Whether this change of it is what made it so.
    pub changed: bool,
    /// While an attempt runs: whether another one follows if it fails.
    pub will_retry: Option<bool>,
    /// When its next attempt is due, epoch milliseconds.
    pub due_ms: Option<i64>,
    /// When it was first cancelled, epoch milliseconds, and by whom.
    pub cancelled: Option<(i64, String)>,
}

/// What is true of a job after a change of it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ChangeResult {
    /// It is cancelled and does not fire any more.
    Cancelled,
    /// It has the time that was asked for.
    Rescheduled,
    /// It has the values that were asked for.
    Edited,
    /// It is due now.
    Started,
    /// It is the job of a schedule with a higher version now, or was before.
    Replaced,
    /// An operation with a higher version came before.
    Superseded,
    /// There is no such job yet, and the operation is remembered for one that comes.
    Remembered,
    /// It has ended: it fired, or it failed for good.
    AlreadyFired,
    /// An attempt at it runs.
    Running,
    /// No such job is known.
    Unknown,
    /// The owner of its shard has not answered yet.
    NotAnswered,
}

/// What holds while a change is decided.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The moment, epoch milliseconds.
    pub now_ms: i64,
    /// Whether an attempt at the job runs.
    pub running: bool,
    /// The attempts that its app allows.
    pub max_attempts: u32,
    /// For how long a cancelled job is remembered, milliseconds.
    pub window_ms: i64,
    /// Who asks.
    pub by: &'a str,
}

/// What a change comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing changes.
    Answered(Answer),
    /// The row changes.
    Changed {
        /// The job as it is from now on.
        job: Box<Job>,
        /// Its row becomes a tombstone, to be kept until then, epoch milliseconds.
        tombstone_until: Option<i64>,
        /// The answer once that is committed.
        answer: Answer,
    },
    /// It is refused, and nothing changes.
    Refused(Refusal),
}

impl Decision {
    pub(super) fn changed(job: Job, tombstone_until: Option<i64>, answer: Answer) -> Self {
        let answer = Answer { changed: true, ..answer };
        Self::Changed { job: Box::new(job), tombstone_until, answer }
    }
}

impl<T> Setting<T> {
    /// What `now` becomes.
    pub fn apply(self, now: Option<T>) -> Option<T> {
        match self {
            Self::Keep => now,
            Self::Default => None,
            Self::To(value) => Some(value),
        }
    }
}

impl ChangeResult {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Rescheduled => "rescheduled",
            Self::Edited => "edited",
            Self::Started => "started",
            Self::Replaced => "replaced",
            Self::Superseded => "superseded",
            Self::Remembered => "remembered",
            Self::AlreadyFired => "already-fired",
            Self::Running => "running",
            Self::Unknown => "unknown",
            Self::NotAnswered => "not-answered",
        }
    }
}

impl Answer {
    /// Of a job that is not what was asked for, and about which nothing else is said.
    pub fn no(result: ChangeResult, job_id: JobId) -> Self {
        Self {
            result,
            job_id,
            done: false,
            changed: false,
            will_retry: None,
            due_ms: None,
            cancelled: None,
        }
    }

    pub(super) fn yes(result: ChangeResult, job_id: JobId) -> Self {
        Self { done: true, ..Self::no(result, job_id) }
    }

    pub(super) fn cancelled(job: &Job, done: bool) -> Self {
        let first = job.changes.cancelled.as_ref().map(|first| (first.at_ms, first.by.clone()));
        Self { done, cancelled: first, ..Self::no(ChangeResult::Cancelled, job.id) }
    }

    pub(super) fn running(job: &Job, will_retry: bool, done: bool) -> Self {
        let first = job.changes.cancelled.as_ref().map(|first| (first.at_ms, first.by.clone()));
        let will_retry = Some(will_retry);
        Self { done, will_retry, cancelled: first, ..Self::no(ChangeResult::Running, job.id) }
    }
}

impl JobChange {
    /// Its kind, as commands name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancel",
            Self::Run => "run",
            Self::Edit(edit) if edit.scheduled_ms.is_some() => "reschedule",
            Self::Edit(_) => "edit",
            Self::Named(_) => "named",
        }
    }

    /// What it comes to for a live job, or for the tombstone of one that was cancelled.
    pub fn decide(&self, job: &Job, is_tombstone: bool, now: Circumstances<'_>) -> Decision {
        if let Self::Named(named) = self {
            return named.decide(job, is_tombstone, now);
        }
        let is_cancel = matches!(self, Self::Cancel { .. });
        if is_tombstone && job.changes.cancelled.is_none() {
            // Operations wait for it, and it does not exist yet.
            return Decision::Answered(Answer::no(ChangeResult::Unknown, job.id));
        }
        if is_tombstone {
            return Decision::Answered(Answer::cancelled(job, is_cancel));
        }
        let is_cancelled = job.changes.cancelled.is_some();
        match self {
            _ if now.running && (is_cancelled || !is_cancel) => {
                let most = job.max_attempts.unwrap_or(now.max_attempts);
                let will_retry = !is_cancelled && job.attempts.saturating_add(1) < most;
                Decision::Answered(Answer::running(job, will_retry, is_cancel))
            }
            Self::Cancel { .. } => cancel(job, now),
            // Its attempt ended with its instance: it is about to become a tombstone.
            _ if is_cancelled => Decision::Answered(Answer::cancelled(job, false)),
            Self::Run => run(job, now),
            Self::Edit(edit) => edit.decide(job, now),
            Self::Named(named) => named.decide(job, is_tombstone, now),
        }
    }
}

pub(super) fn cancel(job: &Job, now: Circumstances<'_>) -> Decision {
    let mut job = changed(job);
    let first = || Box::new(Cancellation { at_ms: now.now_ms, by: now.by.to_owned() });
    job.changes.cancelled.get_or_insert_with(first);
    let answer = match now.running {
        true => Answer::running(&job, false, true),
        false => Answer::cancelled(&job, true),
    };
    let tombstone_until = (!now.running).then(|| remembered_until(&job, now.window_ms));
    Decision::changed(job, tombstone_until, answer)
}

/// Until when a cancelled job is remembered: the later of the end of its window and its instant
/// plus the window.
pub fn remembered_until(job: &Job, window_ms: i64) -> i64 {
    job.created_ms.max(job.due_ms).max(job.scheduled_ms).saturating_add(window_ms)
}

fn run(job: &Job, now: Circumstances<'_>) -> Decision {
    if let Some(expires_ms) = job.expires_ms.filter(|_| job.is_expired(now.now_ms)) {
        return Decision::Refused(Refusal::new(
            ErrorKind::InvalidField,
            format!(
                "expiresTime {} has passed, it is {}: give the job a later expiresTime first",
                rfc3339(expires_ms),
                rfc3339(now.now_ms)
            ),
        ));
    }
    let started = Answer::yes(ChangeResult::Started, job.id);
    if job.due_ms <= now.now_ms {
        return Decision::Answered(Answer { due_ms: Some(job.due_ms), ..started });
    }
    let mut job = changed(job);
    job.changes.moved_ms = Some(now.now_ms);
    (job.due_ms, job.scheduled_ms) = (now.now_ms, now.now_ms);
    let answer = Answer { due_ms: Some(job.due_ms), ..started };
    Decision::changed(job, None, answer)
}

fn changed(job: &Job) -> Job {
    let mut job = job.clone();
    job.changes.revision = job.changes.revision.saturating_add(1);
    job
}

impl JobEdit {
    /// Whether it leaves every field as it is.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn decide(&self, job: &Job, now: Circumstances<'_>) -> Decision {
        let edited = match self.applied(job, now.now_ms) {
            Ok(edited) => edited,
            Err(refusal) => return Decision::Refused(refusal),
        };
        let result = match self.scheduled_ms {
            Some(_) => ChangeResult::Rescheduled,
            None => ChangeResult::Edited,
        };
        let answer = Answer { due_ms: Some(edited.due_ms), ..Answer::yes(result, job.id) };
        if edited == *job {
            return Decision::Answered(answer);
        }
        let mut edited = edited;
        edited.changes.revision = edited.changes.revision.saturating_add(1);
        Decision::changed(edited, None, answer)
    }

    fn applied(&self, job: &Job, now_ms: i64) -> Result<Job, Refusal> {
        let mut edited = job.clone();
        if let Some(data) = self.data.as_ref().filter(|data| **data != job.data) {
            // Its request is to be known again by what it brought.
            if edited.changes.original.is_none() {
                edited.changes.original = Fingerprint::of_json(job.data.as_str()).ok();
            }
            edited.data = data.clone();
        }
        edited.priority = self.priority.unwrap_or(job.priority);
        edited.expires_ms = self.expires_ms.apply(job.expires_ms);
        edited.max_attempts = self.max_attempts.apply(job.max_attempts);
        edited.timeout_ms = self.timeout_ms.apply(job.timeout_ms);
        edited.flexible_ms = self.flexible_ms.apply(job.flexible_ms);
        edited.scheduled_ms = self.scheduled_ms.unwrap_or(job.scheduled_ms);
        if self.scheduled_ms.is_some() || self.flexible_ms != Setting::Keep {
            let Job { id, scheduled_ms, flexible_ms, expires_ms, .. } = edited;
            edited.due_ms = instant_of(id, scheduled_ms, flexible_ms, expires_ms);
        }
        if edited.due_ms != job.due_ms {
            edited.changes.moved_ms = Some(now_ms);
        }
        self.check(&edited)?;
        Ok(edited)
    }

    fn check(&self, edited: &Job) -> Result<(), Refusal> {
        let refused = |message| Err(Refusal::new(ErrorKind::InvalidField, message));
        let touches_times = self.scheduled_ms.is_some() || self.expires_ms != Setting::Keep;
        if let Some(expires_ms) = edited.expires_ms
            && touches_times
            && expires_ms < edited.scheduled_ms
        {
            return refused(format!(
                "expiresTime {} is before scheduledTime {}: the job would never fire",
                rfc3339(expires_ms),
                rfc3339(edited.scheduled_ms)
            ));
        }
        if let Setting::To(most) = self.max_attempts
            && most <= edited.attempts
        {
            return refused(format!(
                "maxAttempts {most} must be above {}, the attempts that the job has used",
                edited.attempts
            ));
        }
        Ok(())
    }
}

pub(super) fn write_data<S: Serializer>(
    data: &Option<JobData>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    data.as_ref().map(JobData::as_str).serialize(serializer)
}

pub(super) fn read_data<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<JobData>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let data = |text: String| RawValue::from_string(text).map(JobData::from);
    text.map(data).transpose().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
