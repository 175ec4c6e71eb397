//! What became of a request.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use super::access::Reader;
use super::endpoint::Endpoint;
use super::mask::View;
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use super::tokens::Caller;
use crate::operations::{RequestStatus, WireStatus};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_show, show), Endpoint::new(__path_find, find)]
}

/// What became of a request, as far as the tables still have it.
#[utoipa::path(get, path = "/api/requests/{app}/{requestId}", tag = "requests",
    operation_id = "showRequest",
    params(("app" = String, Path), ("requestId" = String, Path)),
    responses((status = 200, body = WireStatus), (status = 404, description = "Nothing is known of it")))]
async fn show(
    caller: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    names: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let (app, request_id) = names.into_inner();
    status(&caller.0, &shared, &app, &request_id).await
}

/// The same for a `requestId` that is awkward in a path.
#[utoipa::path(get, path = "/api/requests/{app}", tag = "requests", operation_id = "findRequest",
    params(("app" = String, Path), ("requestId" = String, Query)),
    responses((status = 200, body = WireStatus), (status = 404, description = "Nothing is known of it")))]
async fn find(
    caller: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    app: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let query = Query::read(&request, &["requestId"])?;
    let Some(request_id) = query.text("requestId") else {
        let problem = "is missing: name the request, as in ?requestId=9f1c";
        return Err(Problem::bad_parameter("requestId", problem));
    };
    status(&caller.0, &shared, &app, request_id).await
}

async fn status(
    caller: &Caller,
    shared: &Shared,
    app: &str,
    request_id: &str,
) -> Result<HttpResponse, Problem> {
    let scheduler = shared.running()?;
    let status = scheduler.jobs().request(app, request_id).await?;
    if status == RequestStatus::Unknown {
        let detail = format!(
            "nothing is known of request {request_id:?} of app {app:?}: it never came, has ended, or \
             repeated another one"
        );
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown-request", detail));
    }
    let view = View::of(shared, caller, &scheduler.registered_apps(), Some(app));
    let status = serde_json::to_value(&status).map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().json(view.status(status)))
}
