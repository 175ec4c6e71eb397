//! Judging one record or request by the rules, before the database has its say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::super::shared::{RegisteredApp, Shared};
use crate::dispatch::Rejection;
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, KeyId, LedgerId, ShardId, derived_request_id};
use crate::model::job::{Job, JobData, Origin, TraceContext};
use crate::model::letter::{DeadLetter, ErrorKind, Refusal};
use crate::model::record::RawRecord;
use crate::model::request::{Operation, Resolved, ScheduleJobRequest, check_required_fields};
use crate::store::{AppRow, Candidate, Entry, IdempotencyKey, Result as StoreResult};

/// An entry, and for a candidate the app whose shards it may go into.
pub(super) struct Judged {
    pub(super) entry: Entry,
    pub(super) app: Option<Arc<AppRow>>,
}

/// A trace header longer than this is not one.
const LONGEST_TRACE: usize = 512;

/// A record becomes a candidate or a dead letter.
///
/// # Errors
/// Only if an app's row cannot be read: that says nothing of the record.
pub(super) async fn judge_record(
    shared: &Shared,
    record: RawRecord,
    cluster: &str,
    ledger: LedgerId,
) -> StoreResult<Judged> {
    let now_ms = shared.clock.now_ms();
    let record = Arc::new(record);
    let origin = Origin { ledger, offset: record.offset, timestamp_ms: record.timestamp_ms };
    let request = decode(shared, &record).map(|mut request| {
        let RawRecord { topic, partition, offset, .. } = &*record;
        let name = || derived_request_id(cluster, topic, *partition, *offset);
        request.request_id.get_or_insert_with(name);
        request
    });
    let judged = match request {
        Ok(request) => judge(shared, request, Some(origin), Some(&record)).await?,
        Err(refusal) => Err(refusal),
    };
    Ok(judged.unwrap_or_else(|refusal| {
        let letter = DeadLetter::of_record(&record, refusal, now_ms);
        Judged { entry: Entry::Letter(Box::new(letter)), app: None }
    }))
}

/// A request becomes a candidate, or is refused.
pub(super) async fn judge(
    shared: &Shared,
    request: ScheduleJobRequest,
    origin: Option<Origin>,
    record: Option<&Arc<RawRecord>>,
) -> StoreResult<Result<Judged, Refusal>> {
    let row = match shared.app_row(&request.app_name).await? {
        Some(row) => row,
        None => return Ok(Err(sign(unknown_app(shared, &request), &request))),
    };
    shared.counters.add(&shared.counters.unknown_fields, request.unknown_fields() as usize);
    Ok(match check(shared, &request, &row) {
        Ok((resolved, fingerprint)) => {
            let candidate = candidate(shared, request, &row, resolved, fingerprint, origin, record);
            Ok(Judged { entry: Entry::Job(Box::new(candidate)), app: Some(row) })
        }
        Err(refusal) => Err(sign(refusal, &request)),
    })
}

fn decode(shared: &Shared, record: &RawRecord) -> Result<ScheduleJobRequest, Refusal> {
    let Some(value) = record.value.as_deref() else {
        return Err(Refusal::new(
            ErrorKind::EmptyValue,
            "the record has a null value: send a ScheduleJobRequest as JSON",
        ));
    };
    let most = shared.settings.max_record_bytes;
    if value.len() > most {
        return Err(Refusal::new(
            ErrorKind::RecordTooLarge,
            format!(
                "the record has {} bytes, more than ingest.max_record_bytes ({most}): \
                 send a reference instead of the data, or raise the limit",
                value.len()
            ),
        ));
    }
    ScheduleJobRequest::from_json(value)
}

fn check_rules(shared: &Shared, request: &ScheduleJobRequest) -> Result<Resolved, Refusal> {
    if request.operation != Operation::Schedule {
        return Err(Refusal::new(
            ErrorKind::UnsupportedOperation,
            format!(
                "operation \"{}\" is not available in this version: only \"schedule\" is",
                request.operation.as_str()
            ),
        ));
    }
    request.resolve(&shared.settings.rules, shared.clock.now_ms())
}

fn check(
    shared: &Shared,
    request: &ScheduleJobRequest,
    row: &AppRow,
) -> Result<(Resolved, Fingerprint), Refusal> {
    let resolved = check_rules(shared, request)?;
    check_required_fields(&request.job_data, &row.rules.required_fields)?;
    if let Some(schema) = &row.rules.schema {
        schema.check(&request.job_data)?;
    }
    if let Some(app) = shared.registered(&request.app_name)
        && let Err(Rejection::Invalid(why)) = validate(app, &request.job_data)
    {
        return Err(Refusal::new(ErrorKind::RefusedByApp, format!("jobData: {why}")));
    }
    let fingerprint = Fingerprint::of_json(request.job_data.as_str())
        .map_err(|error| Refusal::new(ErrorKind::InvalidJson, format!("jobData: {error}")))?;
    Ok((resolved, fingerprint))
}

/// A panic of the handler's is its answer to this request: else the reader would meet the
/// same record again and again, and nobody behind it would get past.
fn validate(app: &RegisteredApp, data: &JobData) -> Result<(), Rejection> {
    let judged = catch_unwind(AssertUnwindSafe(|| app.handler.validate(data)));
    judged.unwrap_or_else(|_| {
        let why =
            format!("the handler of {} panicked when it was to judge it: see its log", app.name);
        Err(Rejection::Invalid(why))
    })
}

fn unknown_app(shared: &Shared, request: &ScheduleJobRequest) -> Refusal {
    let known = match shared.app_names() {
        names if names.is_empty() => String::new(),
        names => format!(" (this instance has {})", names.join(", ")),
    };
    Refusal::new(
        ErrorKind::UnknownApp,
        format!(
            "appName \"{}\" was never registered by any instance: register it{known}, then send \
             the request again",
            request.app_name,
        ),
    )
}

fn sign(refusal: Refusal, request: &ScheduleJobRequest) -> Refusal {
    Refusal {
        request_id: request.request_id.clone(),
        app: Some(request.app_name.clone()),
        ..refusal
    }
}

fn candidate(
    shared: &Shared,
    request: ScheduleJobRequest,
    row: &AppRow,
    resolved: Resolved,
    fingerprint: Fingerprint,
    origin: Option<Origin>,
    record: Option<&Arc<RawRecord>>,
) -> Candidate {
    let now_ms = shared.clock.now_ms();
    let request_id = request.request_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let window_ms = shared.settings.idempotency_window.as_millis();
    let window_ms = i64::try_from(window_ms).unwrap_or(i64::MAX);
    let key = request.idempotency_key.map(|name| IdempotencyKey {
        id: KeyId::derive(&row.name, &name),
        name,
        expires_ms: now_ms.saturating_add(window_ms),
    });
    let job = Job {
        id: JobId::derive(&row.name, &request_id),
        // Chosen when the batch is put together.
        shard: ShardId(0),
        priority: request.priority,
        due_ms: resolved.due_ms,
        request_id,
        scheduled_ms: resolved.scheduled_ms,
        expires_ms: resolved.expires_ms,
        created_ms: now_ms,
        attempts: 0,
        max_attempts: request.max_attempts.map(Into::into),
        timeout_ms: request.timeout_ms.map(Into::into),
        data: request.job_data,
        trace: record.and_then(|record| trace_of(record)),
        origin,
        last_error: None,
        letter: None,
    };
    let app_name = Arc::from(row.name.as_str());
    let record = record.cloned();
    Candidate { app: row.id, app_name, job, fingerprint, key, foreign: false, record }
}

fn trace_of(record: &RawRecord) -> Option<TraceContext> {
    let text = |name| {
        let value = record.header(name)?;
        let legal =
            value.len() <= LONGEST_TRACE && value.bytes().all(|b| (b' '..=b'~').contains(&b));
        legal.then(|| value.to_owned())
    };
    Some(TraceContext { parent: text("traceparent")?, state: text("tracestate") })
}
