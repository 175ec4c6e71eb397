//! A request, the message that a microservice publishes: its fields and their rules.
//!
//! Time zones, an operator's limits and an app's own rules are applied after decoding, in
//! [`ScheduleJobRequest::resolve`] and [`check_required_fields`]. Duplicates and conflicts are
//! found at admission.

mod build;
mod data;
mod decode;
mod rules;

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};

use super::app::AppName;
use super::job::{JobData, Priority};
use super::json::Name;
use super::letter::{ErrorKind, Refusal};
use super::time::{ScheduledTime, shortened};

pub use build::RequestBuilder;
pub use data::check_required_fields;
pub use rules::{Resolved, Rules};

/// The JSON Schema (2020-12) of a request.
///
/// What it accepts, [`ScheduleJobRequest::from_json`] accepts as well, but for dates that the
/// calendar does not have and fields that occur twice, which a schema cannot describe.
pub const SCHEMA: &str = include_str!("request.schema.json");

/// The names of a request's fields.
pub const FIELDS: [&str; 12] = [
    "requestId",
    "appName",
    "scheduledTime",
    "expiresTime",
    "jobData",
    "priority",
    "idempotencyKey",
    "operation",
    "targetRequestId",
    "maxAttempts",
    "timeoutMs",
    "version",
];

/// The field of the request that `refusal` is about: the one whose name its message begins with.
pub fn field_of(refusal: &Refusal) -> Option<&'static str> {
    let message = refusal.message.as_str();
    let end = message.find([' ', ':']).unwrap_or(message.len());
    FIELDS.into_iter().find(|field| *field == &message[..end])
}

/// The longest `requestId` and `targetRequestId`, in Unicode scalar values.
const MAX_REQUEST_ID_CHARS: usize = 128;

/// The longest `idempotencyKey` and `concurrencyKey`, in Unicode scalar values.
const MAX_KEY_CHARS: usize = 255;

/// The largest values of the columns, which are signed.
const MAX_ATTEMPTS: u32 = i32::MAX as u32;
const MAX_TIMEOUT_MS: u64 = i64::MAX as u64;
const MAX_WINDOW_MS: u64 = i64::MAX as u64;

/// Requests a job at a time, or a change of a job that was requested before.
///
/// [`from_json`](Self::from_json) and [`builder`](Self::builder) return only requests whose
/// fields are valid.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ScheduleJobRequest {
    /// The producer's id of this request, 1 to 128 characters; the scheduler creates one if
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The app of the job; see [`AppName`].
    pub app_name: String,
    /// When the job is to fire; may be absent only in a cancellation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_time: Option<ScheduledTime>,
    /// The job is not fired after this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_time: Option<ScheduledTime>,
    /// The job may fire at any instant up to this many milliseconds after `scheduled_time`.
    /// Absent means 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flexible_window_ms: Option<u64>,
    /// The app limits how many of its jobs with the same key run at a time; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// The input of the job's handler, byte for byte.
    pub job_data: JobData,
    /// The job's priority among due jobs.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// Requests of one app with the same key make one job; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The operation.
    #[serde(skip_serializing_if = "is_default")]
    pub operation: Operation,
    /// The `requestId` of the job to cancel or reschedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_request_id: Option<String>,
    /// Overrides the app's `max_attempts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<NonZeroU32>,
    /// Overrides the app's `timeout`, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<NonZeroU64>,
    /// Among concurrent operations on one job, the highest version wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    #[serde(skip)]
    unknown_fields: UnknownFields,
}

/// The number of unknown fields. They are not part of the request, so that all values compare
/// equal.
#[derive(Clone, Copy, Debug, Default)]
struct UnknownFields(u32);

impl PartialEq for UnknownFields {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The operation of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Operation {
    /// Create a job.
    #[default]
    Schedule,
    /// Do not fire a job that was requested before.
    Cancel,
    /// Fire a job that was requested before at another time.
    Reschedule,
}

impl Operation {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Cancel => "cancel",
            Self::Reschedule => "reschedule",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ScheduleJobRequest {
    /// Starts to build a request for `app`.
    pub fn builder(app: impl Into<String>) -> RequestBuilder {
        RequestBuilder::new(app.into())
    }

    /// Decodes the value of a record.
    ///
    /// A byte-order mark at the start is skipped, and `null` means that an optional field is
    /// absent.
    ///
    /// # Errors
    /// A [`Refusal`] names the field, its value and the way out, and contains the request id and
    /// the app where these could be read.
    pub fn from_json(value: &[u8]) -> Result<Self, Refusal> {
        decode::decode(value)
    }

    /// Encodes it as the value of a record; absent and default values are omitted.
    ///
    /// # Panics
    /// If `job_data` was created by [`JobData::from_trusted`] from text that is not JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("job data is JSON")
    }

    /// The number of its fields that this version does not know.
    pub fn unknown_fields(&self) -> u32 {
        self.unknown_fields.0
    }

    /// Checks its fields, and that they fit each other.
    fn check(&self) -> Result<(), Refusal> {
        if AppName::new(&*self.app_name).is_err() {
            return Err(invalid("appName", &quoted(&self.app_name), APP_NAME_RULE));
        }
        check_name("requestId", self.request_id.as_deref(), MAX_REQUEST_ID_CHARS)?;
        check_name("idempotencyKey", self.idempotency_key.as_deref(), MAX_KEY_CHARS)?;
        check_name("concurrencyKey", self.concurrency_key.as_deref(), MAX_KEY_CHARS)?;
        check_name("targetRequestId", self.target_request_id.as_deref(), MAX_REQUEST_ID_CHARS)?;
        check_year("scheduledTime", self.scheduled_time)?;
        check_year("expiresTime", self.expires_time)?;
        if let Some(ms) = self.flexible_window_ms.filter(|ms| *ms > MAX_WINDOW_MS) {
            return Err(invalid("flexibleWindowMs", &ms.to_string(), &window_rule()));
        }
        if let Some(attempts) = self.max_attempts.filter(|attempts| attempts.get() > MAX_ATTEMPTS) {
            return Err(invalid("maxAttempts", &attempts.to_string(), &max_attempts_rule()));
        }
        if let Some(ms) = self.timeout_ms.filter(|ms| ms.get() > MAX_TIMEOUT_MS) {
            return Err(invalid("timeoutMs", &ms.to_string(), &timeout_rule()));
        }
        if let Some(version) = self.version.filter(|version| *version < 0) {
            return Err(invalid("version", &version.to_string(), &version_rule()));
        }
        self.check_operation()
    }

    fn check_operation(&self) -> Result<(), Refusal> {
        let operation = self.operation;
        if operation != Operation::Schedule
            && self.target_request_id.is_none()
            && self.idempotency_key.is_none()
        {
            return Err(missing(
                "targetRequestId",
                &format!(
                    "operation \"{operation}\" names its job by targetRequestId or by idempotencyKey"
                ),
            ));
        }
        if operation != Operation::Cancel && self.scheduled_time.is_none() {
            return Err(self.missing_time());
        }
        Ok(())
    }

    fn missing_time(&self) -> Refusal {
        let why = format!("operation \"{}\" says when the job is to fire", self.operation);
        missing("scheduledTime", &why)
    }

    /// Adds this request's id and app to `refusal`, if they are valid.
    fn with_identity(&self, refusal: Refusal) -> Refusal {
        let request_id = self.request_id.as_deref();
        with_identity(refusal, request_id, Some(&self.app_name))
    }
}

const APP_NAME_RULE: &str = "1 to 64 of a-z, 0-9, _ and -";

fn max_attempts_rule() -> String {
    format!("an integer from 1 to {MAX_ATTEMPTS}")
}

fn timeout_rule() -> String {
    format!("an integer from 1 to {MAX_TIMEOUT_MS}")
}

fn window_rule() -> String {
    format!("an integer from 0 to {MAX_WINDOW_MS}")
}

fn version_rule() -> String {
    format!("an integer from 0 to {}", i64::MAX)
}

fn check_name(field: &str, name: Option<&str>, max_chars: usize) -> Result<(), Refusal> {
    let Some(name) = name else { return Ok(()) };
    if name.is_empty() || name.chars().count() > max_chars {
        return Err(invalid(field, &quoted(name), &format!("1 to {max_chars} characters long")));
    }
    // Control characters are invisible, and PostgreSQL cannot store a NUL.
    if name.contains(|c: char| c.is_ascii_control()) {
        return Err(invalid(field, &quoted(name), "without control characters"));
    }
    Ok(())
}

/// A time given as a Rust value may have a year that no textual form has.
fn check_year(field: &str, time: Option<ScheduledTime>) -> Result<(), Refusal> {
    match time.filter(|time| !time.is_in_calendar()) {
        Some(time) => Err(invalid(field, &time.to_string(), "in one of the years 0 to 9999")),
        None => Ok(()),
    }
}

/// Adds the request id and the app to a refusal if they are valid: invalid ones may not fit the
/// columns of a dead letter.
fn with_identity(mut refusal: Refusal, request_id: Option<&str>, app: Option<&str>) -> Refusal {
    let sound_id = |id: &&str| check_name("requestId", Some(*id), MAX_REQUEST_ID_CHARS).is_ok();
    refusal.request_id = request_id.filter(sound_id).map(str::to_owned);
    refusal.app = app.filter(|app| AppName::new(*app).is_ok()).map(str::to_owned);
    refusal
}

fn missing(field: &str, why: &str) -> Refusal {
    Refusal::new(ErrorKind::MissingField, format!("{field} is missing: {why}"))
}

fn invalid(field: &str, value: &str, rule: &str) -> Refusal {
    let message = format!("{field} {} must be {rule}", shortened(value));
    Refusal::new(ErrorKind::InvalidField, message)
}

fn quoted(text: &str) -> String {
    // Only the part that will be shown is quoted, since a value may be as long as a record.
    let shown = text.char_indices().nth(100).map_or(text, |(end, _)| &text[..end]);
    format!("{shown:?}")
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
