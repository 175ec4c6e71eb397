//! One attempt that has ended, or a job that was cancelled before one started.

use sea_orm::entity::prelude::*;

/// One attempt that has ended, or a job that was cancelled before one started.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_job_history")]
pub struct Model {
    /// The job.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// When the job was admitted.
    #[sea_orm(primary_key, auto_increment = false)]
    pub created_ms: i64,
    /// The number of the attempt; of a job that was cancelled or expired while it waited, how many
    /// had ended.
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: i32,
    /// 0 to be retried, 1 succeeded, 2 dead, 3 cancelled.
    #[sea_orm(primary_key, auto_increment = false)]
    pub state: i16,
    /// The job's app.
    pub app: i32,
    /// The request id.
    pub request_id: String,
    /// When the job was scheduled to fire.
    pub scheduled_ms: i64,
    /// When the attempt was due.
    pub due_ms: i64,
    /// When the attempt started, if one did.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub ended_ms: i64,
    /// How long after it could have started it did.
    pub lateness_ms: Option<i64>,
    /// Of a job that failed for good, the error kind.
    pub kind: Option<String>,
    /// The error.
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
    /// The name of the instance on which it ran.
    pub instance: Option<String>,
    /// Who cancelled the job.
    pub cancelled_by: Option<String>,
    /// 0 high, 1 normal, 2 low.
    pub priority: i16,
    /// The job's own limit of attempts.
    pub max_attempts: Option<i32>,
    /// The job's own time limit of an attempt.
    pub timeout_ms: Option<i64>,
    /// `jobData` as it was sent; null of an attempt that was not the last.
    #[sea_orm(column_type = "Text", nullable)]
    pub data: Option<String>,
    /// The row of `ingest_offset` of its record's partition.
    pub ledger: Option<i32>,
    /// Its record's offset there.
    pub source_offset: Option<i64>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
