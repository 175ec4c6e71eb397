//! An action on every job that a filter selects.

use sea_orm::entity::prelude::*;

/// An action on every job that a filter selects.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_bulk")]
pub struct Model {
    /// The action's number.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    /// `cancel`, `reschedule`, `run` or `edit`.
    pub action: String,
    /// The new time, the shift or the fields, as a JSON object.
    #[sea_orm(column_type = "Text")]
    pub args: String,
    /// The filter, as a JSON object.
    #[sea_orm(column_type = "Text")]
    pub filter: String,
    /// Who asked for it.
    pub who: String,
    /// The way it was asked: `handle`, `cli` or `http`.
    pub source: String,
    /// Why.
    #[sea_orm(column_type = "Text", nullable)]
    pub reason: Option<String>,
    /// Jobs per second at most.
    pub rate: Option<i32>,
    /// The same key does not start a second one within a day.
    pub idempotency_key: Option<String>,
    /// 0 counting, 1 running, 2 stopping, 3 stopped, 4 finished.
    pub state: i16,
    /// Jobs that were found.
    pub matched: i64,
    /// Jobs that are as was asked.
    pub done: i64,
    /// Jobs that could not be changed.
    pub failed: i64,
    /// Jobs of those that were found of which it is known what became of them.
    pub treated: i64,
    /// Jobs of replayed letters that became letters again.
    pub failed_again: i64,
    /// Jobs or letters that were counted before it began, up to a limit; null before that.
    pub expected: Option<i64>,
    /// The place of the last job of the steps that are done.
    #[sea_orm(column_type = "Text", nullable)]
    pub place: Option<String>,
    /// The jobs that are being changed, as JSON.
    #[sea_orm(column_type = "Text", nullable)]
    pub step: Option<String>,
    /// The instance that carries it out.
    pub runner: Option<i64>,
    /// When it was asked for: jobs that came later do not match.
    pub created_ms: i64,
    /// When this row last changed, other than by the change of a job.
    pub changed_ms: i64,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
