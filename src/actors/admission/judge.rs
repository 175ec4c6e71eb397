//! Judging one record or request by the rules, before the database has its say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::super::shared::{RegisteredApp, Shared};
use crate::dispatch::Rejection;
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, KeyId, LedgerId, ShardId};
use crate::model::job::{Job, JobData, Origin, TraceContext};
use crate::model::letter::{DeadLetter, ErrorKind, Refusal};
use crate::model::record::RawRecord;
use crate::model::request::{Operation, Resolved, ScheduleJobRequest, check_required_fields};
use crate::model::retry::Backoff;
use crate::store::{AppRow, Candidate, Entry, IdempotencyKey, Result as StoreResult, Wait};

/// An entry, and for a candidate the app whose shards it may go into.
pub(in crate::actors) struct Judged {
    pub(in crate::actors) entry: Entry,
    pub(super) app: Option<Arc<AppRow>>,
}

/// What the rules say of a request.
pub(super) enum Judgement {
    /// It may become a job.
    Sound(Box<Candidate>, Arc<AppRow>),
    /// It never can.
    Refused(Refusal),
    /// It cannot now; that may heal.
    NotYet(Refusal),
}

/// Why `check` objects.
enum Objection {
    Never(Refusal),
    NotYet(Refusal),
}

impl From<Refusal> for Objection {
    fn from(refusal: Refusal) -> Self {
        Self::Never(refusal)
    }
}

/// A trace header longer than this is not one.
const LONGEST_TRACE: usize = 512;

/// The waits before a record is tried again whose failure may heal.
const AGAIN: Backoff = Backoff::Exponential {
    initial: Duration::from_millis(200),
    factor: 2.0,
    max: Duration::from_secs(30),
};

/// A record becomes a candidate or a dead letter, or waits to be tried again.
///
/// `before` is how often it was tried before; a request without a name gets `name`.
///
/// # Errors
/// Only if an app's row cannot be read: that says nothing of the record.
pub(in crate::actors) async fn judge_record(
    shared: &Shared,
    record: RawRecord,
    ledger: LedgerId,
    before: u32,
    name: impl FnOnce(&RawRecord) -> String,
) -> StoreResult<Judged> {
    let record = Arc::new(record);
    let origin = Origin { ledger, offset: record.offset, timestamp_ms: record.timestamp_ms };
    let request = decode(shared, &record).map(|mut request| {
        request.request_id.get_or_insert_with(|| name(&record));
        request
    });
    let judgement = match request {
        Ok(request) => judge(shared, request, Some(origin), Some(&record)).await?,
        Err(refusal) => Judgement::Refused(refusal),
    };
    let attempts = before.saturating_add(1);
    let entry = match judgement {
        Judgement::Sound(candidate, app) => {
            return Ok(Judged { entry: Entry::Job(candidate), app: Some(app) });
        }
        Judgement::NotYet(refusal) if attempts <= shared.max_retries() => {
            let letter = letter_of(shared, &record, refusal, attempts);
            let wait = AGAIN.delay(attempts, fastrand::f64());
            let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
            let due_ms = letter.at_ms.saturating_add(wait_ms);
            Entry::Wait(Box::new(Wait { letter, due_ms }))
        }
        Judgement::NotYet(refusal) | Judgement::Refused(refusal) => {
            Entry::Letter(Box::new(letter_of(shared, &record, refusal, attempts)))
        }
    };
    Ok(Judged { entry, app: None })
}

fn letter_of(shared: &Shared, record: &RawRecord, refusal: Refusal, attempts: u32) -> DeadLetter {
    let now_ms = shared.clock.now_ms();
    DeadLetter { attempts, ..DeadLetter::of_record(record, refusal, now_ms) }
}

/// What the rules say of a request that came by `record`, or by API.
pub(super) async fn judge(
    shared: &Shared,
    request: ScheduleJobRequest,
    origin: Option<Origin>,
    record: Option<&Arc<RawRecord>>,
) -> StoreResult<Judgement> {
    let Some(row) = shared.app_row(&request.app_name).await? else {
        let refusal = sign(unknown_app(shared, &request), &request);
        // Somebody may be about to register it. A caller can ask again by himself.
        return Ok(match record {
            Some(_) => Judgement::NotYet(refusal),
            None => Judgement::Refused(refusal),
        });
    };
    shared.counters.add(&shared.counters.unknown_fields, request.unknown_fields() as usize);
    Ok(match check(shared, &request, &row, record.is_some()) {
        Ok((resolved, fingerprint)) => {
            let candidate = candidate(shared, request, &row, resolved, fingerprint, origin, record);
            Judgement::Sound(Box::new(candidate), row)
        }
        Err(Objection::Never(refusal)) => Judgement::Refused(sign(refusal, &request)),
        Err(Objection::NotYet(refusal)) => Judgement::NotYet(sign(refusal, &request)),
    })
}

fn decode(shared: &Shared, record: &RawRecord) -> Result<ScheduleJobRequest, Refusal> {
    let Some(value) = record.value.as_deref() else {
        return Err(Refusal::new(
            ErrorKind::EmptyValue,
            "the record has a null value: send a ScheduleJobRequest as JSON",
        ));
    };
    if let Some(refusal) = too_large(value, shared.settings.max_record_bytes) {
        return Err(refusal);
    }
    ScheduleJobRequest::from_json(value)
}

/// Why a value of more than `most` bytes is refused.
pub(super) fn too_large(value: &[u8], most: usize) -> Option<Refusal> {
    let size = value.len();
    (size > most).then(|| {
        let why = format!(
            "the record has {size} bytes, more than ingest.max_record_bytes ({most}): \
             send a reference instead of the data, or raise the limit"
        );
        Refusal::new(ErrorKind::RecordTooLarge, why)
    })
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
    request.resolve(&shared.settings.rules, shared.now_ms())
}

/// Of a record that may wait, a handler's "not yet" is heard; else the job asks again before
/// its first attempt.
fn check(
    shared: &Shared,
    request: &ScheduleJobRequest,
    row: &AppRow,
    may_wait: bool,
) -> Result<(Resolved, Fingerprint), Objection> {
    let resolved = check_rules(shared, request)?;
    check_required_fields(&request.job_data, &row.rules.required_fields)?;
    if let Some(schema) = &row.rules.schema {
        schema.check(&request.job_data)?;
    }
    let refused = |why| Refusal::new(ErrorKind::RefusedByApp, format!("jobData: {why}"));
    match shared.registered(&request.app_name).map(|app| validate(app, &request.job_data)) {
        Some(Err(Rejection::Invalid(why))) => return Err(Objection::Never(refused(why))),
        Some(Err(Rejection::NotYet(why))) if may_wait => {
            return Err(Objection::NotYet(refused(why)));
        }
        _ => {}
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
    let now_ms = shared.now_ms();
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
        trace: record.and_then(|record| trace_in(&record.headers)),
        origin,
        last_error: None,
        letter: None,
    };
    let app_name = Arc::from(row.name.as_str());
    let record = record.cloned();
    Candidate { app: row.id, app_name, job, fingerprint, key, foreign: false, record }
}

/// The trace context in a record's headers.
pub(super) fn trace_in(headers: &[(String, Option<Vec<u8>>)]) -> Option<TraceContext> {
    let text = |name| {
        let (_, value) = headers.iter().find(|(key, _)| key == name)?;
        let value = std::str::from_utf8(value.as_deref()?).ok()?;
        let legal =
            value.len() <= LONGEST_TRACE && value.bytes().all(|b| (b' '..=b'~').contains(&b));
        legal.then(|| value.to_owned())
    };
    Some(TraceContext { parent: text("traceparent")?, state: text("tracestate") })
}
