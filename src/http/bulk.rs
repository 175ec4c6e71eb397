//! Actions on every job or dead letter that a filter selects.

use std::num::NonZeroU32;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::access::{Operator, Reader};
use super::body::{self, Expected, JOB_BYTES};
use super::endpoint::Endpoint;
use super::fields::{self, Reason};
use super::jobs::idempotency_key;
use super::page::{self, Page};
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use super::tokens::Caller;
use crate::config::Role;
use crate::model::suggest::nearest;
use crate::model::time::ScheduledTime;
use crate::operations::{
    BulkAction, BulkItem, BulkPreview, BulkRequest, BulkStarted, JobFilter, JobPatch,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(__path_start, start),
        Endpoint::new(__path_list, list),
        Endpoint::new(__path_show, show),
        Endpoint::new(__path_stop, stop),
    ]
}

const LIST: &str = "/api/bulk";
const ACTIONS: [&str; 6] = ["cancel", "reschedule", "run", "edit", "replay", "discard"];

/// What is to be done to which jobs or dead letters.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    /// `cancel`, `reschedule`, `run` or `edit` of jobs, `replay` or `discard` of dead letters.
    action: String,
    /// Which: the members are those of the query of `GET /api/jobs`; of dead letters `app`,
    /// `errorKind`, `partition`, and `from` and `to` of the time of death.
    #[schema(value_type = Option<Object>)]
    filter: Option<Box<RawValue>>,
    /// An empty filter is meant.
    #[serde(default)]
    all: bool,
    /// Of `reschedule`: the new time of each, in any form of a request.
    #[schema(value_type = Option<String>)]
    scheduled_time: Option<ScheduledTime>,
    /// Of `reschedule`: how much later each is due, milliseconds.
    shift_ms: Option<i64>,
    /// Of `edit`: the fields of `PATCH /api/jobs/{id}`.
    #[schema(value_type = Option<Object>)]
    set: Option<Box<RawValue>>,
    /// Only says how many match, and shows some.
    #[serde(default)]
    dry_run: bool,
    /// At most so many jobs per second, over all instances.
    #[schema(value_type = Option<u32>, minimum = 1)]
    rate_per_second: Option<NonZeroU32>,
    /// The same key within a day stands for the bulk action that it began first.
    idempotency_key: Option<String>,
    /// Why, for the audit.
    reason: Option<String>,
}

/// Begins an action on every job or dead letter that a filter selects. What comes later does not match.
#[utoipa::path(post, path = "/api/bulk", tag = "bulk", operation_id = "startBulk",
    params(("Idempotency-Key" = Option<String>, Header, description = "Stands for the idempotencyKey of a body that has none")),
    request_body(content = Wanted),
    responses(
        (status = 202, description = "An instance carries it out: Location says how far it is", body = BulkStarted),
        (status = 200, description = "What a dry run found", body = BulkPreview),
        (status = 422, description = "A field is unknown or wrong, or the filter selects every job without all")))]
async fn start(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let key = idempotency_key(&request)?;
    let body = body::read(&request, payload, Expected::Object(JOB_BYTES)).await?;
    let wanted: Wanted = fields::read(&body.text)?;
    let filter = match &wanted.filter {
        Some(filter) => JobFilter::from_json(filter.get()).map_err(|invalid| {
            let pointer = format!("/filter/{}", invalid.field);
            Problem::refused_field(pointer.trim_end_matches('/'), invalid.problem)
        })?,
        None => JobFilter::default(),
    };
    let asked = BulkRequest::new(action(&wanted)?, filter)
        .all(wanted.all)
        .rate(wanted.rate_per_second)
        .idempotency_key(wanted.idempotency_key.or(key));
    let operations = shared.by(&caller.0, wanted.reason.as_deref())?;
    if wanted.dry_run {
        return Ok(HttpResponse::Ok().json(operations.bulk().preview(&asked).await?));
    }
    let started = operations.bulk().start(asked).await?;
    let link = (header::LOCATION, format!("{LIST}/{}", started.bulk.id));
    Ok(HttpResponse::Accepted().insert_header(link).json(started))
}

fn action(wanted: &Wanted) -> Result<BulkAction, Problem> {
    let Wanted { action, scheduled_time, shift_ms, set, .. } = wanted;
    let given = [
        ("scheduledTime", scheduled_time.is_some(), "reschedule"),
        ("shiftMs", shift_ms.is_some(), "reschedule"),
        ("set", set.is_some(), "edit"),
    ];
    if ACTIONS.contains(&action.as_str()) {
        let stray = given.into_iter().find(|(_, is_given, of)| *is_given && of != action);
        if let Some((name, _, of)) = stray {
            let problem = format!("is for the action {of}: leave it out of {action}");
            return Err(Problem::refused_field(&format!("/{name}"), problem));
        }
    }
    match (action.as_str(), scheduled_time, shift_ms, set) {
        ("cancel", ..) => Ok(BulkAction::Cancel),
        ("run", ..) => Ok(BulkAction::Run),
        ("replay", ..) => Ok(BulkAction::Replay),
        ("discard", ..) => Ok(BulkAction::Discard),
        ("reschedule", Some(time), None, _) => Ok(BulkAction::Reschedule(*time)),
        ("reschedule", None, Some(ms), _) => Ok(BulkAction::Shift(*ms)),
        ("reschedule", ..) => {
            let problem = "needs one of scheduledTime and shiftMs: give either";
            Err(Problem::refused_field("/action", problem))
        }
        ("edit", _, _, Some(set)) => {
            Ok(BulkAction::Edit(Box::new(JobPatch::from_json(set.get())?)))
        }
        ("edit", ..) => {
            let problem = "is missing: give an object with the fields of PATCH /api/jobs/{id}";
            Err(Problem::refused_field("/set", problem))
        }
        (other, ..) => {
            let guess = nearest(other, ACTIONS).unwrap_or_default();
            let shown: String = other.chars().take(100).collect();
            let names = ACTIONS.join(", ");
            let problem = format!("is {shown:?}, none of {names}: did you mean {guess}?");
            Err(Problem::refused_field("/action", problem))
        }
    }
}

/// Bulk actions, newest first.
#[utoipa::path(get, path = "/api/bulk", tag = "bulk", operation_id = "listBulk",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = Page<BulkItem>)))]
async fn list(
    caller: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, Problem> {
    let query = Query::read(&request, &["limit", "cursor"])?;
    let page = page::wanted(&query)?;
    let list = shared.running()?.bulk().list(&page).await?;
    let items: Vec<BulkItem> = list.items.into_iter().map(|item| seen(&caller.0, item)).collect();
    Ok(HttpResponse::Ok().json(Page::new(items, list.next)))
}

/// How far a bulk action is.
#[utoipa::path(get, path = "/api/bulk/{id}", tag = "bulk", operation_id = "showBulk",
    params(("id" = i64, Path)),
    responses(
        (status = 200, body = BulkItem),
        (status = 404, description = "It does not exist, or not any more")))]
async fn show(
    caller: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<i64>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let item = shared.running()?.bulk().show(*id).await?;
    Ok(HttpResponse::Ok().json(seen(&caller.0, item)))
}

/// Stops a bulk action within two heartbeats. One that has ended stays as it is.
#[utoipa::path(post, path = "/api/bulk/{id}/stop", tag = "bulk", operation_id = "stopBulk",
    params(("id" = i64, Path)),
    request_body(content = Option<Reason>),
    responses(
        (status = 200, body = BulkItem),
        (status = 404, description = "It does not exist, or not any more")))]
async fn stop(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<i64>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let Reason { reason } = fields::read_optional(&request, payload).await?;
    let operations = shared.by(&caller.0, reason.as_deref())?;
    Ok(HttpResponse::Ok().json(operations.bulk().stop(*id).await?))
}

/// Role read does not see values of `jobData`, whichever app they are of.
fn seen(caller: &Caller, mut item: BulkItem) -> BulkItem {
    if caller.role <= Role::Read {
        let values = [item.filter.get_mut("data"), item.args.pointer_mut("/set/jobData")];
        for value in values.into_iter().flatten() {
            *value = Value::from("withheld");
        }
    }
    item
}
