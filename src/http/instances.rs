//! The instances on the database: listed, and drained.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

use super::access::{Admin, Reader};
use super::endpoint::Endpoint;
use super::fields::{self, Reason};
use super::page::Page;
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use crate::operations::{DrainAnswer, Error as OperationError, InstanceItem};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_list, list), Endpoint::new(__path_drain, drain)]
}

/// The instances that are alive or died less than a day ago, the youngest first.
#[utoipa::path(get, path = "/api/instances", tag = "instances", operation_id = "listInstances",
    responses((status = 200, body = Page<InstanceItem>)))]
async fn list(
    _: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let instances = shared.running()?.instances().list().await?;
    Ok(HttpResponse::Ok().json(Page::whole(instances)))
}

/// Drains an instance: from its next heartbeat on it gives up its shards and partitions, and takes
/// none until it is restarted. It goes on to answer calls.
#[utoipa::path(post, path = "/api/instances/{id}/drain", tag = "instances",
    operation_id = "drainInstance", params(("id" = String, Path)),
    request_body(content = Option<Reason>),
    responses((status = 200, body = DrainAnswer), (status = 404, description = "It does not exist"),
        (status = 409, description = "It is dead")))]
async fn drain(
    caller: Admin,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let Reason { reason } = fields::read_optional(&request, payload).await?;
    let operations = shared.by(&caller.0, reason.as_deref())?;
    match operations.instances().drain(id.into_inner()).await {
        Ok(answer) => Ok(HttpResponse::Ok().json(answer)),
        // The id is the only parameter, so it is the one that cannot be parsed.
        Err(OperationError::Invalid(detail)) => Err(Problem::bad("invalid-path", detail)),
        Err(error) => Err(error.into()),
    }
}
