//! Submitting jobs: one, or an array of them.

use std::ops::Range;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::Operator;
use super::body::{self, Body, Expected, JOB_BYTES, LARGE};
use super::endpoint::Endpoint;
use super::job_changes::{respond, status_of};
use super::problem::{Document, Problem};
use super::query::Query;
use super::shared::Shared;
use crate::model::ids::JobId;
use crate::model::request::ScheduleJobRequest;
use crate::operations::{
    Error as OperationError, JobAnswer, Jobs, Submitted, WireAnswer, rfc3339_ms,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_submit, submit)]
}

/// The maximum number of jobs in one array.
const ARRAY: usize = 100_000;
/// How many jobs of an array are decoded before they are admitted.
const WAVE: usize = 1000;
/// The longest idempotency key, in Unicode scalar values.
const MAX_KEY_CHARS: usize = 255;

/// What became of a request, or would.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    /// The status that it would have had alone; in the answer to an array.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// `accepted` or `duplicate`.
    result: &'static str,
    /// The job.
    #[schema(value_type = Uuid)]
    job_id: Option<JobId>,
    /// The request's name, made here if it brought none.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// The request that it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    /// Whether nothing was written, since this was a dry run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    /// When the job would fire; of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_time: Option<String>,
    /// After when it would not; of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_time: Option<String>,
}

/// An item of the answer to an array.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Item {
    /// What became of the request.
    Answered(Answer),
    /// What became of an operation, or of a schedule that was decided by its version.
    Operated(Operated),
    /// Why it is no job.
    Refused(Document),
}

/// The answer to an operation in an array.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Operated {
    /// The status that it would have had alone.
    status: u16,
    #[serde(flatten)]
    #[schema(inline, value_type = WireAnswer)]
    answer: JobAnswer,
}

/// Asks for a job, or for several by an array.
///
/// When it is answered, the job is in the database. A request with an `operation` asks for a change
/// of the job of `targetRequestId`, and is remembered if that does not exist. An array is answered in its order, each
/// request with a status of its own.
#[utoipa::path(post, path = "/api/jobs", tag = "jobs", operation_id = "submitJobs",
    params(
        ("dryRun" = Option<bool>, Query, description = "Only checks, and answers with the resolved instant"),
        ("Idempotency-Key" = Option<String>, Header, description = "Stands for the idempotencyKey of one job that has none"),
    ),
    responses(
        (status = 201, description = "It is a job now", body = Answer),
        (status = 200, description = "It repeats an earlier request; or an operation was carried out; or a dry run; or the answers to an array", body = inline(SubmitAnswer)),
        (status = 202, description = "There is no job yet, and the operation is remembered; or it is not answered yet, and Location has the answer later", body = WireAnswer),
        (status = 409, description = "Its requestId or idempotency key stands for other jobData; or the job has fired or runs; or a higher version came before"),
    ))]
async fn submit(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let Operator(caller) = caller;
    let dry_run = Query::read(&request, &["dryRun"])?.flag("dryRun")?;
    let key = idempotency_key(&request)?;
    let operations = shared.by(&caller, None)?;
    let body = body::read(&request, payload, Expected::Jobs).await?;
    if !is_array(&body.text) {
        return one(operations.jobs(), &body, key, dry_run).await;
    }
    if key.is_some() {
        let detail = "one Idempotency-Key cannot stand for the jobs of an array: give each its own \
                      idempotencyKey";
        return Err(Problem::bad("invalid-header", detail));
    }
    several(operations.jobs(), body, dry_run).await
}

/// The body of a 200: an answer, or the answers to an array.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it describes the answer and is never made")]
enum SubmitAnswer {
    One(Answer),
    Operated(WireAnswer<'static>),
    Several(Vec<Item>),
}

fn is_array(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.trim_ascii_start().starts_with('[')
}

async fn one(
    jobs: Jobs<'_>,
    body: &Body,
    key: Option<String>,
    dry_run: bool,
) -> Result<HttpResponse, Problem> {
    let mut request = ScheduleJobRequest::from_json(body.text.as_bytes())?;
    request.idempotency_key = request.idempotency_key.or(key);
    let answer = match dry_run {
        true => preview(jobs, request).await?,
        false => match jobs.schedule(request).await? {
            Submitted::Operated(answer) => {
                return respond(&answer, id_of(&answer), answer.done);
            }
            submitted => Answer::from(submitted),
        },
    };
    let status = answer.status();
    Ok(HttpResponse::build(status).json(answer))
}

async fn several(jobs: Jobs<'_>, body: Body, dry_run: bool) -> Result<HttpResponse, Problem> {
    let array = Array::parse(body).await?;
    let mut answers = b"[".to_vec();
    for wave in array.items.chunks(WAVE) {
        for item in answers_to(jobs, &array, wave, dry_run).await {
            if answers.len() > 1 {
                answers.push(b',');
            }
            serde_json::to_writer(&mut answers, &item).map_err(Problem::internal)?;
        }
    }
    answers.push(b']');
    Ok(HttpResponse::Ok().content_type("application/json").body(answers))
}

async fn answers_to(
    jobs: Jobs<'_>,
    array: &Array,
    wave: &[Range<usize>],
    dry_run: bool,
) -> Vec<Item> {
    let mut requests = Vec::with_capacity(wave.len());
    let mut refused = Vec::with_capacity(wave.len());
    for range in wave {
        match array.request(range) {
            Ok(request) => {
                requests.push(request);
                refused.push(None);
            }
            Err(problem) => refused.push(Some(problem)),
        }
    }
    let submitted: Vec<Result<Item, Problem>> = match dry_run {
        true => {
            let mut foreseen = Vec::with_capacity(requests.len());
            for request in requests {
                let answer = preview(jobs, request).await;
                foreseen.push(answer.map(Item::of_answer).map_err(Problem::from));
            }
            foreseen
        }
        false => jobs.schedule_all(requests).await.into_iter().map(Item::of_submitted).collect(),
    };
    let mut submitted = submitted.into_iter();
    let answer = |refused: Option<Problem>| match refused {
        Some(problem) => Err(problem),
        None => submitted
            .next()
            .unwrap_or_else(|| Err(Problem::internal("a request of an array has no answer"))),
    };
    let refused = refused.into_iter().map(answer);
    refused
        .map(|item| item.unwrap_or_else(|problem| Item::Refused(problem.into_document())))
        .collect()
}

async fn preview(jobs: Jobs<'_>, request: ScheduleJobRequest) -> Result<Answer, OperationError> {
    let foreseen = jobs.preview(request).await?;
    Ok(Answer {
        dry_run: true,
        scheduled_time: foreseen.due_ms.map(rfc3339_ms),
        expires_time: foreseen.expires_ms.map(rfc3339_ms),
        ..Answer::from(foreseen.submitted)
    })
}

impl Answer {
    fn status(&self) -> StatusCode {
        match self.result {
            "accepted" if !self.dry_run => StatusCode::CREATED,
            _ => StatusCode::OK,
        }
    }
}

impl From<Submitted> for Answer {
    fn from(submitted: Submitted) -> Self {
        match submitted {
            Submitted::Accepted { job_id, request_id } => Self {
                result: "accepted",
                job_id: Some(job_id),
                request_id: Some(request_id),
                ..Self::default()
            },
            Submitted::Duplicate { job_id, of, .. } => {
                Self { result: "duplicate", job_id: Some(job_id), of: Some(of), ..Self::default() }
            }
            // Of a dry run.
            Submitted::Operated(answer) => {
                Self { result: answer.result.as_str(), job_id: answer.job_id, ..Self::default() }
            }
        }
    }
}

impl Item {
    fn of_answer(answer: Answer) -> Self {
        let status = Some(answer.status().as_u16());
        Self::Answered(Answer { status, ..answer })
    }

    fn of_submitted(submitted: Result<Submitted, OperationError>) -> Result<Self, Problem> {
        match submitted? {
            Submitted::Operated(answer) => {
                let status = status_of(&answer, id_of(&answer), answer.done)?.as_u16();
                Ok(Self::Operated(Operated { status, answer }))
            }
            submitted => Ok(Self::of_answer(submitted.into())),
        }
    }
}

/// The id of the job that an operation named.
fn id_of(answer: &JobAnswer) -> Uuid {
    answer.job_id.map(JobId::uuid).unwrap_or_default()
}

/// An array of requests, as text, and where in it each is.
struct Array {
    body: Body,
    items: Vec<Range<usize>>,
}

impl Array {
    async fn parse(body: Body) -> Result<Self, Problem> {
        if body.text.len() <= LARGE {
            return Self::of(body);
        }
        // Decoding takes long enough to delay the other requests of this thread.
        web::block(move || Self::of(body)).await.map_err(Problem::internal)?
    }

    fn of(body: Body) -> Result<Self, Problem> {
        let text = body.text.strip_prefix('\u{feff}').unwrap_or(&body.text);
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| {
            let detail = format!("the body is not JSON: {error}; send an array of requests");
            Problem::bad("invalid-json", detail)
        })?;
        if items.len() > ARRAY {
            let detail = format!(
                "the array has {} jobs, and the limit is {ARRAY}: send less at once",
                items.len()
            );
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Problem::new(status, "too-large", detail).with("limitJobs", ARRAY));
        }
        let start = body.text.as_ptr() as usize;
        let range = |item: &&RawValue| {
            let at = item.get().as_ptr() as usize - start;
            at..at + item.get().len()
        };
        let items = items.iter().map(range).collect();
        Ok(Self { body, items })
    }

    fn request(&self, range: &Range<usize>) -> Result<ScheduleJobRequest, Problem> {
        let text = &self.body.text[range.clone()];
        if text.len() > JOB_BYTES {
            let detail = format!(
                "the job has {} bytes, and the limit is {JOB_BYTES}: send less",
                text.len()
            );
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Problem::new(status, "too-large", detail).with("limitBytes", JOB_BYTES));
        }
        Ok(ScheduleJobRequest::from_json(text.as_bytes())?)
    }
}

/// The key in the header, without the quotes that its standard's form has.
pub(super) fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let invalid = |problem: &str| {
        let detail = format!("Idempotency-Key {problem}");
        Err(Problem::bad("invalid-header", detail))
    };
    let mut values = request.headers().get_all("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return invalid("is given twice: give it once");
    }
    let Some(key) = unquoted(value) else {
        return invalid(
            "is malformed: give 1 to 255 characters of UTF-8, in double quotes or without",
        );
    };
    match key.chars().count() {
        0 => invalid("is empty: give a key, or leave it out"),
        1..=MAX_KEY_CHARS => Ok(Some(key)),
        count => invalid(&format!("has {count} characters: give at most {MAX_KEY_CHARS}")),
    }
}

fn unquoted(value: &HeaderValue) -> Option<String> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?.trim();
    if text.contains(|c: char| c.is_ascii_control()) {
        return None;
    }
    let Some(rest) = text.strip_prefix('"') else { return Some(text.to_owned()) };
    let inner = rest.strip_suffix('"')?;
    let mut key = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            '"' => return None,
            c => key.push(c),
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quotes_of_the_standard_are_no_part_of_a_key() {
        for (value, key) in [
            (&b"k1"[..], Some("k1")),
            (b"\"k1\"", Some("k1")),
            (b"\"a\\\"b\\\\\"", Some("a\"b\\")),
            (b"\"\"", Some("")),
            (b"", Some("")),
            (b"\"k1", None),
            (b"\"a\"b\"", None),
            (b"\"a\\x\"", None),
            (b"\xff", None),
            ("ключ".as_bytes(), Some("ключ")),
        ] {
            let value = HeaderValue::from_bytes(value).unwrap();
            assert_eq!(unquoted(&value).as_deref(), key, "{value:?}");
        }
    }
}
