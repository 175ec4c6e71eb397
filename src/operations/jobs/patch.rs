//! Which fields of a job get other values, as a program or a person writes it.

use std::num::{NonZeroU32, NonZeroU64};

use chrono::DateTime;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::model::change::{JobEdit, Setting};
use crate::model::job::{Job, JobData, Priority};
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::{RequestBuilder, Resolved, ScheduleJobRequest};
use crate::model::time::ScheduledTime;

/// Other values for fields of a job; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobPatch {
    /// When it is to fire.
    pub scheduled_time: Option<ScheduledTime>,
    /// The whole of its `jobData`, a JSON object.
    pub job_data: Option<JobData>,
    /// Its priority.
    pub priority: Option<Priority>,
    /// After which it is not fired.
    pub expires_time: Setting<ScheduledTime>,
    /// How long after its time it may fire, milliseconds.
    pub flexible_window_ms: Setting<u64>,
    /// How often it is tried.
    pub max_attempts: Setting<NonZeroU32>,
    /// How long one attempt may take, milliseconds.
    pub timeout_ms: Setting<NonZeroU64>,
    /// Why, for the audit.
    pub reason: Option<String>,
}

impl JobPatch {
    /// Reads a JSON object with some of `scheduledTime`, `jobData`, `priority`, `expiresTime`,
    /// `flexibleWindowMs`, `maxAttempts`, `timeoutMs` and `reason`. Of those that a job may lack, `null` is the
    /// default again.
    ///
    /// # Errors
    /// A [`Refusal`] that names the field: one that is unknown, that occurs twice, or whose value
    /// is not legal.
    pub fn from_json(text: &str) -> Result<Self, Refusal> {
        let invalid = |error| {
            let why = format!("the change cannot be read: {error}");
            Refusal::new(ErrorKind::InvalidField, why)
        };
        // A list of values would be read as one of fields.
        if !text.trim_start().starts_with('{') {
            let why = "the change cannot be read: it must be a JSON object";
            return Err(Refusal::new(ErrorKind::InvalidField, why));
        }
        let wire: Wire = serde_json::from_str(text).map_err(invalid)?;
        let required = |name: &str| {
            let why = format!("{name} null: a job always has one; leave it out to keep it");
            Refusal::new(ErrorKind::InvalidField, why)
        };
        let job_data = match wire.job_data {
            Some(raw) if raw.get() == "null" => return Err(required("jobData")),
            raw => raw.map(JobData::from),
        };
        let scheduled_time = match wire.scheduled_time {
            Some(None) => return Err(required("scheduledTime")),
            time => time.flatten(),
        };
        Ok(Self {
            scheduled_time,
            job_data,
            priority: wire.priority.map(Option::unwrap_or_default),
            expires_time: setting(wire.expires_time),
            flexible_window_ms: setting(wire.flexible_window_ms),
            max_attempts: setting(wire.max_attempts),
            timeout_ms: setting(wire.timeout_ms),
            reason: wire.reason,
        })
    }

    /// The object that [`from_json`](Self::from_json) reads as this patch.
    pub(in crate::operations) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&Written {
            scheduled_time: self.scheduled_time.map(Some),
            job_data: self.job_data.as_ref(),
            priority: self.priority,
            expires_time: written(self.expires_time),
            flexible_window_ms: written(self.flexible_window_ms),
            max_attempts: written(self.max_attempts),
            timeout_ms: written(self.timeout_ms),
            reason: self.reason.as_deref(),
        })
    }

    /// Whether no field gets another value.
    pub fn is_empty(&self) -> bool {
        let Self {
            scheduled_time,
            job_data,
            priority,
            expires_time,
            flexible_window_ms,
            max_attempts,
            timeout_ms,
            reason: _,
        } = self;
        scheduled_time.is_none()
            && job_data.is_none()
            && priority.is_none()
            && *expires_time == Setting::Keep
            && *flexible_window_ms == Setting::Keep
            && *max_attempts == Setting::Keep
            && *timeout_ms == Setting::Keep
    }

    /// The request that the job would have been made of as it is to be, for the rules to check.
    pub(super) fn request(&self, app: &str, job: &Job) -> Result<ScheduleJobRequest, Refusal> {
        let of_job = |ms: i64| DateTime::from_timestamp_millis(ms).map(ScheduledTime::Instant);
        let scheduled = self.scheduled_time.or_else(|| of_job(job.scheduled_ms));
        let expires = self.expires_time.apply(job.expires_ms.and_then(of_job));
        let builder = ScheduleJobRequest::builder(app).request_id(job.request_id.as_str());
        let with = |builder: RequestBuilder, time: Option<ScheduledTime>, set: Set| match time {
            Some(time) => set(builder, time),
            None => builder,
        };
        // A job that has fired once may have a time after its expiry only if nothing was asked.
        let touches = self.scheduled_time.is_some() || self.expires_time != Setting::Keep;
        let mut builder = with(builder, scheduled, RequestBuilder::at);
        builder = with(builder, expires.filter(|_| touches), RequestBuilder::expires_at);
        if let Some(data) = &self.job_data {
            builder = builder.raw_job_data(data.as_str());
        }
        builder.build()
    }

    /// What the job's owner is asked for. The times are those of [`Self::request`].
    pub(super) fn edit(&self, times: &Resolved) -> JobEdit {
        JobEdit {
            scheduled_ms: self.scheduled_time.map(|_| times.scheduled_ms),
            data: self.job_data.clone(),
            priority: self.priority,
            expires_ms: match (self.expires_time, times.expires_ms) {
                (Setting::To(_), Some(ms)) => Setting::To(ms),
                (Setting::Keep, _) => Setting::Keep,
                (Setting::To(_) | Setting::Default, _) => Setting::Default,
            },
            flexible_ms: self.flexible_window_ms,
            max_attempts: map(self.max_attempts, NonZeroU32::get),
            timeout_ms: map(self.timeout_ms, NonZeroU64::get),
        }
    }
}

type Set = fn(RequestBuilder, ScheduledTime) -> RequestBuilder;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Wire {
    #[serde(deserialize_with = "present")]
    scheduled_time: Option<Option<ScheduledTime>>,
    #[serde(deserialize_with = "as_written")]
    job_data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present")]
    priority: Option<Option<Priority>>,
    #[serde(deserialize_with = "present")]
    expires_time: Option<Option<ScheduledTime>>,
    #[serde(deserialize_with = "present")]
    flexible_window_ms: Option<Option<u64>>,
    #[serde(deserialize_with = "present")]
    max_attempts: Option<Option<NonZeroU32>>,
    #[serde(deserialize_with = "present")]
    timeout_ms: Option<Option<NonZeroU64>>,
    reason: Option<String>,
}

/// What is absent stays as it is, and null is the default again.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_time: Option<Option<ScheduledTime>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_data: Option<&'a JobData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_time: Option<Option<ScheduledTime>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flexible_window_ms: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<Option<NonZeroU32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<Option<NonZeroU64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

fn written<T>(setting: Setting<T>) -> Option<Option<T>> {
    match setting {
        Setting::Keep => None,
        Setting::Default => Some(None),
        Setting::To(value) => Some(Some(value)),
    }
}

/// Distinguishes a `null` from a field that is not there.
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A `null` is a value like any other here.
fn as_written<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

fn setting<T>(value: Option<Option<T>>) -> Setting<T> {
    match value {
        None => Setting::Keep,
        Some(None) => Setting::Default,
        Some(Some(value)) => Setting::To(value),
    }
}

fn map<T, U>(setting: Setting<T>, with: fn(T) -> U) -> Setting<U> {
    match setting {
        Setting::Keep => Setting::Keep,
        Setting::Default => Setting::Default,
        Setting::To(value) => Setting::To(with(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_the_default_of_what_may_be_absent_and_refused_of_the_rest() {
        let patch = JobPatch::from_json(
            r#"{"expiresTime":null,"maxAttempts":null,"timeoutMs":5,"priority":null,"reason":"x"}"#,
        );
        let patch = patch.unwrap();
        assert_eq!(patch.expires_time, Setting::Default);
        assert_eq!(patch.max_attempts, Setting::Default);
        assert_eq!(patch.timeout_ms, Setting::To(NonZeroU64::new(5).unwrap()));
        assert_eq!(patch.priority, Some(Priority::Normal));
        assert!(!patch.is_empty());
        for (json, said) in [
            (r#"{"scheduledTime":null}"#, "scheduledTime null"),
            (r#"{"jobData":null}"#, "jobData null"),
            (r#"{"jobdata":{}}"#, "unknown field `jobdata`"),
            (r#"{"timeoutMs":1,"timeoutMs":2}"#, "duplicate field `timeoutMs`"),
            (r#"{"maxAttempts":0}"#, "nonzero"),
            (r#"[]"#, "the change cannot be read"),
            (r#"{"scheduledTime":"soon"}"#, "soon"),
        ] {
            let refusal = JobPatch::from_json(json).unwrap_err();
            assert!(refusal.message.contains(said), "{json}: {refusal}");
        }
        assert!(JobPatch::from_json(r#"{"reason":"only that"}"#).unwrap().is_empty());
    }

    #[test]
    fn job_data_is_kept_byte_for_byte() {
        let patch = JobPatch::from_json(r#"{"jobData":{"b":1.0, "a":10e2}}"#).unwrap();
        assert_eq!(patch.job_data.unwrap().as_str(), r#"{"b":1.0, "a":10e2}"#);
    }
}
