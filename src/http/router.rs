//! Which handler answers which path and method, and the answer to a request that has no handler.
//!
//! All methods of one path are one resource, so that another method is refused as such (405), and
//! not as a path that does not exist (404).

use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, Resource, web};

use super::documents::OpenApi;
use super::endpoint::Endpoint;
use super::problem::Problem;
use super::{
    apps, audit, bulk, dead_letters, documents, health, ingest, instances, job_changes, job_lists,
    jobs, metrics, requests,
};

/// Every endpoint.
pub(super) fn endpoints() -> Vec<Endpoint> {
    [
        job_lists::endpoints(),
        jobs::endpoints(),
        job_changes::endpoints(),
        requests::endpoints(),
        apps::endpoints(),
        dead_letters::endpoints(),
        ingest::endpoints(),
        instances::endpoints(),
        bulk::endpoints(),
        audit::endpoints(),
        metrics::endpoints(),
        health::endpoints(),
        documents::endpoints(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Adds every endpoint to an application.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    let mut endpoints = endpoints();
    // A fixed path before a pattern that also matches it.
    endpoints.sort_by_key(|endpoint| (endpoint.path.contains('{'), endpoint.path.clone()));
    let paths: Vec<String> = endpoints.iter().map(|endpoint| endpoint.path.clone()).collect();
    let mut endpoints = endpoints.into_iter().peekable();
    while let Some(first) = endpoints.next() {
        let mut of_path = vec![first];
        while let Some(next) = endpoints.next_if(|next| next.path == of_path[0].path) {
            of_path.push(next);
        }
        config.service(resource(of_path));
    }
    let unreadable = web::PathConfig::default().error_handler(|error, request| {
        let detail = format!("{} has a part that cannot be read: {error}", request.path());
        Problem::bad("invalid-path", detail).into()
    });
    config.app_data(unreadable).app_data(web::Data::new(OpenApi::of(self::endpoints())));
    config.default_service(web::to(move |request: HttpRequest| {
        let problem = nowhere(request.path(), &paths);
        async move { Err::<HttpResponse, Problem>(problem) }
    }));
}

/// All methods of one path.
fn resource(endpoints: Vec<Endpoint>) -> Resource {
    let path = endpoints.first().map(|endpoint| endpoint.path.clone()).unwrap_or_default();
    let methods = endpoints.iter().map(|endpoint| match endpoint.method {
        Method::GET => "GET, HEAD",
        ref other => other.as_str(),
    });
    let allow = methods.chain(["OPTIONS"]).collect::<Vec<_>>().join(", ");
    let resource = endpoints
        .into_iter()
        .fold(web::resource(path), |resource, endpoint| resource.route(endpoint.route));
    resource.default_service(web::to(move |request: HttpRequest| {
        let answer = other_method(&request, &allow);
        async move { answer }
    }))
}

fn other_method(request: &HttpRequest, allow: &str) -> Result<HttpResponse, Problem> {
    let allowed = HeaderValue::from_str(allow).map_err(Problem::internal)?;
    if request.method() == Method::OPTIONS {
        return Ok(HttpResponse::NoContent().insert_header((header::ALLOW, allowed)).finish());
    }
    let detail = format!("{} is not for {}: use {allow}", request.path(), request.method());
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
    Err(problem.with_header(header::ALLOW, allowed))
}

/// The answer for a `path` that does not exist; it names a similar one, if there is one.
fn nowhere(path: &str, known: &[String]) -> Problem {
    let hint = known.iter().find_map(|known| like(path, known)).filter(|hint| hint != path);
    let detail = match hint {
        Some(hint) => format!("there is nothing at {path}: did you mean {hint}?"),
        None => format!("there is nothing at {path}: see /api/openapi.json"),
    };
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", detail)
}

/// `path` as `known` spells it, if they differ only in slashes and letter case.
fn like(path: &str, known: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let known: Vec<&str> = known.split('/').skip(1).collect();
    if parts.len() != known.len() {
        return None;
    }
    let part = |(part, known): (&&str, &&str)| match known.starts_with('{') {
        true => Some(format!("/{part}")),
        false => part.eq_ignore_ascii_case(known).then(|| format!("/{known}")),
    };
    parts.iter().zip(&known).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_nearly_one_has_a_hint() {
        let known = ["/api/jobs".to_owned(), "/api/dead-letters/{id}".to_owned()];
        for (path, hint) in [
            ("/api/jobs/", Some("/api/jobs")),
            ("//api/jobs", Some("/api/jobs")),
            ("/API/jobs", Some("/api/jobs")),
            ("/api/Dead-Letters/Ab/", Some("/api/dead-letters/Ab")),
            ("/api/job", None),
            ("/", None),
        ] {
            let said = nowhere(path, &known).to_string();
            match hint {
                Some(hint) => assert!(said.ends_with(&format!("did you mean {hint}?")), "{said}"),
                None => assert!(!said.contains("did you mean"), "{said}"),
            }
        }
    }
}
