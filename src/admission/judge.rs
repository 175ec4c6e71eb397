//! Judging one record or request by the rules, before the database has its say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::apps::OwnApp;
use super::pending::{Candidate, Judged};
use super::{Admission, Objection as HandlersObjection, Pending};
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, KeyId, LedgerId};
use crate::model::job::{Job, JobData, Origin, TraceContext, Unassigned};
use crate::model::letter::{DeadLetter, ErrorKind, Refusal};
use crate::model::record::RawRecord;
use crate::model::request::{Operation, Resolved, ScheduleJobRequest, check_required_fields};
use crate::model::retry::Backoff;
use crate::store::{AppRow, IdempotencyKey, Result as StoreResult, Wait};

/// What the rules say of a request.
pub(super) enum Judgement {
    /// It may become a job.
    Sound(Box<Candidate>),
    /// It never can.
    Refused(Refusal),
    /// It cannot now; that may pass.
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

/// The waits before a record is tried again whose failure may pass.
const AGAIN: Backoff = Backoff::Exponential {
    initial: Duration::from_millis(200),
    factor: 2.0,
    max: Duration::from_secs(30),
};

impl Admission {
    /// Whether one of these brings an idempotency key that was seen lately, so that reading
    /// before writing is worth it.
    pub(crate) async fn seen_lately(&self, pending: &Pending) -> bool {
        let keys = pending.keys();
        !keys.is_empty() && self.shards.knows_any(keys).await
    }

    /// What the rules make of records that were never tried before, in their order. One whose
    /// request brought no name gets `name`, the same whenever it is read.
    ///
    /// # Errors
    /// Only if an app's row cannot be read: that says nothing of the records.
    pub(crate) async fn judge_records(
        &self,
        records: Vec<RawRecord>,
        ledger: LedgerId,
        name: impl Fn(&RawRecord) -> String + Send + Sync,
    ) -> StoreResult<Pending> {
        let mut judged = Vec::with_capacity(records.len());
        for record in records {
            judged.push(self.judge_record(record, ledger, 0, &name).await?);
        }
        Ok(Pending::new(judged))
    }

    /// A record becomes a candidate or a dead letter, or waits to be tried again.
    ///
    /// `before` is how often it was tried before; a request without a name gets `name`.
    ///
    /// # Errors
    /// Only if an app's row cannot be read: that says nothing of the record.
    pub(super) async fn judge_record(
        &self,
        record: RawRecord,
        ledger: LedgerId,
        before: u32,
        name: impl FnOnce(&RawRecord) -> String + Send,
    ) -> StoreResult<Judged> {
        let record = Arc::new(record);
        let origin = Origin { ledger, offset: record.offset, timestamp_ms: record.timestamp_ms };
        let request = self.decode(&record).map(|mut request| {
            request.request_id.get_or_insert_with(|| name(&record));
            request
        });
        let judgement = match request {
            Ok(request) => self.judge(request, Some(origin), Some(&record)).await?,
            Err(refusal) => Judgement::Refused(refusal),
        };
        let attempts = before.saturating_add(1);
        let now_ms = self.clock.now_ms();
        let letter =
            |refusal| DeadLetter { attempts, ..DeadLetter::of_record(&record, refusal, now_ms) };
        Ok(match judgement {
            Judgement::Sound(candidate) => Judged::Candidate(candidate),
            Judgement::NotYet(refusal) if attempts <= self.rules.max_retries => {
                let wait = AGAIN.delay(attempts, fastrand::f64());
                let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                let due_ms = now_ms.saturating_add(wait_ms);
                Judged::Wait(Box::new(Wait { letter: letter(refusal), due_ms }))
            }
            Judgement::NotYet(refusal) | Judgement::Refused(refusal) => {
                Judged::Letter(Box::new(letter(refusal)))
            }
        })
    }

    /// What the rules say of a request that came by `record`, or by API.
    ///
    /// # Errors
    /// Only if an app's row cannot be read.
    pub(super) async fn judge(
        &self,
        request: ScheduleJobRequest,
        origin: Option<Origin>,
        record: Option<&Arc<RawRecord>>,
    ) -> StoreResult<Judgement> {
        let row = self.app_row(&request.app_name).await?;
        // An app without shards is being registered just now.
        let shard = row.as_ref().and_then(|row| row.shards.first().copied());
        let (Some(row), Some(shard)) = (row, shard) else {
            let refusal = sign(self.unknown_app(&request), &request);
            // Another instance may be about to register it. A caller can ask again by itself.
            return Ok(match record {
                Some(_) => Judgement::NotYet(refusal),
                None => Judgement::Refused(refusal),
            });
        };
        self.counters.add(&self.counters.unknown_fields, request.unknown_fields() as usize);
        Ok(match self.check(&request, &row, record.is_some()) {
            Ok((resolved, fingerprint)) => {
                let (mut job, key) = self.job(request, &row, &resolved);
                job.origin = origin;
                job.trace = record.and_then(|record| trace_in(&record.headers));
                let home = job.id.one_of(&row.shards).copied().unwrap_or(shard);
                let (app, record) = (row, record.cloned());
                Judgement::Sound(Box::new(Candidate { app, job, home, fingerprint, key, record }))
            }
            Err(Objection::Never(refusal)) => Judgement::Refused(sign(refusal, &request)),
            Err(Objection::NotYet(refusal)) => Judgement::NotYet(sign(refusal, &request)),
        })
    }

    fn decode(&self, record: &RawRecord) -> Result<ScheduleJobRequest, Refusal> {
        let Some(value) = record.value.as_deref() else {
            return Err(Refusal::new(
                ErrorKind::EmptyValue,
                "the record has a null value: send a ScheduleJobRequest as JSON",
            ));
        };
        if let Some(refusal) = too_large(value, self.rules.max_record_bytes) {
            return Err(refusal);
        }
        ScheduleJobRequest::from_json(value)
    }

    /// Of a record that may wait, a handler's "not yet" is heard; else the job asks again
    /// before its first attempt.
    fn check(
        &self,
        request: &ScheduleJobRequest,
        row: &AppRow,
        may_wait: bool,
    ) -> Result<(Resolved, Fingerprint), Objection> {
        let resolved = self.check_operation_and_times(request)?;
        check_required_fields(&request.job_data, &row.rules.required_fields)?;
        if let Some(schema) = &row.rules.schema {
            schema.check(&request.job_data)?;
        }
        let refused = |why| Refusal::new(ErrorKind::RefusedByApp, format!("jobData: {why}"));
        match self.apps.own(&request.app_name).map_or(Ok(()), |app| ask(app, &request.job_data)) {
            Ok(()) => {}
            Err(HandlersObjection::Invalid(why)) => return Err(Objection::Never(refused(why))),
            Err(HandlersObjection::NotYet(why)) if may_wait => {
                return Err(Objection::NotYet(refused(why)));
            }
            Err(HandlersObjection::NotYet(_)) => {}
        }
        let fingerprint = Fingerprint::of_json(request.job_data.as_str())
            .map_err(|error| Refusal::new(ErrorKind::InvalidJson, format!("jobData: {error}")))?;
        Ok((resolved, fingerprint))
    }

    fn check_operation_and_times(&self, request: &ScheduleJobRequest) -> Result<Resolved, Refusal> {
        if request.operation != Operation::Schedule {
            return Err(Refusal::new(
                ErrorKind::UnsupportedOperation,
                format!(
                    "operation \"{}\" is not available in this version: only \"schedule\" is",
                    request.operation.as_str()
                ),
            ));
        }
        request.resolve(&self.rules.requests, self.moments.now_ms())
    }

    /// The job that a request asks for, and its idempotency key.
    fn job(
        &self,
        request: ScheduleJobRequest,
        row: &AppRow,
        resolved: &Resolved,
    ) -> (Job<Unassigned>, Option<IdempotencyKey>) {
        let now_ms = self.moments.now_ms();
        let request_id = request.request_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let window_ms = self.rules.idempotency_window.as_millis();
        let window_ms = i64::try_from(window_ms).unwrap_or(i64::MAX);
        let key = request.idempotency_key.map(|name| IdempotencyKey {
            id: KeyId::derive(&row.name, &name),
            name,
            expires_ms: now_ms.saturating_add(window_ms),
        });
        let job = Job {
            id: JobId::derive(&row.name, &request_id),
            shard: Unassigned,
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
            trace: None,
            origin: None,
            last_error: None,
            letter: None,
        };
        (job, key)
    }

    fn unknown_app(&self, request: &ScheduleJobRequest) -> Refusal {
        let known = match self.app_names() {
            names if names.is_empty() => String::new(),
            names => format!(" (this instance has {})", names.join(", ")),
        };
        Refusal::new(
            ErrorKind::UnknownApp,
            format!(
                "appName \"{}\" was never registered by any instance: register it{known}, then \
                 send the request again",
                request.app_name,
            ),
        )
    }
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

/// A panic of the handler's is its answer to this request: else the reader would meet the
/// same record again and again, and nothing behind it would get past.
fn ask(app: &OwnApp, data: &JobData) -> Result<(), HandlersObjection> {
    let asked = catch_unwind(AssertUnwindSafe(|| app.handler.validate(data)));
    asked.unwrap_or_else(|_| {
        let name = &app.row.name;
        let why = format!("the handler of {name} panicked when it was to judge it: see its log");
        Err(HandlersObjection::Invalid(why))
    })
}

fn sign(refusal: Refusal, request: &ScheduleJobRequest) -> Refusal {
    Refusal {
        request_id: request.request_id.clone(),
        app: Some(request.app_name.clone()),
        ..refusal
    }
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
