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
use super::ids::{JobId, LedgerId, Offset, ShardId};

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
    /// Of the app's jobs with the same key only so many run at a time as the app allows. They
    /// are all in one shard.
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
    /// What people and programs changed of it.
    pub changes: Changes,
}

/// What people and programs changed of a job after its admission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// How many changes there were.
    pub revision: u32,
    /// When it was last rescheduled or started by hand, epoch milliseconds.
    pub moved_ms: Option<i64>,
    /// Of the `jobData` that was requested, if another one has replaced it: the request is
    /// recognized by it when it comes again.
    pub original: Option<Fingerprint>,
    /// That it was cancelled: a job that runs finishes its attempt and is not tried again.
    pub cancelled: Option<Box<Cancellation>>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The ledger row of its topic and partition.
    pub ledger: LedgerId,
    /// The offset in the partition.
    pub offset: Offset,
    /// The record's own time, epoch milliseconds.
    pub timestamp_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::{about_attempt, about_job};

    #[test]
    fn priorities_are_read_in_any_case_and_order_highest_first() {
        assert_eq!("HIGH".parse(), Ok(Priority::High));
        assert_eq!("Low".parse(), Ok(Priority::Low));
        assert_eq!("urgent".parse::<Priority>(), Err(()));
        assert!(Priority::High < Priority::Low);
        for priority in Priority::ALL {
            assert_eq!(Priority::from_rank(priority.rank()), priority);
        }
    }

    #[test]
    fn job_data_is_written_as_it_was_read() {
        let text = r#"{"b":1.0, "a":10e2}"#;
        let data = JobData::from_trusted(text);
        assert_eq!(serde_json::to_string(&data).unwrap(), text);
        assert_eq!(format!("{data:?}"), text);
        let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
        assert_eq!(JobData::from(raw), data);
    }

    #[test]
    fn a_class_has_a_name_and_a_number_and_what_is_unknown_is_low() {
        for (priority, name, rank) in [
            (Priority::High, "high", 0),
            (Priority::Normal, "normal", 1),
            (Priority::Low, "low", 2),
        ] {
            assert_eq!((priority.to_string().as_str(), priority.rank()), (name, rank));
        }
        assert_eq!([-1, 3].map(Priority::from_rank), [Priority::Low; 2]);
    }

    fn job() -> Job {
        Job {
            id: JobId::from_bytes([1; 16]),
            shard: ShardId(1),
            priority: Priority::Normal,
            due_ms: 7,
            request_id: String::new(),
            scheduled_ms: 5,
            expires_ms: Some(9),
            flexible_ms: None,
            concurrency_key: None,
            created_ms: 0,
            attempts: 0,
            max_attempts: None,
            timeout_ms: None,
            data: JobData::from_trusted(""),
            trace: None,
            origin: None,
            last_error: None,
            letter: None,
            changes: Changes::default(),
        }
    }

    /// The same request may come back as another job under the same id.
    #[test]
    fn what_its_verdicts_are_about_names_the_admission_and_the_attempt() {
        let job = Job { created_ms: 3, ..job() };
        let id = "01010101-0101-0101-0101-010101010101";
        assert_eq!(about_job(&job), format!("{id}.3"));
        assert_eq!(about_attempt(&job, Fence::new(1, 2)), format!("{id}.3.{}", (1 << 20) + 2));
    }

    #[test]
    fn a_job_is_expired_after_its_last_moment_not_at_it() {
        let expired = [8, 9, 10].map(|now_ms| job().is_expired(now_ms));
        assert_eq!(expired, [false, false, true]);
        assert!(!Job { expires_ms: None, ..job() }.is_expired(i64::MAX));
    }

    #[test]
    fn its_instant_is_in_its_window_and_the_same_for_the_same_id() {
        let ids: Vec<JobId> =
            (0..1000).map(|number| JobId::derive("sms", &number.to_string())).collect();
        let instants = |window_ms, expires_ms| {
            let of = |id: &JobId| instant_of(*id, 100, Some(window_ms), expires_ms);
            ids.iter().map(of).collect::<Vec<_>>()
        };
        let chosen = instants(9, None);
        assert_eq!(chosen, instants(9, None));
        for instant in 100..=109 {
            let here = chosen.iter().filter(|other| **other == instant).count();
            assert!((60..140).contains(&here), "{here} of 1000 at {instant}");
        }
        assert_eq!(chosen.iter().filter(|instant| !(100..=109).contains(*instant)).count(), 0);
        assert_eq!(instants(9, Some(104)), instants(4, None), "spread over what is left");
        assert!(instants(9, Some(50)).iter().all(|instant| *instant == 100), "never early");
        assert!(instants(0, None).iter().all(|instant| *instant == 100));
        assert!(instants(u64::MAX, None).iter().all(|instant| *instant >= 100));
        // Rows hold what an earlier version computed.
        assert_eq!(instant_of(ids[0], 0, Some(999_999), None), 493015);
    }

    #[test]
    fn its_own_limit_of_time_comes_before_the_apps() {
        let of_app = Duration::from_secs(60);
        assert_eq!(job().timeout(of_app), of_app);
        let own = Job { timeout_ms: Some(1_500), ..job() };
        assert_eq!(own.timeout(of_app), Duration::from_millis(1_500));
    }

    #[test]
    fn it_stands_where_it_is_due_not_where_it_was_scheduled() {
        assert_eq!(job().key(), (7, JobId::from_bytes([1; 16])));
    }

    #[test]
    fn its_size_grows_with_each_text_that_it_holds() {
        let plain = job().size();
        assert_eq!(plain, size_of::<Job>());
        let trace = |state: Option<&str>| {
            Some(TraceContext { parent: "12".into(), state: state.map(Into::into) })
        };
        for (job, more) in [
            (Job { data: JobData::from_trusted("{}"), ..job() }, 2),
            (Job { request_id: "abc".into(), ..job() }, 3),
            (Job { concurrency_key: Some("key".into()), ..job() }, 3),
            (Job { trace: trace(None), ..job() }, 2),
            (Job { trace: trace(Some("xyz")), ..job() }, 5),
            (Job { last_error: Some("four".into()), ..job() }, 4),
        ] {
            assert_eq!(job.size(), plain + more, "{job:?}");
        }
        let all = Job {
            data: JobData::from_trusted("{}"),
            request_id: "abc".into(),
            trace: trace(Some("xyz")),
            last_error: Some("four".into()),
            ..job()
        };
        assert_eq!(all.size(), plain + 14);
    }
}
