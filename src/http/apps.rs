//! The apps that were ever registered.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

use super::access::Reader;
use super::endpoint::Endpoint;
use super::page::Page;
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use crate::operations::App;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_list, list)]
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
