//! Builds a request in Rust instead of JSON.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use chrono::TimeDelta;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::data::job_data;
use super::{ErrorKind, JobData, Operation, Priority, Refusal, ScheduleJobRequest};
use super::{ScheduledTime, UnknownFields, invalid, max_attempts_rule, timeout_rule, window_rule};
use crate::model::clock::Clock;
use crate::model::json::{MAX_DEPTH, is_too_deep};
use crate::model::time::InvalidTime;

/// Collects the fields of a request; [`build`](Self::build) checks them.
#[derive(Clone, Debug)]
#[must_use = "nothing is requested before `build`"]
pub struct RequestBuilder {
    request: ScheduleJobRequest,
    /// The refusal of the first invalid value.
    problem: Option<Refusal>,
}

impl RequestBuilder {
    pub(super) fn new(app_name: String) -> Self {
        let request = ScheduleJobRequest {
            request_id: None,
            app_name,
            scheduled_time: None,
            expires_time: None,
            flexible_window_ms: None,
            concurrency_key: None,
            job_data: JobData::default(),
            priority: Priority::default(),
            idempotency_key: None,
            operation: Operation::default(),
            target_request_id: None,
            max_attempts: None,
            timeout_ms: None,
            version: None,
            unknown_fields: UnknownFields::default(),
        };
        Self { request, problem: None }
    }

    /// Sets the request id; without one the scheduler creates one.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request.request_id = Some(id.into());
        self
    }

    /// Fires the job at `time`: a chrono date-time, or text in one of the accepted forms.
    pub fn at<T>(mut self, time: T) -> Self
    where
        T: TryInto<ScheduledTime>,
        T::Error: Into<InvalidTime>,
    {
        self.request.scheduled_time = self.keep(read_time("scheduledTime", time));
        self
    }

    /// Fires the job `delay` after the current time of `clock`.
    pub fn after(mut self, delay: Duration, clock: &dyn Clock) -> Self {
        let time = TimeDelta::from_std(delay)
            .ok()
            .and_then(|delay| clock.now().checked_add_signed(delay))
            .map(ScheduledTime::Instant)
            .ok_or_else(|| {
                invalid("scheduledTime", &format!("in {delay:?}"), "within the calendar")
            });
        self.request.scheduled_time = self.keep(time);
        self
    }

    /// Does not fire the job after `time`, given as in [`at`](Self::at).
    pub fn expires_at<T>(mut self, time: T) -> Self
    where
        T: TryInto<ScheduledTime>,
        T::Error: Into<InvalidTime>,
    {
        self.request.expires_time = self.keep(read_time("expiresTime", time));
        self
    }

    /// Lets the job fire at any instant up to `window` after its time; the scheduler chooses one
    /// for each job. Rounded down to whole milliseconds.
    pub fn flexible_window(mut self, window: Duration) -> Self {
        let ms = window.as_millis();
        let ms = u64::try_from(ms)
            .map_err(|_| invalid("flexibleWindowMs", &ms.to_string(), &window_rule()));
        self.request.flexible_window_ms = self.keep(ms);
        self
    }

    /// Sets the concurrency key: the app limits how many of its jobs with the same key run at a
    /// time.
    pub fn concurrency_key(mut self, key: impl Into<String>) -> Self {
        self.request.concurrency_key = Some(key.into());
        self
    }

    /// Hands `data` to the job's handler; it must serialise as a JSON object.
    pub fn job_data(mut self, data: &impl Serialize) -> Self {
        let data = to_raw_value(data).map_err(unreadable).and_then(|raw| checked_data(&raw));
        self.request.job_data = self.keep(data).unwrap_or_default();
        self
    }

    /// Hands `json`, which must be a JSON object, to the job's handler byte for byte.
    pub fn raw_job_data(mut self, json: &str) -> Self {
        let data = serde_json::from_str(json).map_err(unreadable).and_then(checked_data);
        self.request.job_data = self.keep(data).unwrap_or_default();
        self
    }

    /// Sets its priority among due jobs.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.request.priority = priority;
        self
    }

    /// Sets the idempotency key: all the app's requests with this key make one job.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.request.idempotency_key = Some(key.into());
        self
    }

    /// Sets another operation than `schedule`.
    pub fn operation(mut self, operation: Operation) -> Self {
        self.request.operation = operation;
        self
    }

    /// Sets the `requestId` of the job to cancel or reschedule.
    pub fn target_request_id(mut self, id: impl Into<String>) -> Self {
        self.request.target_request_id = Some(id.into());
        self
    }

    /// Overrides the app's `max_attempts`; at least 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        let attempts = NonZeroU32::new(attempts)
            .ok_or_else(|| invalid("maxAttempts", "0", &max_attempts_rule()));
        self.request.max_attempts = self.keep(attempts);
        self
    }

    /// Overrides the app's `timeout`; rounded up to whole milliseconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let ms = timeout.as_nanos().div_ceil(1_000_000);
        let ms = u64::try_from(ms)
            .ok()
            .and_then(NonZeroU64::new)
            .ok_or_else(|| invalid("timeoutMs", &ms.to_string(), &timeout_rule()));
        self.request.timeout_ms = self.keep(ms);
        self
    }

    /// Sets the version: among concurrent operations the highest version wins.
    pub fn version(mut self, version: i64) -> Self {
        self.request.version = Some(version);
        self
    }

    /// Returns the request if all fields are valid.
    ///
    /// # Errors
    /// The same [`Refusal`] that the scheduler would return for the request's JSON.
    pub fn build(self) -> Result<ScheduleJobRequest, Refusal> {
        let Self { request, problem } = self;
        match problem.map_or_else(|| request.check(), Err) {
            Ok(()) => Ok(request),
            Err(refusal) => Err(request.with_identity(refusal)),
        }
    }

    fn keep<T>(&mut self, result: Result<T, Refusal>) -> Option<T> {
        result.map_err(|refusal| self.problem.get_or_insert(refusal)).ok()
    }
}

fn read_time<T>(field: &str, time: T) -> Result<ScheduledTime, Refusal>
where
    T: TryInto<ScheduledTime>,
    T::Error: Into<InvalidTime>,
{
    time.try_into()
        .map_err(|error| Refusal::new(ErrorKind::InvalidField, format!("{field} {}", error.into())))
}

fn checked_data(raw: &RawValue) -> Result<JobData, Refusal> {
    // In the request's JSON the data is nested one level deeper than by itself.
    if is_too_deep(&format!("[{}]", raw.get())) {
        let message = format!("jobData is nested more than {} levels deep", MAX_DEPTH - 1);
        return Err(Refusal::new(ErrorKind::InvalidField, message));
    }
    job_data(raw)
}

fn unreadable(error: serde_json::Error) -> Refusal {
    Refusal::new(ErrorKind::InvalidField, format!("jobData cannot be JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, NaiveDate};
    use serde_json::json;

    use super::*;
    use crate::model::clock::ManualClock;

    fn builder() -> RequestBuilder {
        ScheduleJobRequest::builder("sms").request_id("r1").at("2025-11-03T22:00:00+06:00")
    }

    fn check(builder: RequestBuilder, kind: ErrorKind, said: &str) {
        let refusal = builder.build().unwrap_err();
        assert_eq!(refusal.kind, kind, "{refusal}");
        assert!(refusal.message.contains(said), "{refusal}");
        assert_eq!(refusal.app.as_deref(), Some("sms"));
        assert_eq!(refusal.request_id.as_deref(), Some("r1"));
    }

    #[test]
    fn what_is_built_is_written_and_read_again() {
        let request = builder()
            .expires_at(DateTime::from_timestamp(1_762_189_200, 0).unwrap())
            .flexible_window(Duration::from_micros(60_000_999))
            .concurrency_key("c")
            .job_data(&json!({"phoneNumber": "+880", "message": "hi"}))
            .priority(Priority::Low)
            .idempotency_key("k")
            .operation(Operation::Reschedule)
            .target_request_id("t")
            .max_attempts(5)
            .timeout(Duration::from_micros(1_500_001))
            .version(7)
            .build()
            .unwrap();
        assert_eq!(
            request.to_json(),
            concat!(
                r#"{"requestId":"r1","appName":"sms","scheduledTime":"2025-11-03T16:00:00Z","#,
                r#""expiresTime":"2025-11-03T17:00:00Z","flexibleWindowMs":60000,"#,
                r#""concurrencyKey":"c","#,
                r#""jobData":{"message":"hi","phoneNumber":"+880"},"priority":"low","#,
                r#""idempotencyKey":"k","operation":"reschedule","targetRequestId":"t","#,
                r#""maxAttempts":5,"timeoutMs":1501,"version":7}"#,
            )
        );
        assert_eq!(ScheduleJobRequest::from_json(request.to_json().as_bytes()), Ok(request));
    }

    #[test]
    fn the_default_is_written_in_few_words() {
        let json = ScheduleJobRequest::builder("sms").at("2025-11-03T22:00").build().unwrap();
        let written = r#"{"appName":"sms","scheduledTime":"2025-11-03T22:00:00","jobData":{}}"#;
        assert_eq!(json.to_json(), written);
    }

    #[test]
    fn raw_job_data_keeps_its_bytes() {
        let request = builder().raw_job_data("  {\"b\":1.0, \"a\":1e2} \n").build().unwrap();
        assert_eq!(request.job_data.as_str(), "{\"b\":1.0, \"a\":1e2}");
    }

    #[test]
    fn a_time_is_taken_as_date_or_as_a_wait() {
        let local = NaiveDate::from_ymd_opt(2025, 11, 3).unwrap().and_hms_opt(22, 0, 0).unwrap();
        let request = builder().at(local).build().unwrap();
        assert_eq!(request.scheduled_time, Some(ScheduledTime::Local(local)));
        let clock = ManualClock::at(1_000);
        let request = builder().after(Duration::from_millis(500), &clock).build().unwrap();
        assert_eq!(request.scheduled_time, ScheduledTime::from_epoch_ms(1_500));
    }

    #[test]
    fn the_first_problem_is_told_at_the_end() {
        let clock = ManualClock::default();
        let invalid = ErrorKind::InvalidField;
        check(builder().at("soon").max_attempts(0), invalid, "scheduledTime \"soon\"");
        check(builder().after(Duration::MAX, &clock), invalid, "scheduledTime in");
        check(builder().expires_at("x"), invalid, "expiresTime \"x\"");
        let far = DateTime::from_timestamp(253_402_300_800, 0).unwrap();
        check(builder().at(far), invalid, "scheduledTime +10000-01-01T00:00:00Z must be in one of");
        check(builder().expires_at(far), invalid, "the years 0 to 9999");
        check(builder().idempotency_key("k\n"), invalid, "without control characters");
        check(builder().job_data(&[1, 2]), invalid, "jobData [1,2] must be a JSON object");
        check(builder().raw_job_data("{"), invalid, "jobData cannot be JSON");
        check(builder().max_attempts(0), invalid, "maxAttempts 0");
        check(builder().timeout(Duration::ZERO), invalid, "timeoutMs 0");
        check(builder().timeout(Duration::MAX), invalid, "timeoutMs");
        check(builder().flexible_window(Duration::MAX), invalid, "flexibleWindowMs");
        check(builder().concurrency_key(""), invalid, "concurrencyKey \"\"");
        check(builder().idempotency_key(""), invalid, "idempotencyKey \"\"");
        check(builder().operation(Operation::Cancel), ErrorKind::MissingField, "targetRequestId");
        let deep = "{\"a\":".repeat(MAX_DEPTH) + "1" + &"}".repeat(MAX_DEPTH);
        check(builder().raw_job_data(&deep), invalid, "126 levels deep");
    }
}
