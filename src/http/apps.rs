//! The apps that were ever registered: listed, paused, resumed, changed and retired.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::ToSchema;

use super::access::{Admin, Operator, Reader};
use super::endpoint::Endpoint;
use super::fields::{self, Reason};
use super::page::Page;
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use crate::operations::{App, AppChange, Forecast, LimitChange};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(__path_list, list),
        Endpoint::new(__path_forecast, forecast),
        Endpoint::new(__path_pause, pause),
        Endpoint::new(__path_resume, resume),
        Endpoint::new(__path_change, change),
        Endpoint::new(__path_reset, reset),
        Endpoint::new(__path_delete, delete),
    ]
}

/// How an app is to be paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct AppPause {
    /// Why, for the audit and for those who find it paused.
    reason: Option<String>,
    /// Whether its requests are refused meanwhile; otherwise they are accepted, and their jobs wait.
    refuse_requests: bool,
}

/// The apps that were ever registered, by name, and who fires their jobs.
#[utoipa::path(get, path = "/api/apps", tag = "apps", operation_id = "listApps",
    responses((status = 200, body = Page<App>)))]
async fn list(
    _: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let apps = shared.running()?.apps().list().await?;
    Ok(HttpResponse::Ok().json(Page::whole(apps)))
}

/// The jobs of an app that are due in each minute of the next hours (1 to 24, by default 1), and what
/// is overdue, against what its instances start. Counted once a minute at most.
#[utoipa::path(get, path = "/api/apps/{app}/forecast", tag = "apps", operation_id = "forecastApp",
    params(("app" = String, Path), ("hours" = Option<u32>, Query)),
    responses((status = 200, body = Forecast),
        (status = 404, description = "No such app was ever registered")))]
async fn forecast(
    _: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    app: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let query = Query::read(&request, &["hours"])?;
    let hours = match query.text("hours") {
        None => 1,
        Some(text) => text.parse().map_err(|_| {
            Problem::bad_parameter(
                "hours",
                format!("is {text:?}: give a whole number from 1 to 24"),
            )
        })?,
    };
    Ok(HttpResponse::Ok().json(shared.running()?.apps().forecast(app.into_inner(), hours).await?))
}

/// Pauses an app: within two heartbeats no instance starts any of its jobs. It outlives every
/// restart.
#[utoipa::path(post, path = "/api/apps/{app}/pause", tag = "apps", operation_id = "pauseApp",
    params(("app" = String, Path)), request_body(content = Option<AppPause>),
    responses((status = 200, body = AppChange),
        (status = 404, description = "No such app was ever registered")))]
async fn pause(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    app: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let AppPause { reason, refuse_requests } = fields::read_optional(&request, payload).await?;
    let operations = shared.by(&caller.0, reason.as_deref())?;
    let change = operations.apps().pause(app.into_inner(), refuse_requests).await?;
    Ok(HttpResponse::Ok().json(change))
}

/// Resumes an app: what is due is started within two heartbeats.
#[utoipa::path(post, path = "/api/apps/{app}/resume", tag = "apps", operation_id = "resumeApp",
    params(("app" = String, Path)), request_body(content = Option<Reason>),
    responses((status = 200, body = AppChange),
        (status = 404, description = "No such app was ever registered")))]
async fn resume(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    app: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let Reason { reason } = fields::read_optional(&request, payload).await?;
    let operations = shared.by(&caller.0, reason.as_deref())?;
    Ok(HttpResponse::Ok().json(operations.apps().resume(app.into_inner()).await?))
}

/// Changes limits of an app: within two heartbeats they win over every instance's configuration,
/// until they are reset. A pause stays.
#[utoipa::path(patch, path = "/api/apps/{app}", tag = "apps", operation_id = "changeApp",
    params(("app" = String, Path)), request_body(content = LimitChange),
    responses((status = 200, body = AppChange),
        (status = 404, description = "No such app was ever registered")))]
async fn change(
    caller: Admin,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    app: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let change: LimitChange = fields::read_optional(&request, payload).await?;
    let operations = shared.by(&caller.0, change.reason.as_deref())?;
    Ok(HttpResponse::Ok().json(operations.apps().change(app.into_inner(), change).await?))
}

/// Makes the limits of an app those of its configuration again. A pause stays.
#[utoipa::path(delete, path = "/api/apps/{app}/overrides", tag = "apps", operation_id = "resetApp",
    params(("app" = String, Path), ("reason" = Option<String>, Query)),
    responses((status = 200, body = AppChange),
        (status = 404, description = "No such app was ever registered")))]
async fn reset(
    caller: Admin,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    app: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let query = Query::read(&request, &["reason"])?;
    let operations = shared.by(&caller.0, query.text("reason"))?;
    Ok(HttpResponse::Ok().json(operations.apps().reset(app.into_inner()).await?))
}

/// Deletes an app that nobody uses any more.
#[utoipa::path(delete, path = "/api/apps/{app}", tag = "apps", operation_id = "deleteApp",
    params(("app" = String, Path), ("reason" = Option<String>, Query)),
    responses((status = 200, body = AppChange),
        (status = 404, description = "No such app was ever registered"),
        (status = 409, description = "It has jobs, messages that wait to be published, or a live instance")))]
async fn delete(
    caller: Admin,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    app: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let query = Query::read(&request, &["reason"])?;
    let operations = shared.by(&caller.0, query.text("reason"))?;
    Ok(HttpResponse::Ok().json(operations.apps().delete(app.into_inner()).await?))
}
