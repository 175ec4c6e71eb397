//! Dead letters: listed, shown, corrected, replayed and discarded.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::{Operator, Reader};
use super::body::{self, Expected, VALUE_BYTES};
use super::endpoint::Endpoint;
use super::fields;
use super::mask::View;
use super::page::{self, Page};
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use crate::model::ids::JobId;
use crate::operations::{
    Edit, JobFilter, LetterAction, LetterFilter, LetterSelection, LetterState, Replayed,
    WireLetter, WireLetterSummary,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(__path_list, list),
        Endpoint::new(__path_show, show),
        Endpoint::new(__path_replay, replay),
        Endpoint::new(__path_edit, edit),
        Endpoint::new(__path_discard, discard),
    ]
}

/// A corrected value of a dead letter.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Correction {
    /// The value as text; null removes the correction.
    #[serde(deserialize_with = "fields::or_null")]
    #[schema(value_type = Option<String>)]
    value: Option<Option<String>>,
    /// The value in base64, for what is not text.
    value_base64: Option<String>,
    /// Confirms that a correction which is there may be lost.
    replace: bool,
    /// Takes a value that is no request, too.
    force: bool,
    /// Why, for the audit.
    reason: Option<String>,
}

/// A value that is replayed in the place of the letter's.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Value {
    /// The value as text.
    value: Option<String>,
    /// The value in base64, for what is not text.
    value_base64: Option<String>,
    /// Why, for the audit.
    reason: Option<String>,
}

/// What was done to a letter, or would be.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Done {
    /// `replayed`, `operated`, `duplicate`, `edited`, `unchanged` or `discarded`.
    result: &'static str,
    /// Whether nothing was changed, since this was a dry run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    /// The job of its request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    job_id: Option<JobId>,
    /// The request that it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    /// Whether it had a correction before.
    #[serde(skip_serializing_if = "Option::is_none")]
    had_correction: Option<bool>,
    /// Whether it has one now.
    #[serde(skip_serializing_if = "Option::is_none")]
    has_correction: Option<bool>,
}

/// Dead letters, newest first.
#[utoipa::path(get, path = "/api/dead-letters", tag = "dead letters",
    operation_id = "listDeadLetters",
    params(
        ("app" = Option<String>, Query), ("errorKind" = Option<String>, Query),
        ("state" = Option<String>, Query, description = "dead, parked, replayed or discarded"),
        ("from" = Option<String>, Query, description = "Died then or later, RFC 3339"),
        ("to" = Option<String>, Query, description = "Died before, RFC 3339"),
        ("partition" = Option<String>, Query, description = "Of a record in this partition, as in topic/3"),
        ("contains" = Option<String>, Query, description = "In the message, whatever the letter case"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = Page<WireLetterSummary>)))]
async fn list(
    caller: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, Problem> {
    let known =
        ["app", "errorKind", "state", "from", "to", "partition", "contains", "limit", "cursor"];
    let query = Query::read(&request, &known)?;
    let states = LetterState::ALL.map(|state| (state.as_str(), state));
    let filter = LetterFilter {
        states: query.one_of("state", &states)?.into_iter().collect(),
        app: query.text("app").map(str::to_owned),
        kind: query.text("errorKind").map(str::to_owned),
        from_ms: query.instant_ms("from")?,
        to_ms: query.instant_ms("to")?,
        contains: query.text("contains").map(str::to_owned),
        partition: match query.text("partition") {
            Some(text) => JobFilter::from_pairs([("partition", text)], None)?.partition,
            None => None,
        },
    };
    let page = page::wanted(&query)?;
    let scheduler = shared.running()?;
    let page = scheduler.dead_letters().list(&filter, &page).await?;
    let known = scheduler.registered_apps();
    let mut items = Vec::with_capacity(page.items.len());
    for letter in &page.items {
        let view = View::of(&shared, &caller.0, &known, letter.app.as_deref());
        items.push(view.letter(serde_json::to_value(letter).map_err(Problem::internal)?));
    }
    Ok(HttpResponse::Ok().json(Page::new(items, page.next)))
}

/// Everything about one dead letter.
#[utoipa::path(get, path = "/api/dead-letters/{id}", tag = "dead letters",
    operation_id = "showDeadLetter", params(("id" = Uuid, Path)),
    responses((status = 200, body = WireLetter), (status = 404, description = "It does not exist")))]
async fn show(
    caller: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let scheduler = shared.running()?;
    let letter = scheduler.dead_letters().show(&id.into_inner().into()).await?;
    let app = letter.summary.app.as_deref();
    let view = View::of(&shared, &caller.0, &scheduler.registered_apps(), app);
    let letter = serde_json::to_value(&letter).map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().json(view.letter(letter)))
}

/// Admits the request of a dead letter again, or a value in its place.
#[utoipa::path(post, path = "/api/dead-letters/{id}/replay", tag = "dead letters",
    operation_id = "replayDeadLetter",
    params(("id" = Uuid, Path), ("dryRun" = Option<bool>, Query)),
    request_body(content = Option<Value>),
    responses((status = 200, body = Done), (status = 404, description = "It does not exist"),
        (status = 409, description = "Its state does not allow it, or its name is taken")))]
async fn replay(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<Uuid>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let dry_run = Query::read(&request, &["dryRun"])?.flag("dryRun")?;
    let Value { value, value_base64, reason } =
        fields::read_optional_within(VALUE_BYTES, &request, payload).await?;
    let value = bytes(value, value_base64)?;
    let operations = shared.by(&caller.0, reason.as_deref())?;
    let letters = operations.dead_letters();
    let replayed = match dry_run {
        true => letters.preview_replay(*id, value).await?,
        false => letters.replay(*id, value).await?,
    };
    let done = match replayed {
        Replayed::Accepted { job_id } => {
            Done { result: "replayed", job_id: Some(job_id), ..Done::default() }
        }
        Replayed::Operated { job_id } => {
            Done { result: "operated", job_id: Some(job_id), ..Done::default() }
        }
        Replayed::Duplicate { job_id, of } => {
            Done { result: "duplicate", job_id: Some(job_id), of: Some(of), ..Done::default() }
        }
    };
    Ok(HttpResponse::Ok().json(Done { dry_run, ..done }))
}

/// Gives a dead letter a corrected value for its next replay, or removes it.
#[utoipa::path(patch, path = "/api/dead-letters/{id}", tag = "dead letters",
    operation_id = "editDeadLetter",
    params(("id" = Uuid, Path), ("dryRun" = Option<bool>, Query)),
    request_body(content = Correction),
    responses((status = 200, body = Done), (status = 404, description = "It does not exist"),
        (status = 409, description = "Its state does not allow it, or a correction would be lost")))]
async fn edit(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<Uuid>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let dry_run = Query::read(&request, &["dryRun"])?.flag("dryRun")?;
    let body = body::read(&request, payload, Expected::Object(VALUE_BYTES)).await?;
    let Correction { value, value_base64, replace, force, reason } = fields::read(&body.text)?;
    if value.is_none() && value_base64.is_none() {
        let problem = "is missing: give the corrected value, or null to remove it";
        return Err(Problem::refused_field("/value", problem));
    }
    let correction = bytes(value.flatten(), value_base64)?;
    let edit = Edit { correction, force, replace, dry_run };
    let operations = shared.by(&caller.0, reason.as_deref())?;
    let edited = operations.dead_letters().edit(&(*id).into(), edit).await?;
    let nothing = !edited.had_correction && !edited.has_correction;
    Ok(HttpResponse::Ok().json(Done {
        result: if nothing { "unchanged" } else { "edited" },
        dry_run,
        had_correction: Some(edited.had_correction),
        has_correction: Some(edited.has_correction),
        ..Done::default()
    }))
}

/// Marks a dead letter: nothing is to be done about it.
#[utoipa::path(delete, path = "/api/dead-letters/{id}", tag = "dead letters",
    operation_id = "discardDeadLetter",
    params(("id" = Uuid, Path), ("dryRun" = Option<bool>, Query), ("reason" = Option<String>, Query)),
    responses((status = 200, body = Done), (status = 404, description = "It does not exist"),
        (status = 409, description = "Its state does not allow it")))]
async fn discard(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, Problem> {
    let query = Query::read(&request, &["dryRun", "reason"])?;
    let dry_run = query.flag("dryRun")?;
    let named = LetterSelection::Named(vec![(*id).into()]);
    let mut failed = None;
    let operations = shared.by(&caller.0, query.text("reason"))?;
    operations
        .dead_letters()
        .apply(LetterAction::Discard, &named, dry_run, |_, outcome| {
            failed = outcome.clone().err();
        })
        .await?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    Ok(HttpResponse::Ok().json(Done { result: "discarded", dry_run, ..Done::default() }))
}

/// The bytes that are given as text or in base64.
fn bytes(text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => {
            let problem = "is given beside value: leave one out";
            Err(Problem::refused_field("/valueBase64", problem))
        }
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, None) => Ok(None),
        (None, Some(base64)) => {
            let decoded = STANDARD.decode(base64);
            decoded.map(Some).map_err(|error| {
                let problem =
                    format!("is not base64 ({error}): use A-Z, a-z, 0-9, + and /, padded");
                Problem::refused_field("/valueBase64", problem)
            })
        }
    }
}
