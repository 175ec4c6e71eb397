//! The audit: who changed what, when and why.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

use super::access::Admin;
use super::endpoint::Endpoint;
use super::page::{self, Page};
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use crate::operations::{AuditAction, AuditFilter, AuditItem, AuditSource};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_list, list)]
}

/// Who changed what, when and why, newest first.
#[utoipa::path(get, path = "/api/audit", tag = "audit", operation_id = "listAudit",
    params(
        ("who" = Option<String>, Query, description = "The name of a token, a person or a program"),
        ("source" = Option<String>, Query, description = "handle, cli, http or kafka"),
        ("action" = Option<String>, Query, description = "As in app.pause"),
        ("app" = Option<String>, Query),
        ("subject" = Option<String>, Query, description = "What it was done to: the id of a job, a letter or an instance, an app, a group, a partition"),
        ("from" = Option<String>, Query, description = "Made then or later, RFC 3339"),
        ("to" = Option<String>, Query, description = "Made before, RFC 3339"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = Page<AuditItem>)))]
async fn list(
    _: Admin,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, Problem> {
    let known = ["who", "source", "action", "app", "subject", "from", "to", "limit", "cursor"];
    let query = Query::read(&request, &known)?;
    let text = |name: &str| query.text(name).map(str::to_owned);
    let filter = AuditFilter {
        who: text("who"),
        source: query
            .one_of("source", &AuditSource::ALL.map(|source| (source.as_str(), source)))?,
        action: query
            .one_of("action", &AuditAction::ALL.map(|action| (action.as_str(), action)))?,
        app: text("app"),
        subject: text("subject"),
        from_ms: query.instant_ms("from")?,
        to_ms: query.instant_ms("to")?,
    };
    let page = page::wanted(&query)?;
    let list = shared.running()?.audit().list(&filter, &page).await?;
    Ok(HttpResponse::Ok().json(Page::new(list.items, list.next)))
}
