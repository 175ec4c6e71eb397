//! The headers of a request.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::super::body::rfc3339;
use super::super::{FiredJob, JobContext, TargetNotes};
use super::session::Session;
use crate::model::job::TraceContext;

/// What a request id may have unencoded in a header.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// A longer `tracestate` may be refused by what is on the way.
const LONGEST_TRACESTATE: usize = 512;

/// The body and all headers of an attempt that is sent at `now_ms`, epoch milliseconds.
pub(super) fn of(
    ctx: &JobContext,
    session: &Session,
    now_ms: i64,
    notes: &TargetNotes,
) -> (Vec<u8>, HeaderMap) {
    let body = FiredJob::of(ctx).to_json();
    let job = ctx.job();
    let mut headers = session.headers.clone();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut add = |name: &'static str, value: String| {
        // Every value is ASCII without control characters by its form, or is left out.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    let key = format!("{}-{}", job.id, job.created_ms);
    add("idempotency-key", key.clone());
    add("x-scheduler-job-id", job.id.to_string());
    add("x-scheduler-request-id", utf8_percent_encode(&job.request_id, ENCODED).to_string());
    add("x-scheduler-app-name", ctx.app().to_owned());
    add("x-scheduler-attempt", ctx.attempt().to_string());
    add("x-scheduler-fence", ctx.fence().to_string());
    add("x-scheduler-scheduled-time", rfc3339(job.scheduled_ms));
    if let Some(TraceContext { parent, state }) = &job.trace {
        let is_parent = is_traceparent(parent);
        if is_parent {
            add("traceparent", parent.clone());
        }
        let state = state.as_ref();
        let good = state.filter(|state| is_parent && state.len() <= LONGEST_TRACESTATE);
        if let Some(state) = good {
            add("tracestate", state.clone());
        }
        if !is_parent || good != state {
            notes.leave_out_trace();
        }
    }
    let now_s = now_ms.div_euclid(1000);
    if let Some(signature) = session.keys.sign(&key, now_s, &body) {
        add("webhook-id", key);
        add("webhook-timestamp", now_s.to_string());
        add("webhook-signature", signature);
    }
    (body, headers)
}

/// Whether `text` has the form of the W3C's Trace Context.
fn is_traceparent(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [2, 32, 16, 2]
        && parts.iter().all(|part| is_hex(part))
        && parts[0] != "ff"
        && parts[1..3].iter().all(|id| id.bytes().any(|byte| byte != b'0'))
}

#[cfg(test)]
mod tests {
    use super::super::super::context::tests::{context, context_of};
    use super::super::settings::{HttpTarget, SecretSource};
    use super::*;
    use crate::model::job::Job;

    fn headers(ctx: &JobContext, target: &HttpTarget) -> Vec<(String, String)> {
        let session = Session::open(target).unwrap();
        let (_, headers) = of(ctx, &session, 1_762_185_605_015, &TargetNotes::default());
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort();
        all
    }

    #[test]
    fn the_headers_are_those_of_the_documents() {
        let target = HttpTarget {
            headers: [("X-Own".into(), SecretSource::Value("mine".into()))].into(),
            ..HttpTarget::at("http://host/")
        };
        let job = Job { request_id: "é 1/2:3".into(), ..context("{}").job().clone() };
        let id = job.id;
        let parent = job.trace.as_ref().unwrap().parent.clone();
        let expected = [
            ("content-type", "application/json".to_owned()),
            ("idempotency-key", format!("{id}-1762185000000")),
            ("traceparent", parent),
            ("x-own", "mine".to_owned()),
            ("x-scheduler-app-name", "sms".to_owned()),
            ("x-scheduler-attempt", "3".to_owned()),
            ("x-scheduler-fence", ((7 << 20) + 3).to_string()),
            ("x-scheduler-job-id", id.to_string()),
            ("x-scheduler-request-id", "%C3%A9%201%2F2:3".to_owned()),
            ("x-scheduler-scheduled-time", "2025-11-03T16:00:00.000Z".to_owned()),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(headers(&context_of(job), &target), expected);
    }

    #[test]
    fn a_secret_adds_the_headers_of_the_signature() {
        let secret = SecretSource::Value("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into());
        let target = HttpTarget { secrets: vec![secret], ..HttpTarget::at("http://host/") };
        let ctx = context("{}");
        let all = headers(&ctx, &target);
        let of = |wanted: &str| all.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
        assert_eq!(of("webhook-id"), of("idempotency-key"));
        assert_eq!(of("webhook-timestamp"), "1762185605");
        assert!(of("webhook-signature").starts_with("v1,"));
    }

    #[test]
    fn a_trace_that_is_none_is_left_out() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (parent, state, expected) in [
            (good, "a=b", 2),
            (good, &"x".repeat(513), 1),
            ("00-1-2-01", "a=b", 0),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", "a=b", 0),
        ] {
            let trace = Some(TraceContext { parent: parent.into(), state: Some(state.into()) });
            let job = Job { trace, ..context("{}").job().clone() };
            let ctx = context_of(job);
            let all = headers(&ctx, &HttpTarget::at("http://host/"));
            let found = all.iter().filter(|(name, _)| name.starts_with("trace")).count();
            assert_eq!(found, expected, "{parent}");
            let session = Session::open(&HttpTarget::at("http://host/")).unwrap();
            let notes = TargetNotes::default();
            of(&ctx, &session, 0, &notes);
            assert_eq!(notes.trace_left_out(), u64::from(expected < 2), "{parent}");
        }
    }
}
