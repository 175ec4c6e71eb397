//! Verdicts: what became of a request, published to its producer as CloudEvents 1.0 in structured
//! JSON.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ids::{JobId, Offset, Partition};
use super::job::{Fence, Job};
use super::letter::{ErrorKind, Source};

/// What became of a request, or of an attempt at its job.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict<'a> {
    /// It became a job.
    Accepted,
    /// It is a duplicate of an earlier request.
    Duplicate {
        /// That request's id.
        of: &'a str,
        /// Whether that request's job was cancelled.
        cancelled: bool,
    },
    /// It cannot become a job.
    Rejected {
        /// The kind of error, for programs.
        kind: ErrorKind,
        /// The error, for people.
        message: &'a str,
    },
    /// An attempt has started.
    Fired(Firing),
    /// The attempt succeeded, and so did the job.
    Succeeded(Firing),
    /// The attempt failed, and there will be another one.
    Retrying {
        /// The attempt.
        firing: Firing,
        /// When the next one is due, epoch milliseconds.
        due_ms: i64,
        /// The error of this one.
        message: &'a str,
    },
    /// The job failed for good and is a dead letter.
    Dead {
        /// Its last attempt; `None` if it never fired.
        firing: Option<Firing>,
        /// The kind of error, for programs.
        kind: ErrorKind,
        /// The error, for people.
        message: &'a str,
    },
    /// The job was cancelled and does not fire any more.
    Cancelled,
    /// The job has another time.
    Rescheduled {
        /// When its next attempt is due, epoch milliseconds.
        due_ms: i64,
    },
    /// A schedule with a higher version has taken the job's place.
    Replaced,
    /// The operation holds for the job that exists.
    Applied,
    /// An attempt at the job runs. No further one follows if the operation is a cancellation, and
    /// nothing was changed by any other.
    Running,
    /// The job has fired, and the operation changed nothing.
    AlreadyFired,
    /// There is no job yet, and the operation is remembered.
    Remembered,
    /// An operation with a higher version came before.
    Superseded,
    /// The job was as the operation asks.
    Unchanged,
}

/// One attempt at a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firing {
    /// 1 for the first.
    pub attempt: u32,
    /// The fence that the receiver got.
    pub fence: Fence,
    /// When it started, epoch milliseconds.
    pub fired_ms: i64,
}

/// The request of a verdict, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The request id: the key of the published record.
    pub request_id: Option<Cow<'a, str>>,
    /// The app.
    pub app: Option<&'a str>,
    /// The job that the request became, or of which it is a duplicate.
    pub job_id: Option<JobId>,
    /// The record of the request.
    pub source: Option<Source>,
}

/// A verdict to be published to the events topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The record key: the request id, where it is known.
    pub key: Option<String>,
    /// The event.
    pub json: String,
}

/// The events' `source`; their ids are unique within it.
const SOURCE: &str = "/infinite-scheduler";
/// The prefix of the events' `type`.
const TYPE: &str = "io.infinitescheduler.";

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'static str,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate_of: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<Fence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fired_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<Partition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<Offset>,
}

impl<'a> Verdict<'a> {
    /// Its name on the wire.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate { .. } => "duplicate",
            Self::Rejected { .. } => "rejected",
            Self::Fired(_) => "fired",
            Self::Succeeded(_) => "succeeded",
            Self::Retrying { .. } => "retrying",
            Self::Dead { .. } => "dead",
            Self::Cancelled => "cancelled",
            Self::Rescheduled { .. } => "rescheduled",
            Self::Replaced => "replaced",
            Self::Applied => "applied",
            Self::Running => "running",
            Self::AlreadyFired => "already-fired",
            Self::Remembered => "remembered",
            Self::Superseded => "superseded",
            Self::Unchanged => "unchanged",
        }
    }

    /// The verdict on `subject` at `at_ms`, epoch milliseconds.
    ///
    /// `about` identifies the job or attempt. Together with the verdict it forms the event's id,
    /// so that a verdict which is published twice has the same id.
    pub fn event(&self, subject: &Subject<'_>, about: &str, at_ms: i64) -> Event {
        let verdict = self.as_str();
        let request_id = subject.request_id.as_deref();
        let source = subject.source.as_ref();
        let event = CloudEvent {
            specversion: "1.0",
            id: format!("{about}.{verdict}"),
            source: SOURCE,
            r#type: format!("{TYPE}{verdict}"),
            subject: request_id,
            time: rfc3339(at_ms),
            datacontenttype: "application/json",
            data: Data {
                verdict,
                request_id,
                app_name: subject.app,
                job_id: subject.job_id,
                topic: source.map(|source| source.topic.as_str()),
                partition: source.map(|source| source.partition),
                offset: source.map(|source| source.offset),
                ..self.data()
            },
        };
        // A struct of texts and numbers always serializes.
        let json = serde_json::to_string(&event).unwrap_or_default();
        Event { key: request_id.map(str::to_owned), json }
    }

    /// The fields of this kind of verdict.
    fn data(&self) -> Data<'a> {
        let of = |firing: Firing| Data {
            attempt: Some(firing.attempt),
            fence: Some(firing.fence),
            fired_time: Some(rfc3339(firing.fired_ms)),
            ..Data::default()
        };
        match *self {
            Self::Accepted
            | Self::Cancelled
            | Self::Replaced
            | Self::Applied
            | Self::Running
            | Self::AlreadyFired
            | Self::Remembered
            | Self::Superseded
            | Self::Unchanged => Data::default(),
            Self::Duplicate { of, cancelled } => {
                let cancelled = cancelled.then_some(true);
                Data { duplicate_of: Some(of), cancelled, ..Data::default() }
            }
            Self::Rescheduled { due_ms } => {
                Data { due_time: Some(rfc3339(due_ms)), ..Data::default() }
            }
            Self::Rejected { kind, message } => {
                Data { kind: Some(kind.as_str()), message: Some(message), ..Data::default() }
            }
            Self::Fired(firing) | Self::Succeeded(firing) => of(firing),
            Self::Retrying { firing, due_ms, message } => {
                Data { due_time: Some(rfc3339(due_ms)), message: Some(message), ..of(firing) }
            }
            Self::Dead { firing, kind, message } => Data {
                kind: Some(kind.as_str()),
                message: Some(message),
                ..firing.map(of).unwrap_or_default()
            },
        }
    }
}

/// The `about` of a verdict on a job. The same request may become another job under the same id
/// later, so the time of admission is part of it.
pub fn about_job(job: &Job) -> String {
    format!("{}.{}", job.id, job.created_ms)
}

/// The `about` of a verdict on a change of the job, which may be changed several times.
pub fn about_change(job: &Job) -> String {
    format!("{}.{}.{}", job.id, job.created_ms, job.changes.revision)
}

/// The `about` of a verdict on one attempt.
pub fn about_attempt(job: &Job, fence: Fence) -> String {
    format!("{}.{}.{fence}", job.id, job.created_ms)
}

/// Serializes events for one row of the outbox.
pub fn pack(events: &[Event]) -> String {
    let mut text = String::from("[");
    for Event { key, json } in events {
        if text.len() > 1 {
            text.push(',');
        }
        text.push('[');
        text.push_str(&serde_json::to_string(key).unwrap_or_else(|_| "null".into()));
        text.push(',');
        text.push_str(json);
        text.push(']');
    }
    text.push(']');
    text
}

/// Deserializes the events of such a row.
///
/// # Errors
/// The parser's error, if the text is not what [`pack`] writes.
pub fn unpack(text: &str) -> Result<Vec<Event>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Packed<'a>(Option<String>, #[serde(borrow)] &'a RawValue);
    let packed: Vec<Packed<'_>> = serde_json::from_str(text)?;
    Ok(packed
        .into_iter()
        .map(|Packed(key, json)| Event { key, json: json.get().to_owned() })
        .collect())
}

/// Epoch milliseconds as RFC 3339 in UTC, to the millisecond.
pub(crate) fn rfc3339(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::UNIX_EPOCH);
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
