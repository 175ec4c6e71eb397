//! Errors as `application/problem+json` (RFC 9457).

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

#[derive(Serialize)]
struct Problem {
    /// That the status says it all.
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
}

/// The answer with this status; `detail` says what is wrong and the way out.
pub(super) fn problem(status: StatusCode, detail: impl Into<String>) -> HttpResponse {
    let problem = Problem {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail: detail.into(),
    };
    let body = serde_json::to_string(&problem).unwrap_or_default();
    HttpResponse::build(status).content_type("application/problem+json").body(body)
}

/// There is nothing at this path.
pub(super) async fn not_found(request: HttpRequest) -> HttpResponse {
    let detail = format!("there is nothing at {}", request.path());
    problem(StatusCode::NOT_FOUND, detail)
}

/// The path is there to be read only.
pub(super) async fn read_only(request: HttpRequest) -> HttpResponse {
    let detail = format!("{} is not for {}: use GET", request.path(), request.method());
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, detail);
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
    answer
}
