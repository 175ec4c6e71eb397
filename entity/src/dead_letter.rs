//! A record that could not become a job or not yet, or a job that failed for good.

use sea_orm::entity::prelude::*;

/// A record that could not become a job, or a job that failed for good.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_dead_letter")]
pub struct Model {
    /// Derived from the record or the job.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The error kind.
    pub kind: String,
    /// The error message.
    #[sea_orm(column_type = "Text")]
    pub message: String,
    /// The app, where known.
    pub app: Option<String>,
    /// The request id, where known.
    pub request_id: Option<String>,
    /// The job, if it had become one.
    pub job: Option<Uuid>,
    /// The topic of its record.
    pub topic: Option<String>,
    /// The partition of its record.
    pub number: Option<i32>,
    /// The offset of its record.
    pub source_offset: Option<i64>,
    /// Its record's own time.
    pub source_time_ms: Option<i64>,
    /// The record key, unchanged.
    #[sea_orm(column_type = "Blob", nullable)]
    pub record_key: Option<Vec<u8>>,
    /// The value, unchanged; of a job the body that it was fired with.
    #[sea_orm(column_type = "Blob", nullable)]
    pub record_value: Option<Vec<u8>>,
    /// The record's headers, as JSON.
    #[sea_orm(column_type = "Text")]
    pub headers: String,
    /// The number of attempts.
    pub attempts: i32,
    /// When it became a dead letter, or was parked.
    pub created_ms: i64,
    /// 0 dead, 1 parked (to be retried), 2 replayed, 3 discarded.
    pub state: i16,
    /// When it got that state, or was corrected.
    pub changed_ms: i64,
    /// When a parked record is retried.
    pub due_ms: Option<i64>,
    /// The ledger row of its record's partition.
    pub ledger: Option<i32>,
    /// The corrected value, for a replay.
    #[sea_orm(column_type = "Blob", nullable)]
    pub correction: Option<Vec<u8>>,
    /// The number of consecutive replays that led to it.
    pub replays: i32,
    /// The dead letter whose replay failed and became this one.
    pub replay_of: Option<Uuid>,
    /// Its job's `max_attempts`, if the request had one.
    pub max_attempts: Option<i32>,
    /// Its job's `timeout_ms`, if the request had one.
    pub timeout_ms: Option<i64>,
    /// Its job's `expires_ms`, unless it died of it.
    pub expires_ms: Option<i64>,
    /// Its job's `flexible_ms`, if the request had one.
    pub flexible_ms: Option<i64>,
    /// Its job's `concurrency_key`, if the request had one.
    pub concurrency_key: Option<String>,
    /// The bulk action that replayed it.
    pub bulk: Option<i64>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
