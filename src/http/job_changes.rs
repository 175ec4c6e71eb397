//! Operations on one job: cancelling, changing and starting it, and the outcome of operations that
//! were not answered in time.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::{Operator, Reader};
use super::body::{self, Expected, JOB_BYTES};
use super::endpoint::Endpoint;
use super::fields::{self, Reason, or_null};
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use super::tokens::Caller;
use crate::model::job::Priority;
use crate::model::time::ScheduledTime;
use crate::operations::{
    ChangeResult, JobAnswer, JobOperation, JobPatch, OperationOutcome, WireAnswer, WireOperation,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(__path_cancel, cancel),
        Endpoint::new(__path_edit, edit),
        Endpoint::new(__path_start, start),
        Endpoint::new(__path_operation, operation),
    ]
}

/// Other values for fields of a job; what is left out stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code, reason = "it checks and describes the fields; `JobPatch` reads their values")]
struct JobFields {
    /// When it is to fire, in any form of a request.
    #[serde(deserialize_with = "or_null")]
    #[schema(value_type = Option<String>)]
    scheduled_time: Option<Option<ScheduledTime>>,
    /// The whole of its `jobData`.
    #[schema(value_type = Option<Object>)]
    job_data: Option<IgnoredAny>,
    /// `high`, `normal` or `low`; null is `normal`.
    #[serde(deserialize_with = "or_null")]
    #[schema(value_type = Option<String>)]
    priority: Option<Option<Priority>>,
    /// After which it is not fired; null: it never expires.
    #[serde(deserialize_with = "or_null")]
    #[schema(value_type = Option<String>)]
    expires_time: Option<Option<ScheduledTime>>,
    /// How long after its time it may fire, milliseconds; null is 0.
    #[serde(deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>)]
    flexible_window_ms: Option<Option<u64>>,
    /// How often it is tried; null: as its app says.
    #[serde(deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    max_attempts: Option<Option<NonZeroU32>>,
    /// How long one attempt may take, milliseconds; null: as its app says.
    #[serde(deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    timeout_ms: Option<Option<NonZeroU64>>,
    /// Why, for the audit.
    reason: Option<String>,
}

/// Cancels a job: no further attempt at it starts. One that runs goes on, unless it is told to stop.
#[utoipa::path(delete, path = "/api/jobs/{id}", tag = "jobs", operation_id = "cancelJob",
    params(
        ("id" = Uuid, Path),
        ("reason" = Option<String>, Query, description = "Why, for the audit"),
        ("stop" = Option<bool>, Query, description = "Tells an attempt that runs to stop"),
        ("If-Match" = Option<String>, Header, description = "The ETag that it must still have"),
    ),
    responses(
        (status = 200, description = "It is cancelled, or an attempt runs after which there is no other", body = WireAnswer),
        (status = 202, description = "Not answered yet: Location has the answer later", body = WireAnswer),
        (status = 404, description = "It does not exist, or not any more"),
        (status = 409, description = "It has fired"),
        (status = 412, description = "It was changed since")))]
async fn cancel(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, Problem> {
    let query = Query::read(&request, &["reason", "stop"])?;
    let operation = match query.flag("stop")? {
        true => JobOperation::cancel(*id).stop_running(),
        false => JobOperation::cancel(*id),
    };
    let answer = carry_out(&request, &shared, &caller.0, query.text("reason"), operation).await?;
    // A success: no further attempt starts, as was requested.
    let is_done = answer.done || answer.result == ChangeResult::Running;
    respond(&answer, *id, is_done)
}

/// Gives a job another time, or other values for its fields.
#[utoipa::path(patch, path = "/api/jobs/{id}", tag = "jobs", operation_id = "editJob",
    params(
        ("id" = Uuid, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag that it must still have"),
    ),
    request_body(content = JobFields),
    responses(
        (status = 200, description = "It is as was asked", body = WireAnswer),
        (status = 202, description = "Not answered yet: Location has the answer later", body = WireAnswer),
        (status = 404, description = "It does not exist, or not any more"),
        (status = 409, description = "It has fired, is cancelled, or an attempt runs; nothing was changed"),
        (status = 412, description = "It was changed since")))]
async fn edit(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<Uuid>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let body = body::read(&request, payload, Expected::Object(JOB_BYTES)).await?;
    fields::read::<JobFields>(&body.text)?;
    let patch = JobPatch::from_json(&body.text)?;
    let operation = JobOperation::edit(*id, patch);
    let answer = carry_out(&request, &shared, &caller.0, None, operation).await?;
    respond(&answer, *id, answer.done)
}

/// Starts a job now.
#[utoipa::path(post, path = "/api/jobs/{id}/run", tag = "jobs", operation_id = "runJob",
    params(
        ("id" = Uuid, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag that it must still have"),
    ),
    request_body(content = Option<Reason>),
    responses(
        (status = 200, description = "It is due now", body = WireAnswer),
        (status = 202, description = "Not answered yet: Location has the answer later", body = WireAnswer),
        (status = 404, description = "It does not exist, or not any more"),
        (status = 409, description = "It has fired, is cancelled, or an attempt runs"),
        (status = 412, description = "It was changed since")))]
async fn start(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<Uuid>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let Reason { reason } = fields::read_optional(&request, payload).await?;
    let operation = JobOperation::run(*id);
    let answer = carry_out(&request, &shared, &caller.0, reason.as_deref(), operation).await?;
    respond(&answer, *id, answer.done)
}

/// What became of an operation that was not answered in time. Answers are kept for a day.
#[utoipa::path(get, path = "/api/operations/{id}", tag = "jobs", operation_id = "showOperation",
    params(("id" = i64, Path)),
    responses(
        (status = 200, description = "It has ended", body = WireOperation),
        (status = 202, description = "It still waits for its answer", body = WireOperation),
        (status = 404, description = "It does not exist, or not any more")))]
async fn operation(
    _: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<i64>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let state = shared.running()?.jobs().operation(*id).await?;
    let status = match state.outcome {
        OperationOutcome::Waiting(_) => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    Ok(HttpResponse::build(status).json(state))
}

async fn carry_out(
    request: &HttpRequest,
    shared: &Shared,
    caller: &Caller,
    reason: Option<&str>,
    operation: JobOperation,
) -> Result<JobAnswer, Problem> {
    let operation = match if_match(request)? {
        Some(etag) => operation.if_match(etag),
        None => operation,
    };
    let operations = shared.by(caller, reason)?;
    Ok(operations.jobs().carry_out(operation).await?)
}

/// The answer with its status.
pub(super) fn respond(
    answer: &JobAnswer,
    id: Uuid,
    is_done: bool,
) -> Result<HttpResponse, Problem> {
    let mut response = HttpResponse::build(status_of(answer, id, is_done)?);
    if let Some(operation) = answer.operation {
        let link = (header::LOCATION, format!("/api/operations/{operation}"));
        response.insert_header(link);
    }
    Ok(response.json(answer))
}

/// The status of an answer. If the request was not carried out, the answer is a problem document
/// with the same members.
pub(super) fn status_of(
    answer: &JobAnswer,
    id: Uuid,
    is_done: bool,
) -> Result<StatusCode, Problem> {
    if answer.operation.is_some() || answer.result == ChangeResult::Remembered {
        return Ok(StatusCode::ACCEPTED);
    }
    if is_done {
        return Ok(StatusCode::OK);
    }
    let (status, kind, detail) = match answer.result {
        ChangeResult::Unknown => {
            let detail = format!("job {id}: there is none, or it has ended");
            (StatusCode::NOT_FOUND, "not-found", detail)
        }
        ChangeResult::Running => {
            let detail = format!(
                "job {id}: an attempt runs, and nothing was changed; ask again when it has ended, \
                 or cancel it"
            );
            (StatusCode::CONFLICT, "running", detail)
        }
        ChangeResult::Cancelled => {
            let detail =
                format!("job {id}: it is cancelled; request it again by another requestId");
            (StatusCode::CONFLICT, "cancelled", detail)
        }
        ChangeResult::Superseded => {
            let detail = format!(
                "job {id}: an operation or schedule with a higher version came before; use a version \
                 above that"
            );
            (StatusCode::CONFLICT, "superseded", detail)
        }
        other => {
            let detail = format!("job {id}: it has fired, or failed for good; request another job");
            (StatusCode::CONFLICT, other.as_str(), detail)
        }
    };
    let members = serde_json::to_value(answer).map_err(Problem::internal)?;
    let members = members.as_object().into_iter().flatten();
    let problem = Problem::new(status, kind, detail);
    Err(members.fold(problem, |problem, (name, value)| problem.with(name, value.clone())))
}

/// The `ETag` that the job must have, from `If-Match`. Every job has one, so `*` is no condition.
fn if_match(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut values = request.headers().get_all(header::IF_MATCH);
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    match text.map(str::trim) {
        Some("*") => Ok(None),
        Some(text) if is_one_etag(text) => Ok(Some(text.trim_matches('"').to_owned())),
        _ => {
            let detail = "If-Match is malformed: give one ETag, as GET had it, in double quotes";
            Err(Problem::bad("invalid-header", detail))
        }
    }
}

/// Whether `text` is an entity tag: in quotes or, as a job's `etag` shows it, without. A weak one
/// never matches.
fn is_one_etag(text: &str) -> bool {
    let opaque = text.strip_prefix("W/").unwrap_or(text);
    let quoted = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let tag = quoted.unwrap_or(opaque);
    !tag.is_empty() && !tag.contains(['"', ',', ' ', '\t'])
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn one_etag_is_read_with_its_quotes_or_without() {
        for (value, etag) in [
            (r#""1-0-0-2""#, Ok(Some("1-0-0-2"))),
            ("1-0-0-2", Ok(Some("1-0-0-2"))),
            ("*", Ok(None)),
            (r#"W/"1""#, Ok(Some("W/\"1"))),
            (r#""1", "2""#, Err(())),
            (r#""1"#, Err(())),
            ("", Err(())),
            (r#""""#, Err(())),
        ] {
            let request = TestRequest::default().insert_header(("If-Match", value));
            let read = if_match(&request.to_http_request());
            assert_eq!(read.map_err(|_| ()), etag.map(|etag| etag.map(str::to_owned)), "{value}");
        }
        let twice = TestRequest::default()
            .append_header(("If-Match", "\"1\""))
            .append_header(("If-Match", "\"1\""));
        assert!(if_match(&twice.to_http_request()).is_err());
        assert_eq!(if_match(&TestRequest::default().to_http_request()).ok(), Some(None));
    }
}
