//! Statements on the row of one job that waits, or of what is remembered of a name.

use uuid::Uuid;

use super::IdempotencyKey;
use super::columns::{MEMORY_COLUMNS, memory_values};
use super::letters::{LONGEST_NAME, truncated};
use super::steps::{Step, Value};
use super::tombstones::TOMBSTONE;
use crate::model::ids::{AppId, JobId, KeyId};
use crate::model::job::{Cancellation, Job};
use crate::model::versions::Memory;

/// A job's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredJob {
    /// The job; of a tombstone what is left of it.
    pub job: Job,
    /// It was cancelled, and its row is kept so that its request is recognized.
    pub is_tombstone: bool,
}

/// What makes a row the one that was read.
pub(super) const IS_VERSION: &str =
    "id = ? and created_ms = ? and revision = ? and attempts = ? and priority <> 3";
/// As [`IS_VERSION`], of a row that is no live job.
pub(super) const IS_KEPT: &str =
    "id = ? and created_ms = ? and revision = ? and attempts = ? and priority = 3";

/// The columns that only another schedule changes.
pub(super) fn of_schedule(job: &Job) -> (&'static str, Vec<Value>) {
    let columns = ", version = ?, created_ms = ?, attempts = ?, last_error = ?, letter = ?, \
         traceparent = ?, tracestate = ?, ledger = ?, source_offset = ?, source_time_ms = ?";
    let (trace, origin) = (job.trace.as_ref(), job.origin.as_ref());
    let values = vec![
        job.version.into(),
        job.created_ms.into(),
        i64::from(job.attempts).into(),
        job.last_error.clone().into(),
        job.letter.into(),
        trace.map(|trace| trace.parent.clone()).into(),
        trace.and_then(|trace| trace.state.clone()).into(),
        origin.map(|origin| origin.ledger.0).into(),
        origin.map(|origin| origin.offset.0).into(),
        origin.and_then(|origin| origin.timestamp_ms).into(),
    ];
    (columns, values)
}

/// The columns of a name's memory in an update, each with a comma before it.
pub(super) fn memory_columns() -> String {
    MEMORY_COLUMNS.map(|column| format!(", {column} = ?")).concat()
}

/// Changes what is remembered of a name without a live job.
pub(super) fn remember(before: &Job, after: &Job, until_ms: i64) -> Step {
    let revision = i64::from(after.changes.revision);
    let mut values: Vec<Value> = vec![until_ms.into(), revision.into()];
    values.extend(memory_values(&after.memory()));
    values.extend(version(before));
    let columns = memory_columns();
    let update =
        format!("update scheduler_job set due_ms = ?, revision = ?{columns} where {IS_KEPT}");
    Step::one(update, values)
}

/// The values of [`IS_VERSION`].
pub(super) fn version(job: &Job) -> [Value; 4] {
    [
        job.id.uuid().into(),
        job.created_ms.into(),
        i64::from(job.changes.revision).into(),
        i64::from(job.attempts).into(),
    ]
}

/// Makes a tombstone of a job that waits.
pub(super) fn bury(before: &Job, after: &Job, until_ms: i64) -> Step {
    let first = after.changes.cancelled.as_deref();
    let [at_ms, by] = tombstone_values(first);
    let values = [until_ms.into(), i64::from(after.changes.revision).into(), at_ms, by];
    let memory = memory_values(&after.memory());
    let values = values.into_iter().chain(memory).chain(version(before)).collect();
    let columns = memory_columns();
    let update =
        format!("update scheduler_job set {TOMBSTONE_COLUMNS}{columns} where {IS_VERSION}");
    Step::one(update, values)
}

/// A tombstone keeps names and times, and nothing else that takes room.
pub(super) const TOMBSTONE_COLUMNS: &str = "priority = 3, due_ms = ?, revision = ?, cancelled_ms = ?, \
     cancelled_by = ?, data = '{}', traceparent = null, tracestate = null, last_error = null, \
     started_ms = null, started_by = null, interruptions = null";

fn tombstone_values(first: Option<&Cancellation>) -> [Value; 2] {
    let at_ms = first.map(|first| first.at_ms);
    [at_ms.into(), first.map(|first| truncated(&first.by, LONGEST_NAME)).into()]
}

/// Makes a tombstone of a job whose last attempt has ended, if its row is still the one that was
/// fired. Writing it twice does no harm.
pub(super) fn bury_fired(job: &Job, first: &Cancellation, until_ms: i64) -> Step {
    let [at_ms, by] = tombstone_values(Some(first));
    let revision = i64::from(job.changes.revision) + 1;
    let values = vec![
        until_ms.into(),
        revision.into(),
        at_ms,
        by,
        job.id.uuid().into(),
        job.created_ms.into(),
        i64::from(job.attempts).into(),
    ];
    let update = format!(
        "update scheduler_job set {TOMBSTONE_COLUMNS} \
         where id = ? and created_ms = ? and attempts = ? and priority <> 3"
    );
    Step::any(update, values)
}

/// What is remembered of a name that has no row.
pub(super) fn insert_awaited(job: &Job, until_ms: i64) -> Step {
    let insert = format!(
        "insert into scheduler_job (id, shard, priority, due_ms, request_id, scheduled_ms, \
         created_ms, attempts, data, revision, {}) \
         values (?, ?, ?, ?, ?, ?, ?, 0, '{{}}', ?, ?, ?, ?, ?)",
        MEMORY_COLUMNS.join(", ")
    );
    let mut values: Vec<Value> = vec![
        job.id.uuid().into(),
        job.shard.0.into(),
        TOMBSTONE.into(),
        until_ms.into(),
        job.request_id.as_str().into(),
        job.scheduled_ms.into(),
        job.created_ms.into(),
        i64::from(job.changes.revision).into(),
    ];
    values.extend(memory_values(&job.memory()));
    Step::any(insert, values)
}

/// What is not inserted with a live job.
pub(super) fn update_changes(job: &Job) -> Step {
    let columns = memory_columns();
    let update =
        format!("update scheduler_job set revision = ?, moved_ms = ?{columns} where id = ?");
    let changes = &job.changes;
    let mut values: Vec<Value> = vec![i64::from(changes.revision).into(), changes.moved_ms.into()];
    values.extend(memory_values(&job.memory()));
    values.push(job.id.uuid().into());
    Step::one(update, values)
}

/// What is remembered of an idempotency key that has no job.
pub(super) fn insert_awaited_key(
    key: &IdempotencyKey,
    app: AppId,
    memory: &Memory,
    until_ms: i64,
) -> Step {
    let insert = format!(
        "insert into scheduler_idempotency_key (id, app, name, job, request_id, fingerprint, \
         scheduled_ms, expires_ms, {}) values (?, ?, ?, ?, '', ?, 0, ?, ?, ?, ?, ?)",
        MEMORY_COLUMNS.join(", ")
    );
    let mut values: Vec<Value> = vec![
        Uuid::from_bytes(key.id.into_bytes()).into(),
        app.0.into(),
        key.name.as_str().into(),
        Uuid::nil().into(),
        Uuid::nil().into(),
        until_ms.into(),
    ];
    values.extend(memory_values(memory));
    Step::any(insert, values)
}

/// What is left of the memory of a key that has got a job.
pub(super) fn update_key_memory(key: KeyId, memory: &Memory) -> Step {
    let columns = MEMORY_COLUMNS.map(|column| format!("{column} = ?")).join(", ");
    let update = format!("update scheduler_idempotency_key set {columns} where id = ?");
    let mut values: Vec<Value> = memory_values(memory).into();
    values.push(Uuid::from_bytes(key.into_bytes()).into());
    Step::any(update, values)
}

/// Changes what is remembered of a key that has this job. Its window ends a millisecond later, so
/// that a transaction that replaces the row finds that it was changed.
pub(super) fn remember_key(key: KeyId, job: JobId, expires_ms: i64, memory: &Memory) -> Step {
    let columns = memory_columns();
    let update = format!(
        "update scheduler_idempotency_key set expires_ms = expires_ms + 1{columns} \
         where id = ? and job = ? and expires_ms = ?"
    );
    let mut values: Vec<Value> = memory_values(memory).into();
    let id = Uuid::from_bytes(key.into_bytes());
    values.extend([id.into(), job.uuid().into(), expires_ms.into()]);
    Step::one(update, values)
}
