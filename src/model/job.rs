//! A job: the request, and the state of its attempts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use super::fence::Fence;
use super::fingerprint::Fingerprint;
use super::ids::{InstanceId, JobId, LedgerId, Offset, ShardId};
use super::interruption::Interruption;
use super::versions::Memory;

/// One live job, as the `job` table holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Derived from app and request id.
    pub id: JobId,
    /// Its shard, which never changes.
    pub shard: ShardId,
    /// Its priority among due jobs.
    pub priority: Priority,
    /// When the next attempt is to start, epoch milliseconds, rounded up.
    pub due_ms: i64,
    /// The producer's name for the request.
    pub request_id: String,
    /// When the job is scheduled to fire, epoch milliseconds, rounded up.
    pub scheduled_ms: i64,
    /// It is not fired after this moment, epoch milliseconds.
    pub expires_ms: Option<i64>,
    /// How long after `scheduled_ms` its first attempt may start, in milliseconds.
    pub flexible_ms: Option<u64>,
    /// The app limits how many of its jobs with the same key run at a time. They are all in one
    /// shard.
    pub concurrency_key: Option<String>,
    /// When it was admitted, epoch milliseconds.
    pub created_ms: i64,
    /// The number of attempts that have ended.
    pub attempts: u32,
    /// Overrides the app's `max_attempts`.
    pub max_attempts: Option<u32>,
    /// Overrides the app's `timeout`, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The handler's input, unchanged.
    pub data: JobData,
    /// The trace context of the request.
    pub trace: Option<TraceContext>,
    /// The record that requested it; `None` for jobs by API.
    pub origin: Option<Origin>,
    /// The error of the last failed attempt.
    pub last_error: Option<String>,
    /// The dead letter that it is a replay of.
    pub letter: Option<Uuid>,
    /// The version of the schedule that it is of; `None` for one without, which counts as 0.
    pub version: Option<i64>,
    /// What has become of it since its admission.
    pub changes: Changes,
}

/// What has become of a job since its admission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// How many changes people and programs have made.
    pub revision: u32,
    /// When it was last rescheduled or started by hand, epoch milliseconds.
    pub moved_ms: Option<i64>,
    /// The fingerprint of the requested `jobData`, if it has been replaced since: a repeated
    /// request is recognized by it.
    pub original: Option<Fingerprint>,
    /// Its cancellation, if it was cancelled while it ran: the attempt is finished and not
    /// repeated.
    pub cancelled: Option<Box<Cancellation>>,
    /// The operations on its names that are remembered, if there are some.
    pub memory: Option<Box<Memory>>,
    /// The attempt that runs for a second or more, as its instance has written it down. Where that
    /// instance does not own the job's shard any more, nothing runs.
    pub mark: Option<Mark>,
    /// Its attempts that ended with their instances.
    pub interruptions: Vec<Interruption>,
}

/// What the row of a job says of an attempt that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When it started, epoch milliseconds.
    pub started_ms: i64,
    /// The instance that runs it.
    pub by: InstanceId,
}

/// The first cancellation of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancellation {
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Who asked for it.
    pub by: String,
}

impl Job {
    /// The order of jobs in a list: by due time, ties by id.
    pub fn key(&self) -> (i64, JobId) {
        (self.due_ms, self.id)
    }

    /// The operations on its names that are remembered.
    pub fn memory(&self) -> Memory {
        self.changes.memory.as_deref().cloned().unwrap_or_default()
    }

    /// Roughly how many bytes it takes in memory.
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.data.as_str().len()
            + self.request_id.len()
            + self.concurrency_key.as_ref().map_or(0, String::len)
            + self.trace.as_ref().map_or(0, TraceContext::size)
            + self.last_error.as_ref().map_or(0, String::len)
    }

    /// Since when it could have been fired, epoch milliseconds: the latest of its instant, its
    /// admission and the last time that it was rescheduled or started by hand.
    pub fn ready_ms(&self) -> i64 {
        self.due_ms.max(self.created_ms).max(self.changes.moved_ms.unwrap_or(i64::MIN))
    }

    /// Identifies the present state of its row, and changes with each change of it.
    pub fn etag(&self) -> String {
        let Self { created_ms, attempts, due_ms, changes, .. } = self;
        format!("{created_ms:x}-{:x}-{attempts:x}-{due_ms:x}", changes.revision)
    }

    /// Whether the job has expired at `now_ms`.
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|expires| now_ms > expires)
    }

    /// The time limit of an attempt; `app` is the app's own.
    pub fn timeout(&self, of_app: Duration) -> Duration {
        self.timeout_ms.map_or(of_app, Duration::from_millis)
    }
}

/// The instant at which the first attempt at job `id` is to start: within `flexible_ms` after
/// `scheduled_ms`, and not after `expires_ms`. All times are epoch milliseconds.
///
/// A hash of the id decides where, so that it is the same on every instance, and jobs that were
/// requested for one moment spread evenly. A window that ends after `expires_ms` is shortened:
/// jobs that were all moved to their last moment would expire before they could fire.
pub fn instant_of(
    id: JobId,
    scheduled_ms: i64,
    flexible_ms: Option<u64>,
    expires_ms: Option<i64>,
) -> i64 {
    let until_expired_ms = expires_ms.map_or(u64::MAX, |expires_ms| {
        expires_ms.saturating_sub(scheduled_ms).try_into().unwrap_or(0)
    });
    let window_ms = flexible_ms.unwrap_or(0).min(until_expired_ms);
    if window_ms == 0 {
        return scheduled_ms;
    }
    // Not the id itself, which decides the shard already.
    let hash = Sha256::new_with_prefix(b"window\0").chain_update(id.into_bytes()).finalize();
    let hash = hash.iter().take(8).fold(0, |hash: u64, byte| hash << 8 | u64::from(*byte));
    let offset_ms = window_ms.checked_add(1).map_or(hash, |count| hash % count);
    scheduled_ms.saturating_add_unsigned(offset_ms)
}

/// Among due jobs, the higher priority is fired first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// After all others.
    Low,
}

impl Priority {
    /// Every priority, highest first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Its number in the database: 0 is the highest.
    pub fn rank(self) -> i16 {
        self as i16
    }

    /// The priority with this number; an unknown number is low, so that the job is still fired.
    pub fn from_rank(rank: i16) -> Self {
        match rank {
            0 => Self::High,
            1 => Self::Normal,
            _ => Self::Low,
        }
    }

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = ();

    /// Reads the name in any letter case.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str().eq_ignore_ascii_case(text))
            .ok_or(())
    }
}

/// A JSON object, kept as its original bytes: with its key order and forms of numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct JobData(Box<str>);

impl JobData {
    /// Takes text that is known to be one JSON value, such as a row's.
    pub fn from_trusted(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The JSON text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads it as a `T`.
    ///
    /// # Errors
    /// The deserializer's error, with its place in the data.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}

impl Default for JobData {
    fn default() -> Self {
        Self("{}".into())
    }
}

impl From<Box<RawValue>> for JobData {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw.into())
    }
}

impl fmt::Debug for JobData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for JobData {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0)
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

/// The W3C trace context from a record's headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// The `traceparent` header.
    pub parent: String,
    /// The `tracestate` header.
    pub state: Option<String>,
}

impl TraceContext {
    fn size(&self) -> usize {
        self.parent.len() + self.state.as_ref().map_or(0, String::len)
    }
}

/// The record that requested a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The ledger row of its topic and partition.
    pub ledger: LedgerId,
    /// The offset in the partition.
    pub offset: Offset,
    /// The record's own time, epoch milliseconds.
    pub timestamp_ms: Option<i64>,
}

impl Origin {
    /// Identifies the record in the ids of verdicts: a topic that was recreated has the same offsets
    /// again, and other times.
    pub fn about(&self) -> String {
        let Self { ledger, offset, timestamp_ms } = self;
        format!("{ledger}.{offset}.{}", timestamp_ms.unwrap_or(-1))
    }
}

#[cfg(test)]
mod tests;
