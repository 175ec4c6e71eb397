//! The ingest topics: how far they have been read, from which offset reading continues, and pausing
//! it.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::access::{Admin, Operator, Reader};
use super::body::{self, Expected, JOB_BYTES};
use super::endpoint::Endpoint;
use super::fields::{self, Reason};
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;
use crate::model::ids::{Offset, Partition};
use crate::model::time::ScheduledTime;
use crate::operations::{IngestChange, Positions, Seek, SeekAnswer, SeekTo};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(__path_positions, positions),
        Endpoint::new(__path_seek, seek),
        Endpoint::new(__path_pause, pause),
        Endpoint::new(__path_resume, resume),
    ]
}

/// What is to be read on where.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    /// Where to go on.
    to: Place,
    /// Only this topic.
    topic: Option<String>,
    /// Only these partitions, by number or as `topic/3`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    partitions: Vec<Value>,
    /// Only says what would be read again or skipped.
    #[serde(default)]
    dry_run: bool,
    /// Why, for the audit.
    reason: Option<String>,
}

/// A place in a partition: one of its fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Place {
    /// This offset.
    offset: Option<i64>,
    /// The first record that is not older, RFC 3339 with an offset.
    time: Option<String>,
    /// The first record that the log still has.
    beginning: bool,
    /// Behind the last record that the log has now.
    end: bool,
}

/// How far each partition has been read, by whom, and what became of its records.
///
/// Offsets are 64-bit integers; JavaScript loses digits above 2^53.
#[utoipa::path(get, path = "/api/ingest", tag = "ingest", operation_id = "showIngest",
    responses((status = 200, body = Positions)))]
async fn positions(
    _: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let positions = shared.running()?.ingest().positions().await?;
    Ok(HttpResponse::Ok().json(positions))
}

/// Moves where partitions are read on.
#[utoipa::path(post, path = "/api/ingest/seek", tag = "ingest", operation_id = "seekIngest",
    request_body(content = Wanted),
    responses((status = 200, body = SeekAnswer),
        (status = 409, description = "A log does not have the offset")))]
async fn seek(
    caller: Admin,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let body = body::read(&request, payload, Expected::Object(JOB_BYTES)).await?;
    let wanted: Wanted = fields::read(&body.text)?;
    let to = wanted.to.read()?;
    let (topic, partitions) = chosen(wanted.topic, &wanted.partitions)?;
    let seek = Seek { to, topic, partitions, dry_run: wanted.dry_run };
    let operations = shared.by(&caller.0, wanted.reason.as_deref())?;
    let answer = operations.ingest().seek(seek).await?;
    match &answer.failure {
        None => Ok(HttpResponse::Ok().json(answer)),
        // The partitions before the failed one have been changed.
        Some(error) => {
            let moves = serde_json::to_value(&answer.partitions).map_err(Problem::internal)?;
            Err(Problem::from(error.clone()).with("partitions", moves))
        }
    }
}

/// Pauses reading, for the whole consumer group, within two heartbeats. It outlives every restart.
#[utoipa::path(post, path = "/api/ingest/pause", tag = "ingest", operation_id = "pauseIngest",
    request_body(content = Option<Reason>), responses((status = 200, body = IngestChange)))]
async fn pause(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let Reason { reason } = fields::read_optional(&request, payload).await?;
    let operations = shared.by(&caller.0, reason.as_deref())?;
    Ok(HttpResponse::Ok().json(operations.ingest().pause().await?))
}

/// Resumes reading, for the whole consumer group, within two heartbeats.
#[utoipa::path(post, path = "/api/ingest/resume", tag = "ingest", operation_id = "resumeIngest",
    request_body(content = Option<Reason>), responses((status = 200, body = IngestChange)))]
async fn resume(
    caller: Operator,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let Reason { reason } = fields::read_optional(&request, payload).await?;
    let operations = shared.by(&caller.0, reason.as_deref())?;
    Ok(HttpResponse::Ok().json(operations.ingest().resume().await?))
}

impl Place {
    fn read(&self) -> Result<SeekTo, Problem> {
        let one_of = "must have one of offset, time, beginning and end";
        match (self.offset, &self.time, self.beginning, self.end) {
            (Some(offset), None, false, false) => Ok(SeekTo::Offset(Offset(offset))),
            (None, None, true, false) => Ok(SeekTo::Beginning),
            (None, None, false, true) => Ok(SeekTo::End),
            (None, Some(time), false, false) => instant(time),
            _ => Err(Problem::refused_field("/to", one_of)),
        }
    }
}

fn instant(text: &str) -> Result<SeekTo, Problem> {
    let invalid = |problem: String| Problem::refused_field("/to/time", problem);
    let time: ScheduledTime = text.parse().map_err(|error| invalid(format!("{error}")))?;
    let ScheduledTime::Instant(_) = time else {
        let problem = format!("{text} has no offset: write it as in 2030-01-01T08:00:00Z");
        return Err(invalid(problem));
    };
    let ms = time.resolve_ms(&jiff::tz::TimeZone::UTC);
    ms.map(SeekTo::Time).ok_or_else(|| invalid(format!("{text} is outside the years 0 to 9999")))
}

/// The topic and its partitions that `partitions` names, all of one topic.
fn chosen(
    topic: Option<String>,
    partitions: &[Value],
) -> Result<(Option<String>, Vec<Partition>), Problem> {
    let mut topic = topic;
    let mut numbers = Vec::with_capacity(partitions.len());
    for (place, partition) in partitions.iter().enumerate() {
        let pointer = format!("/partitions/{place}");
        let named = partition.as_str().and_then(|text| text.rsplit_once('/'));
        let number = match named {
            Some((of, number)) => {
                if topic.as_deref().is_some_and(|topic| topic != of) {
                    let problem = "is of another topic: ask for each topic by itself";
                    return Err(Problem::refused_field(&pointer, problem));
                }
                topic = Some(of.to_owned());
                number.parse().ok()
            }
            None => partition.as_i64().and_then(|number| number.try_into().ok()),
        };
        let Some(number) = number else {
            let problem = format!("is {partition}: give a number, or a text like \"topic/3\"");
            return Err(Problem::refused_field(&pointer, problem));
        };
        numbers.push(Partition(number));
    }
    Ok((topic, numbers))
}
