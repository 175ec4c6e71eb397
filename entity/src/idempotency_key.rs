//! One idempotency key within its window.

use sea_orm::entity::prelude::*;

/// One idempotency key within its window.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_idempotency_key")]
pub struct Model {
    /// Derived from app and key.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The app.
    pub app: i32,
    /// The key as in the request.
    pub name: String,
    /// The job; nil if operations came before it.
    pub job: Uuid,
    /// The first request with this key.
    pub request_id: String,
    /// A hash of that request's `jobData`, compared as JSON.
    pub fingerprint: Uuid,
    /// When that request was to fire.
    pub scheduled_ms: i64,
    /// The end of the window, unless its job lives longer.
    pub expires_ms: i64,
    /// The highest version of the cancellations that named the key.
    pub cancel_version: Option<i64>,
    /// The highest version of the reschedules that named it.
    pub move_version: Option<i64>,
    /// The time that this reschedule set.
    pub move_ms: Option<i64>,
    /// Flags, as those of a job.
    pub awaited: Option<i16>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
