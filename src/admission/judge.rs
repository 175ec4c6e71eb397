//! Validates one record or request by the rules, before it is written to the database.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};

use super::apps::OwnApp;
use super::raw::{too_large, trace_in};
use super::{Admission, Objection, Pending};
use crate::model::app::Delivery;
use crate::model::change::named::{Message, Named, NamedChange};
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, KeyId, LedgerId, ShardId};
use crate::model::job::{Changes, Job, JobData, Origin};
use crate::model::letter::{DeadLetter, ErrorKind, Refusal, Source};
use crate::model::pause::{AppPause, Pause};
use crate::model::record::RawRecord;
use crate::model::request::{Operation, Resolved, ScheduleJobRequest, check_required_fields};
use crate::model::retry::Backoff;
use crate::store::{
    AppRow, AppRules, Entry, IdempotencyKey, OperationName, PlacedCandidate, PlacedOperation,
    Result as StoreResult, Wait,
};

/// Why a request cannot be admitted.
#[derive(Debug)]
pub(super) enum NotAdmissible {
    /// It will never be admissible.
    Never(Refusal),
    /// The reason may be temporary.
    NotYet(Refusal),
}

impl NotAdmissible {
    /// The refusal, for a caller to whom it makes no difference whether the reason is temporary.
    pub(super) fn into_refusal(self) -> Refusal {
        match self {
            Self::Never(refusal) | Self::NotYet(refusal) => refusal,
        }
    }

    /// Adds the names of the request to the refusal.
    fn with_names(self, request: &ScheduleJobRequest) -> Self {
        let signed = |refusal| Refusal {
            request_id: request.request_id.clone(),
            app: Some(request.app_name.clone()),
            ..refusal
        };
        match self {
            Self::Never(refusal) => Self::Never(signed(refusal)),
            Self::NotYet(refusal) => Self::NotYet(signed(refusal)),
        }
    }
}

impl From<Refusal> for NotAdmissible {
    fn from(refusal: Refusal) -> Self {
        Self::Never(refusal)
    }
}

/// The result of the rules for one request: a job or an operation.
pub(super) type Judgement = Result<Entry, NotAdmissible>;

/// The waits before a parked record is tried again.
const AGAIN: Backoff = Backoff::Exponential {
    initial: Duration::from_millis(200),
    factor: 2.0,
    max: Duration::from_secs(30),
};

impl Admission {
    /// Whether one of these requests has an idempotency key that is cached, so that the batch
    /// should be read before it is written.
    pub(crate) async fn seen_lately(&self, pending: &Pending) -> bool {
        let keys = pending.keys();
        !keys.is_empty() && self.shards.knows_any(keys).await
    }

    /// Validates records that were never tried before, in their order. A request without an id gets
    /// the one that `name` returns, which is the same whenever the record is read.
    ///
    /// # Errors
    /// Only if an app's row cannot be read, which says nothing about the records.
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

    /// Validates a record: it becomes a candidate or a dead letter, or is parked to be tried again.
    ///
    /// `before` is the number of earlier tries; a request without an id gets the one that `name`
    /// returns.
    ///
    /// # Errors
    /// Only if an app's row cannot be read, which says nothing about the record.
    pub(super) async fn judge_record(
        &self,
        record: RawRecord,
        ledger: LedgerId,
        before: u32,
        name: impl FnOnce(&RawRecord) -> String + Send,
    ) -> StoreResult<Entry> {
        let record = Arc::new(record);
        let origin = Origin { ledger, offset: record.offset, timestamp_ms: record.timestamp_ms };
        let request = self.decode(&record).map(|mut request| {
            request.request_id.get_or_insert_with(|| name(&record));
            request
        });
        let judgement = match request {
            Ok(request) => self.judge(request, Some(origin), Some(&record)).await?,
            Err(refusal) => Err(refusal.into()),
        };
        let (may_wait, refusal) = match judgement {
            Ok(entry) => return Ok(entry),
            Err(NotAdmissible::NotYet(refusal)) => (true, refusal),
            Err(NotAdmissible::Never(refusal)) => (false, refusal),
        };
        let attempts = before.saturating_add(1);
        let now_ms = self.clock.now_ms();
        let letter = DeadLetter { attempts, ..DeadLetter::of_record(&record, refusal, now_ms) };
        if !may_wait || attempts > self.rules.max_retries {
            return Ok(Entry::Letter(Box::new(letter)));
        }
        let wait = AGAIN.delay(attempts, fastrand::f64());
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let due_ms = now_ms.saturating_add(wait_ms);
        Ok(Entry::Wait(Box::new(Wait { letter, due_ms })))
    }

    /// Validates a request, which came by `record` or by API.
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
        // An app without shards is still being registered.
        let first = row.as_ref().and_then(|row| row.shards.first().copied());
        let (Some(row), Some(first)) = (row, first) else {
            let refusal = self.unknown_app(&request);
            // Another instance may be about to register it. A caller can repeat a request itself.
            let reason = match record {
                Some(_) => NotAdmissible::NotYet(refusal),
                None => NotAdmissible::Never(refusal),
            };
            return Ok(Err(reason.with_names(&request)));
        };
        self.counters.add(&self.counters.unknown_fields, request.unknown_fields() as usize);
        // One time for all decisions about a request.
        let now_ms = self.scheduling_clock.now_ms();
        if request.operation != Operation::Schedule {
            let operation = self.operation(&request, row, first, now_ms, origin.as_ref(), record);
            let operation = operation.map(|operation| Entry::Operation(Box::new(operation)));
            return Ok(
                operation.map_err(|refusal| NotAdmissible::Never(refusal).with_names(&request))
            );
        }
        let checked = self.check(&request, &row, now_ms, record.is_some());
        let (resolved, fingerprint) = match checked {
            Ok(checked) => checked,
            Err(reason) => return Ok(Err(reason.with_names(&request))),
        };
        let (mut job, key) = self.job(request, &row, first, &resolved, now_ms);
        job.origin = origin;
        job.trace = record.and_then(|record| trace_in(&record.headers));
        let (app, record, foreign) = (row, record.cloned(), true);
        let candidate = PlacedCandidate { app, job, fingerprint, key, foreign, record };
        Ok(Ok(Entry::Job(Box::new(candidate))))
    }

    /// The operation of a request, to which an app's own rules do not apply. Its own request id is
    /// that of the message.
    fn operation(
        &self,
        request: &ScheduleJobRequest,
        row: Arc<AppRow>,
        first: ShardId,
        now_ms: i64,
        origin: Option<&Origin>,
        record: Option<&Arc<RawRecord>>,
    ) -> Result<PlacedOperation, Refusal> {
        let change = match request.operation {
            Operation::Reschedule => {
                Named::Reschedule(request.resolve(&self.rules.requests, now_ms)?.scheduled_ms)
            }
            Operation::Schedule | Operation::Cancel => Named::Cancel,
        };
        let new_id = || uuid::Uuid::new_v4().to_string();
        let message = Message {
            request_id: request.request_id.clone().unwrap_or_else(new_id),
            about: origin.map_or_else(new_id, Origin::about),
            source: record.map(|record| Source::of(record)),
        };
        let (name, by_key) = match (&request.target_request_id, &request.idempotency_key) {
            (Some(id), _) => {
                let job = JobId::derive(&row.name, id);
                (OperationName::Request { job, id: id.clone() }, false)
            }
            (None, key) => {
                let key = self.key(&row, key.clone().unwrap_or_default(), now_ms);
                (OperationName::Key(key), true)
            }
        };
        let change = NamedChange { change, version: request.version, by_key, message };
        Ok(PlacedOperation { app: row, name, shard: first, change, record: record.cloned() })
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

    /// Checks the request and resolves its times. A temporary objection of the handler counts only
    /// if the record may be parked; otherwise the handler is asked again before the first attempt.
    fn check(
        &self,
        request: &ScheduleJobRequest,
        row: &AppRow,
        now_ms: i64,
        may_wait: bool,
    ) -> Result<(Resolved, Fingerprint), NotAdmissible> {
        if let Some(pause) = self.apps.refusal(row) {
            return Err(refused_while_paused(row, &pause).into());
        }
        let resolved = request.resolve(&self.rules.requests, now_ms)?;
        check_attempts(request, &row.rules)?;
        self.check_data(request, &row.rules, may_wait)?;
        let fingerprint = Fingerprint::of_json(request.job_data.as_str())
            .map_err(|error| Refusal::new(ErrorKind::InvalidJson, format!("jobData: {error}")))?;
        Ok((resolved, fingerprint))
    }

    fn check_data(
        &self,
        request: &ScheduleJobRequest,
        rules: &AppRules,
        may_wait: bool,
    ) -> Result<(), NotAdmissible> {
        check_required_fields(&request.job_data, &rules.required_fields)?;
        if let Some(schema) = &rules.schema {
            schema.check(&request.job_data)?;
        }
        let refused = |why| Refusal::new(ErrorKind::RefusedByApp, format!("jobData: {why}"));
        match self
            .apps
            .own(&request.app_name)
            .map_or(Ok(()), |app| validate(app, &request.job_data))
        {
            Err(Objection::Invalid(why)) => Err(NotAdmissible::Never(refused(why))),
            Err(Objection::NotYet(why)) if may_wait => Err(NotAdmissible::NotYet(refused(why))),
            Ok(()) | Err(Objection::NotYet(_)) => Ok(()),
        }
    }

    /// The times of a job as an edit would leave it, which `edited` is the request of. Its
    /// `jobData` is checked if that is new.
    ///
    /// # Errors
    /// What is wrong with the times or the data.
    pub(crate) fn check_edited(
        &self,
        edited: &ScheduleJobRequest,
        rules: &AppRules,
        has_new_data: bool,
    ) -> Result<Resolved, Refusal> {
        let resolved = edited.resolve(&self.rules.requests, self.scheduling_clock.now_ms())?;
        check_attempts(edited, rules)?;
        if has_new_data {
            if let Some(refusal) =
                too_large(edited.job_data.as_str().as_bytes(), self.rules.max_record_bytes)
            {
                return Err(refusal);
            }
            self.check_data(edited, rules, false).map_err(NotAdmissible::into_refusal)?;
        }
        Ok(resolved)
    }

    /// The job for a request, in its home shard, and its idempotency key.
    fn job(
        &self,
        request: ScheduleJobRequest,
        row: &AppRow,
        first: ShardId,
        resolved: &Resolved,
        now_ms: i64,
    ) -> (Job, Option<IdempotencyKey>) {
        let request_id = request.request_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let key = request.idempotency_key.map(|name| self.key(row, name, now_ms));
        let id = JobId::derive(&row.name, &request_id);
        let job = Job {
            id,
            shard: row.home_of(id, request.concurrency_key.as_deref()).unwrap_or(first),
            priority: request.priority,
            due_ms: resolved.due_ms(id),
            request_id,
            scheduled_ms: resolved.scheduled_ms,
            expires_ms: resolved.expires_ms,
            flexible_ms: resolved.flexible_ms,
            concurrency_key: request.concurrency_key,
            created_ms: now_ms,
            attempts: 0,
            max_attempts: request.max_attempts.map(Into::into),
            timeout_ms: request.timeout_ms.map(Into::into),
            data: request.job_data,
            trace: None,
            origin: None,
            last_error: None,
            letter: None,
            version: request.version,
            changes: Changes::default(),
        };
        (job, key)
    }

    fn key(&self, row: &AppRow, name: String, now_ms: i64) -> IdempotencyKey {
        let id = KeyId::derive(&row.name, &name);
        IdempotencyKey { id, name, expires_ms: now_ms.saturating_add(self.rules.window_ms()) }
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

/// A job that is delivered at most once has one attempt.
fn check_attempts(request: &ScheduleJobRequest, rules: &AppRules) -> Result<(), Refusal> {
    match request.max_attempts {
        Some(most) if rules.policy.delivery == Delivery::AtMostOnce && most.get() > 1 => {
            let message = format!(
                "maxAttempts {most}: app {} delivers a job at most once, in one attempt: leave it \
                 out",
                request.app_name
            );
            Err(Refusal::new(ErrorKind::InvalidField, message))
        }
        _ => Ok(()),
    }
}

fn refused_while_paused(row: &AppRow, pause: &AppPause) -> Refusal {
    let Pause { since_ms, by, reason } = &pause.pause;
    let since = DateTime::from_timestamp_millis(*since_ms).unwrap_or_default();
    let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
    let reason = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let name = &row.name;
    Refusal::new(
        ErrorKind::RefusedByApp,
        format!(
            "app {name} is paused and refuses requests since {since}, by {by}{reason}; send the \
             request again after it was resumed"
        ),
    )
}

/// Asks the handler. A panic counts as an objection to this request: otherwise the reader would
/// restart and panic at the same record again and again.
fn validate(app: &OwnApp, data: &JobData) -> Result<(), Objection> {
    let asked = catch_unwind(AssertUnwindSafe(|| app.handler.validate(data)));
    asked.unwrap_or_else(|_| {
        let name = &app.row.name;
        let why =
            format!("the handler of {name} panicked when it validated the request: see its log");
        Err(Objection::Invalid(why))
    })
}
