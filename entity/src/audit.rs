//! One change that a person or a program asked for, other than by the ingest.

use sea_orm::entity::prelude::*;

/// One change that a person or a program asked for, other than by the ingest.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_audit")]
pub struct Model {
    /// The row.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// When.
    pub at_ms: i64,
    /// Who asked for it.
    pub who: String,
    /// The way it was asked: `handle`, `cli`, `http` or `kafka`.
    pub source: String,
    /// What was done, as in `app.pause`.
    pub action: String,
    /// The app that it concerns, if it is one.
    pub app: Option<String>,
    /// What it was done to: the id of a job or letter, an app, an instance, a partition.
    pub subject: String,
    /// Why.
    #[sea_orm(column_type = "Text", nullable)]
    pub reason: Option<String>,
    /// The particulars, as a JSON object.
    #[sea_orm(column_type = "Text")]
    pub details: String,
    /// How many rows it changed.
    pub count: i64,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
