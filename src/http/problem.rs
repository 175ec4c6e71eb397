//! Errors as `application/problem+json` (RFC 9457), each kind with a type that never changes.

use std::fmt;

use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, header::RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::field_of;
use crate::operations::Error as OperationError;

/// The prefix of every type; the kind follows.
const TYPE: &str = "urn:infinite-scheduler:problem:";

/// The media type of a problem.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// An answer that says what is wrong and the way out.
#[derive(Debug)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    document: Document,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document {
    /// The kind of error, always the same for the same kind: `urn:infinite-scheduler:problem:KIND`.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong, and the way out.
    detail: String,
    /// Which parts of the request are at fault, where that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    /// Further members, by kind.
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// A part of the request that is at fault.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Fault {
    /// The field of the body, as a JSON pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    /// The query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    /// What is wrong with it.
    detail: String,
}

impl Problem {
    /// The problem of this status and kind; `detail` says what is wrong and the way out.
    pub(super) fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        let document = Document {
            kind: format!("{TYPE}{kind}"),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            more: Map::new(),
        };
        Self(Box::new(Parts { status, document, headers: Vec::new() }))
    }

    /// What cannot be parsed: 400.
    pub(super) fn bad(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, detail)
    }

    /// A query parameter that cannot be read: 400.
    pub(super) fn bad_parameter(name: &str, problem: impl fmt::Display) -> Self {
        let detail = format!("query parameter {name} {problem}");
        let parameter = Some(name.to_owned());
        let fault = Fault { pointer: None, parameter, detail: problem.to_string() };
        Self::bad("invalid-query", detail).with_fault(fault)
    }

    /// A field of the body that is understood and refused: 422.
    pub(super) fn refused_field(pointer: &str, problem: impl fmt::Display) -> Self {
        let detail = format!("{pointer} {problem}");
        let fault = Fault {
            pointer: Some(pointer.to_owned()),
            parameter: None,
            detail: problem.to_string(),
        };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", detail).with_fault(fault)
    }

    /// A filter on a part of `jobData` that is hidden from the caller: 403.
    pub(super) fn masked(app: &str, pointer: &str) -> Self {
        let problem = format!(
            "has the pointer {pointer:?}, which role read does not see of app {app}: leave it out, \
             name another app, or use a token of role operate"
        );
        let detail = format!("query parameter data {problem}");
        let parameter = Some("data".to_owned());
        let fault = Fault { pointer: None, parameter, detail: problem };
        Self::new(StatusCode::FORBIDDEN, "masked", detail).with_fault(fault)
    }

    /// An operation that may succeed a moment later: 503.
    pub(super) fn unavailable(kind: &str, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail);
        problem.with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// A bug of this program: 500.
    pub(super) fn internal(error: impl fmt::Display) -> Self {
        tracing::error!(%error, "an answer could not be made: {error}");
        let detail = "the answer could not be made: the log of the instance says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Adds a member to the document.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.document.more.insert(name.to_owned(), value.into());
        self
    }

    /// The document, as an item of an answer to several requests has it.
    pub(super) fn into_document(self) -> Document {
        self.0.document
    }

    fn with_fault(mut self, fault: Fault) -> Self {
        self.0.document.errors.push(fault);
        self
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            ErrorKind::EmptyValue | ErrorKind::InvalidEncoding | ErrorKind::InvalidJson => {
                StatusCode::BAD_REQUEST
            }
            ErrorKind::RecordTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::IdempotencyConflict | ErrorKind::RequestConflict => StatusCode::CONFLICT,
            ErrorKind::MissingField
            | ErrorKind::InvalidField
            | ErrorKind::DuplicateField
            | ErrorKind::ScheduleTooFar
            | ErrorKind::UnknownApp
            | ErrorKind::RefusedByApp
            | ErrorKind::UnsupportedOperation
            | ErrorKind::RefusedByDatabase
            | ErrorKind::AttemptsExhausted
            | ErrorKind::RefusedByTarget
            | ErrorKind::Interrupted
            | ErrorKind::Expired => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let field = field_of(&refusal);
        let problem = Self::new(status, refusal.kind.as_str(), refusal.message.clone());
        let problem = match refusal.request_id {
            Some(id) => problem.with("requestId", id),
            None => problem,
        };
        match field {
            Some(field) => problem.with_fault(Fault {
                pointer: Some(format!("/{field}")),
                parameter: None,
                detail: refusal.message,
            }),
            None => problem,
        }
    }
}

impl From<OperationError> for Problem {
    fn from(error: OperationError) -> Self {
        let detail = error.to_string();
        match error {
            OperationError::Refused(refusal) => refusal.into(),
            OperationError::InvalidCursor(_) => Self::bad("invalid-cursor", detail),
            OperationError::Invalid(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", detail)
            }
            OperationError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            OperationError::Conflict(_) => Self::new(StatusCode::CONFLICT, "conflict", detail),
            OperationError::NotMatched(_) => {
                Self::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", detail)
            }
            OperationError::Unconfirmed(_) => {
                Self::new(StatusCode::CONFLICT, "unconfirmed", detail)
            }
            OperationError::Unavailable(_) => Self::unavailable("unavailable", detail),
            OperationError::Unusable(_) => Self::unavailable("database-unusable", detail),
            OperationError::ShutDown => Self::unavailable("shut-down", detail),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.document.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.0.status
    }

    fn error_response(&self) -> HttpResponse {
        let body = serde_json::to_vec(&self.0.document).unwrap_or_default();
        let mut response = HttpResponse::build(self.0.status).content_type(MEDIA_TYPE).body(body);
        for (name, value) in &self.0.headers {
            response.headers_mut().append(name.clone(), value.clone());
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_field_by_its_pointer() {
        for (json, status, pointer) in [
            (r#"{"appName":"sms"}"#, 422, Some("/scheduledTime")),
            (r#"{"appName":"SMS"}"#, 422, Some("/appName")),
            (r#"{"appName":"sms","scheduledTime":0,"jobData":1}"#, 422, Some("/jobData")),
            (r#"{"appName":"sms","appName":"sms"}"#, 422, Some("/appName")),
            ("{", 400, None),
            ("[]", 400, None),
        ] {
            let refusal =
                crate::model::request::ScheduleJobRequest::from_json(json.as_bytes()).unwrap_err();
            let problem = serde_json::to_value(Problem::from(refusal).into_document()).unwrap();
            assert_eq!(problem["status"], status, "{problem}");
            assert_eq!(problem["errors"][0]["pointer"].as_str(), pointer, "{problem}");
            assert!(problem["type"].as_str().unwrap().starts_with(TYPE), "{problem}");
        }
    }
}
