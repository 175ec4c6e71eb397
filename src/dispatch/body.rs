//! The form of a fired job, the same for every receiver.

use std::fmt;

use chrono::{DateTime, SecondsFormat};

use super::JobContext;
use super::context::attempt_at;
use crate::model::job::{Fence, Job};

/// A fired job in the form that receivers get.
///
/// It is the value and the headers of a Kafka record, and the value of the dead letter of a job
/// whose attempts are exhausted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FiredJob<'a> {
    app: &'a str,
    job: &'a Job,
    fence: Fence,
    fired_ms: i64,
}

impl<'a> FiredJob<'a> {
    /// The attempt at `job` of `app` that started at `fired_ms`, epoch milliseconds; `job` is as
    /// it was then.
    pub(crate) fn new(app: &'a str, job: &'a Job, fence: Fence, fired_ms: i64) -> Self {
        Self { app, job, fence, fired_ms }
    }

    /// The attempt of `ctx`.
    pub(crate) fn of(ctx: &'a JobContext) -> Self {
        Self::new(ctx.app(), ctx.job(), ctx.fence(), ctx.fired_ms())
    }

    /// The JSON body, with the job data byte for byte as in the request.
    pub(crate) fn to_json(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    /// The record headers; those of the trace only if the request had one.
    pub(crate) fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let text = |name: &str, value: String| (name.to_owned(), Some(value.into_bytes()));
        let mut headers = vec![
            text("job-id", self.job.id.to_string()),
            text("request-id", self.job.request_id.clone()),
            text("app-name", self.app.to_owned()),
            text("attempt", attempt_at(self.job).to_string()),
            text("fence", self.fence.to_string()),
        ];
        if let Some(trace) = &self.job.trace {
            headers.push(text("traceparent", trace.parent.clone()));
            headers.extend(trace.state.clone().map(|state| text("tracestate", state)));
        }
        headers
    }
}

/// The JSON body as text.
///
/// Written by hand: a serializer would parse the job data once more for every fired job, to check
/// that it is JSON.
impl fmt::Display for FiredJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Job { id, request_id, priority, data, .. } = self.job;
        write!(f, r#"{{"jobId":"{id}","requestId":{}"#, Quoted(request_id))?;
        write!(f, r#","appName":{}"#, Quoted(self.app))?;
        write!(f, r#","scheduledTime":"{}""#, rfc3339(self.job.scheduled_ms))?;
        write!(f, r#","firedTime":"{}""#, rfc3339(self.fired_ms))?;
        write!(f, r#","attempt":{},"priority":"{priority}""#, attempt_at(self.job))?;
        write!(f, r#","jobData":{}}}"#, data.as_str())
    }
}

/// A text as a JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self.0).map_err(|_| fmt::Error)?)
    }
}

/// Always with milliseconds, so that receivers get one form only.
pub(super) fn rfc3339(ms: i64) -> String {
    // No request is accepted with a time beyond chrono's calendar.
    let time = DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::UNIX_EPOCH);
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::super::context::tests::{context, context_of};
    use super::*;
    use crate::model::job::TraceContext;

    fn body(ctx: &JobContext) -> String {
        String::from_utf8(FiredJob::of(ctx).to_json()).unwrap()
    }

    fn headers(ctx: &JobContext) -> Vec<(String, String)> {
        let text = |value: Option<Vec<u8>>| String::from_utf8(value.unwrap()).unwrap();
        let headers = FiredJob::of(ctx).headers();
        headers.into_iter().map(|(name, value)| (name, text(value))).collect()
    }

    #[test]
    fn the_body_is_that_of_the_documents_with_its_data_untouched() {
        let ctx = context(r#"{"b":1.0, "a":10e2}"#);
        let expected = format!(
            concat!(
                r#"{{"jobId":"{}","requestId":"r-1","appName":"sms","#,
                r#""scheduledTime":"2025-11-03T16:00:00.000Z","#,
                r#""firedTime":"2025-11-03T16:00:05.015Z","#,
                r#""attempt":3,"priority":"high","jobData":{{"b":1.0, "a":10e2}}}}"#,
            ),
            ctx.job().id
        );
        assert_eq!(body(&ctx), expected);
    }

    #[test]
    fn a_request_id_of_any_characters_leaves_the_body_json() {
        let request_id = "a\"b\\c\n\u{1}é\u{2028}";
        let job = Job { request_id: request_id.to_owned(), ..context("{}").job().clone() };
        let read: serde_json::Value = serde_json::from_str(&body(&context_of(job))).unwrap();
        assert_eq!(read["requestId"], request_id);
    }

    #[test]
    fn the_headers_name_the_job_the_attempt_and_the_fence() {
        let ctx = context("{}");
        let expected = [
            ("job-id", ctx.job().id.to_string()),
            ("request-id", "r-1".to_owned()),
            ("app-name", "sms".to_owned()),
            ("attempt", "3".to_owned()),
            ("fence", ((7 << 20) + 3).to_string()),
            ("traceparent", ctx.job().trace.as_ref().unwrap().parent.clone()),
        ];
        assert_eq!(headers(&ctx), expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn trace_headers_are_there_as_far_as_the_request_brought_them() {
        let names = |trace| {
            let job = Job { trace, ..context("{}").job().clone() };
            let headers = headers(&context_of(job));
            headers[5..].iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let (parent, state) = ("00-1-2-01".to_owned(), Some("a=b".to_owned()));
        assert!(names(None).is_empty());
        assert_eq!(names(Some(TraceContext { parent, state })), ["traceparent", "tracestate"]);
    }

    #[test]
    fn a_time_beyond_the_calendar_does_not_panic() {
        assert_eq!(rfc3339(i64::MAX), rfc3339(0));
    }
}
