//! Jobs: listed by a filter, and shown one at a time.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::Reader;
use super::endpoint::Endpoint;
use super::mask::{Seen, View};
use super::page;
use super::problem::Problem;
use super::query::{PAGE, Query};
use super::shared::Shared;
use super::tokens::Caller;
use crate::config::Role;
use crate::operations::{InvalidFilter, JobFilter, ListedJob, WireJob, WireListedJob};
use crate::service::Scheduler;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_list, list), Endpoint::new(__path_show, show)]
}

/// A page of a list of jobs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct JobList<'a> {
    /// The jobs that have not ended, by due time and id, then those that have, newest first. A page
    /// may be short before the end.
    #[schema(value_type = Vec<WireListedJob>)]
    items: Vec<Seen<'a, ListedJob>>,
    /// The `cursor` of the next page; null at the end.
    next: Option<&'a str>,
    /// How many jobs were read, if no index has what the filter asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    looked_at: Option<u64>,
}

/// Jobs: those that have not ended by due time and id, then those that have, newest first.
#[utoipa::path(get, path = "/api/jobs", tag = "jobs", operation_id = "listJobs",
    params(
        ("app" = Option<String>, Query),
        ("state" = Option<String>, Query, description = "scheduled, due, running, succeeded, dead or cancelled"),
        ("from" = Option<String>, Query, description = "Due or ended then or later, RFC 3339"),
        ("to" = Option<String>, Query, description = "Due or ended before, RFC 3339"),
        ("priority" = Option<String>, Query, description = "high, normal or low"),
        ("key" = Option<String>, Query, description = "The job that this idempotency key stands for"),
        ("partition" = Option<String>, Query, description = "Of a record in this partition, as in topic/3"),
        ("errorKind" = Option<String>, Query, description = "Failed for good with an error of this kind"),
        ("data" = Option<String>, Query, description = "Conditions on jobData: a JSON array of objects with pointer and equals"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = JobList)))]
async fn list(
    caller: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, Problem> {
    let known: Vec<&str> = JobFilter::NAMES.into_iter().chain(PAGE).collect();
    let query = Query::read(&request, &known)?;
    let filter = JobFilter::from_pairs(query.pairs(), None)?;
    let page = page::wanted(&query)?;
    let scheduler = shared.running()?;
    check_data(&shared, &caller.0, scheduler, &filter).await?;
    let page = scheduler.jobs().list(&filter, &page).await?;
    let known = scheduler.registered_apps();
    let mut items = Vec::with_capacity(page.items.len());
    for job in &page.items {
        items.push(View::of(&shared, &caller.0, &known, Some(&job.app_name)).job(job)?);
    }
    let list = JobList { items, next: page.next.as_deref(), looked_at: page.looked_at };
    Ok(HttpResponse::Ok().json(list))
}

/// A job as it is, or as it ended, with its attempts. Its `ETag` can be given as `If-Match` of a change.
#[utoipa::path(get, path = "/api/jobs/{id}", tag = "jobs", operation_id = "showJob",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = WireJob, headers(("ETag" = String, description = "Its present state"))),
        (status = 404, description = "It does not exist, or its end is not kept any more")))]
async fn show(
    caller: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let scheduler = shared.running()?;
    let job = scheduler.jobs().show(*id).await?;
    let known = scheduler.registered_apps();
    let view = View::of(&shared, &caller.0, &known, Some(&job.app_name));
    let etag = (header::ETAG, format!("\"{}\"", job.etag));
    Ok(HttpResponse::Ok().insert_header(etag).json(view.job(&job)?))
}

/// Checks that a filter asks for nothing that `caller` does not see: which jobs it selects would
/// say what is masked.
async fn check_data(
    shared: &Shared,
    caller: &Caller,
    scheduler: &Scheduler,
    filter: &JobFilter,
) -> Result<(), Problem> {
    if caller.role > Role::Read || filter.data.is_empty() {
        return Ok(());
    }
    let apps = match &filter.app {
        Some(app) => vec![app.clone()],
        None => {
            let registered = scheduler.apps().list().await?;
            let registered = registered.into_iter().map(|app| app.app_name);
            registered.chain(shared.masks.keys().cloned()).collect()
        }
    };
    let known = scheduler.registered_apps();
    for app in &apps {
        let view = View::of(shared, caller, &known, Some(app));
        let hidden = filter.data.iter().find(|condition| view.hides(condition.tokens()));
        if let Some(condition) = hidden {
            return Err(Problem::masked(app, condition.pointer()));
        }
    }
    Ok(())
}

impl From<InvalidFilter> for Problem {
    fn from(invalid: InvalidFilter) -> Self {
        Self::bad_parameter(&invalid.field, invalid.problem)
    }
}
