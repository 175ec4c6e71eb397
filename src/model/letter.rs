//! A dead letter: what could not become a job, or a job that failed all its attempts.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::ids::{JobId, Offset, Partition};
use super::record::RawRecord;

/// Why a record or a job is a dead letter: the `error-kind` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The record has no value, or an empty one.
    EmptyValue,
    /// The value is larger than `max_record_bytes`.
    RecordTooLarge,
    /// The value is not UTF-8.
    InvalidEncoding,
    /// The value is not JSON, is nested too deeply, or is not an object.
    InvalidJson,
    /// A required field is missing.
    MissingField,
    /// A field has the wrong type or an illegal value.
    InvalidField,
    /// A known field occurs twice.
    DuplicateField,
    /// The time to fire is too far ahead.
    ScheduleTooFar,
    /// No instance ever registered the app.
    UnknownApp,
    /// The app's rules or its handler's `validate` refused the job data.
    RefusedByApp,
    /// This version does not support the operation.
    UnsupportedOperation,
    /// The idempotency key belongs to a request with other job data.
    IdempotencyConflict,
    /// The request id belongs to a live job with other job data.
    RequestConflict,
    /// The database refuses the row itself.
    RefusedByDatabase,
    /// The job failed for good: in all its attempts, or by an error that is final.
    AttemptsExhausted,
    /// The dispatch target refused the job for good.
    RefusedByTarget,
    /// Whatever ran the job's attempt ended with it: it is not known what became of it.
    Interrupted,
    /// The job's `expiresTime` had passed before it could fire.
    Expired,
}

impl ErrorKind {
    /// Every kind.
    pub(crate) const ALL: [Self; 18] = [
        Self::EmptyValue,
        Self::RecordTooLarge,
        Self::InvalidEncoding,
        Self::InvalidJson,
        Self::MissingField,
        Self::InvalidField,
        Self::DuplicateField,
        Self::ScheduleTooFar,
        Self::UnknownApp,
        Self::RefusedByApp,
        Self::UnsupportedOperation,
        Self::IdempotencyConflict,
        Self::RequestConflict,
        Self::RefusedByDatabase,
        Self::AttemptsExhausted,
        Self::RefusedByTarget,
        Self::Interrupted,
        Self::Expired,
    ];

    /// Its name on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyValue => "empty-value",
            Self::RecordTooLarge => "record-too-large",
            Self::InvalidEncoding => "invalid-encoding",
            Self::InvalidJson => "invalid-json",
            Self::MissingField => "missing-field",
            Self::InvalidField => "invalid-field",
            Self::DuplicateField => "duplicate-field",
            Self::ScheduleTooFar => "schedule-too-far",
            Self::UnknownApp => "unknown-app",
            Self::RefusedByApp => "refused-by-app",
            Self::UnsupportedOperation => "unsupported-operation",
            Self::IdempotencyConflict => "idempotency-conflict",
            Self::RequestConflict => "request-conflict",
            Self::RefusedByDatabase => "refused-by-database",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::RefusedByTarget => "refused-by-target",
            Self::Interrupted => "interrupted",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request cannot become a job, as a message for its producer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, for programs.
    pub kind: ErrorKind,
    /// A message that names the field, the value and the way out.
    pub message: String,
    /// The request id, where it could be read.
    pub request_id: Option<String>,
    /// The request's app, where it could be read.
    pub app: Option<String>,
}

impl Refusal {
    /// A refusal of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), request_id: None, app: None }
    }
}

/// The record of a dead letter: the `original-*` headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The offset in the partition.
    pub offset: Offset,
    /// The record's own time, epoch milliseconds.
    pub timestamp_ms: Option<i64>,
}

impl Source {
    /// The source of `record`.
    pub fn of(record: &RawRecord) -> Self {
        Self {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
        }
    }
}

/// A dead letter, as it is written to the table and then to the DLQ topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The error, as a sentence for people.
    pub message: String,
    /// The app, where known.
    pub app: Option<String>,
    /// The request id, where known.
    pub request_id: Option<String>,
    /// The job, if it had become one.
    pub job_id: Option<JobId>,
    /// The record, if it came by Kafka.
    pub source: Option<Source>,
    /// The record key, unchanged.
    pub key: Option<Vec<u8>>,
    /// The record's value, unchanged; of a failed job, the body that it was fired with.
    pub value: Option<Vec<u8>>,
    /// The record's headers, unchanged.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The number of attempts.
    pub attempts: u32,
    /// When it became a dead letter, epoch milliseconds.
    pub at_ms: i64,
}

impl DeadLetter {
    /// Roughly how many bytes its key, value, headers and message take.
    pub fn size(&self) -> usize {
        let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers =
            self.headers.iter().map(|(name, value)| name.len() + of(value)).sum::<usize>();
        of(&self.key) + of(&self.value) + headers + self.message.len()
    }

    /// The letter of a record that cannot become a job.
    pub fn of_record(record: &RawRecord, refusal: Refusal, at_ms: i64) -> Self {
        Self {
            kind: refusal.kind,
            message: refusal.message,
            app: refusal.app,
            request_id: refusal.request_id,
            job_id: None,
            source: Some(Source::of(record)),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.clone(),
            attempts: 1,
            at_ms,
        }
    }

    /// The refusal.
    pub fn refusal(&self) -> Refusal {
        Refusal {
            kind: self.kind,
            message: self.message.clone(),
            request_id: self.request_id.clone(),
            app: self.app.clone(),
        }
    }

    /// The same letter always has the same id: a record that is read again, or an outcome that is
    /// written again, does not create a second one.
    pub fn id(&self) -> Uuid {
        let mut hash = Sha256::new();
        if let Some(source) = &self.source {
            hash.update(source.topic.as_bytes());
            hash.update(source.partition.0.to_be_bytes());
            hash.update(source.offset.0.to_be_bytes());
            hash.update(source.timestamp_ms.unwrap_or(-1).to_be_bytes());
        }
        match self.job_id {
            Some(job) => {
                hash.update(job.into_bytes());
                hash.update(self.at_ms.to_be_bytes());
            }
            None => hash.update(self.value.as_deref().unwrap_or_default()),
        }
        let mut short = [0; 16];
        short.copy_from_slice(&hash.finalize()[..16]);
        Uuid::new_v8(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        let record = RawRecord {
            topic: "in".into(),
            partition: Partition(3),
            offset: Offset(41),
            timestamp_ms: None,
            key: None,
            value: Some(b"{".to_vec()),
            headers: Vec::new(),
        };
        DeadLetter::of_record(&record, Refusal::new(ErrorKind::InvalidJson, "m"), 5)
    }

    /// What an earlier version wrote is found again when its record is read again.
    #[test]
    fn ids_are_the_same_in_every_version() {
        let job = DeadLetter { job_id: Some(JobId::from_bytes([1; 16])), ..letter() };
        assert_eq!(letter().id().to_string(), "816ebdab-ba1e-8e09-a3db-40816138d7f9");
        assert_eq!(job.id().to_string(), "3435b597-19ce-81a8-b032-e833bccb786c");
    }

    #[test]
    fn a_record_that_is_read_again_is_the_same_letter_and_another_is_not() {
        let known = letter();
        assert_eq!(DeadLetter { at_ms: 6, attempts: 2, ..letter() }.id(), known.id());
        let source = letter().source.unwrap();
        for other in [
            Source { topic: "out".into(), ..source.clone() },
            Source { partition: Partition(4), ..source.clone() },
            Source { offset: Offset(42), ..source.clone() },
            Source { timestamp_ms: Some(1), ..source },
        ] {
            let other = DeadLetter { source: Some(other), ..letter() };
            assert_ne!(other.id(), known.id(), "{:?}", other.source);
        }
        assert_ne!(DeadLetter { value: None, ..letter() }.id(), known.id());
    }

    #[test]
    fn a_job_may_die_again_after_a_replay() {
        let job = DeadLetter { job_id: Some(JobId::from_bytes([1; 16])), ..letter() };
        let later = DeadLetter { at_ms: 6, ..job.clone() };
        let other = DeadLetter { job_id: Some(JobId::from_bytes([2; 16])), ..job.clone() };
        assert_eq!(DeadLetter { value: None, ..job.clone() }.id(), job.id());
        assert_ne!(later.id(), job.id());
        assert_ne!(other.id(), job.id());
    }

    #[test]
    fn it_is_refused_for_what_it_died_of() {
        let refusal = Refusal {
            kind: ErrorKind::InvalidField,
            message: "m".into(),
            request_id: Some("r".into()),
            app: Some("sms".into()),
        };
        let known = DeadLetter::of_record(
            &RawRecord {
                topic: "in".into(),
                partition: Partition(0),
                offset: Offset(0),
                timestamp_ms: Some(7),
                key: None,
                value: None,
                headers: Vec::new(),
            },
            refusal.clone(),
            5,
        );
        assert_eq!(known.refusal(), refusal);
        assert_eq!(known.source.unwrap().timestamp_ms, Some(7));
        assert_eq!(refusal.kind.to_string(), "invalid-field");
    }
}
