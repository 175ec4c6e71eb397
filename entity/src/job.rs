//! One live job, the tombstone of one that was cancelled, or a name of which operations came before
//! its job. A job that has ended otherwise is no longer here.

use sea_orm::entity::prelude::*;

/// One live job, or the tombstone of one that was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_job")]
pub struct Model {
    /// Derived from app and request id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Its shard, which never changes.
    pub shard: i32,
    /// 0 high, 1 normal, 2 low; 3 the tombstone of a cancelled job, or an awaited name.
    pub priority: i16,
    /// When the next attempt is to start; of a tombstone when it may be removed.
    pub due_ms: i64,
    /// The request id.
    pub request_id: String,
    /// When it is scheduled to fire.
    pub scheduled_ms: i64,
    /// The job is not fired after this.
    pub expires_ms: Option<i64>,
    /// How long after `scheduled_ms` it may fire.
    pub flexible_ms: Option<i64>,
    /// Jobs of one app with the same key are in one shard.
    pub concurrency_key: Option<String>,
    /// When it was admitted.
    pub created_ms: i64,
    /// The number of attempts that have ended.
    pub attempts: i32,
    /// Overrides the app's limit of attempts.
    pub max_attempts: Option<i32>,
    /// Overrides the app's time limit of an attempt.
    pub timeout_ms: Option<i64>,
    /// `jobData` as it was sent, a JSON object.
    #[sea_orm(column_type = "Text")]
    pub data: String,
    /// The `traceparent` of the request.
    #[sea_orm(column_type = "Text", nullable)]
    pub traceparent: Option<String>,
    /// The `tracestate` of the request.
    #[sea_orm(column_type = "Text", nullable)]
    pub tracestate: Option<String>,
    /// The row of `ingest_offset` of its record's partition.
    pub ledger: Option<i32>,
    /// Its record's offset there.
    pub source_offset: Option<i64>,
    /// Its record's own time.
    pub source_time_ms: Option<i64>,
    /// The error of the last failed attempt.
    #[sea_orm(column_type = "Text", nullable)]
    pub last_error: Option<String>,
    /// The dead letter that it is a replay of.
    pub letter: Option<Uuid>,
    /// The version of its schedule.
    pub version: Option<i64>,
    /// The number of changes that people or programs made to it.
    pub revision: i32,
    /// When it was last rescheduled or started by hand.
    pub moved_ms: Option<i64>,
    /// The hash of the `jobData` that was requested, if another one has replaced it.
    pub original: Option<Uuid>,
    /// When it was cancelled.
    pub cancelled_ms: Option<i64>,
    /// Who cancelled it.
    pub cancelled_by: Option<String>,
    /// The highest version of the cancellations of its names.
    pub cancel_version: Option<i64>,
    /// The highest version of the reschedules of its names.
    pub move_version: Option<i64>,
    /// The time that this reschedule set.
    pub move_ms: Option<i64>,
    /// Flags: 1 a cancellation without a version waits for the schedule, 2 the reschedule named the
    /// job by an idempotency key.
    pub awaited: Option<i16>,
    /// When the attempt started that runs for a second or more.
    pub started_ms: Option<i64>,
    /// The instance that runs that attempt.
    pub started_by: Option<i64>,
    /// The attempts that ended with their instances, as a JSON array.
    #[sea_orm(column_type = "Text", nullable)]
    pub interruptions: Option<String>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
