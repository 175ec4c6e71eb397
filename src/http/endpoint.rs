//! One handler with its description.
//!
//! A handler is described by `#[utoipa::path]` above it: path and method are taken from that, so
//! that the routes and the OpenAPI document are one list. It is added by a line in
//! `endpoints` of its group.

use actix_web::dev::Handler;
use actix_web::http::Method;
use actix_web::{FromRequest, Responder, Route, guard, web};
use utoipa::openapi::path::{HttpMethod, Paths};
use utoipa::openapi::{RefOr, Schema};
use utoipa_actix_web::OpenApiFactory;

/// One handler, with its description.
pub(super) struct Endpoint {
    pub(super) path: String,
    pub(super) method: Method,
    pub(super) route: Route,
    pub(super) description: Paths,
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

impl Endpoint {
    /// The endpoint that `handler` answers. `description` is the type `__path_name` that
    /// `#[utoipa::path]` generates for the handler `name`.
    pub(super) fn new<D, F, Args>(description: D, handler: F) -> Self
    where
        D: utoipa::Path + OpenApiFactory,
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let method = D::methods().first().map_or(Method::GET, method);
        let mut schemas = Vec::new();
        description.schemas(&mut schemas);
        let route = match method {
            Method::GET => web::route().guard(guard::Any(guard::Get()).or(guard::Head())),
            _ => web::method(method.clone()),
        };
        Self {
            path: D::path(),
            method,
            route: route.to(handler),
            description: description.paths(),
            schemas,
        }
    }
}

fn method(method: &HttpMethod) -> Method {
    match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Delete => Method::DELETE,
        HttpMethod::Options => Method::OPTIONS,
        HttpMethod::Head => Method::HEAD,
        HttpMethod::Patch => Method::PATCH,
        HttpMethod::Trace => Method::TRACE,
    }
}
