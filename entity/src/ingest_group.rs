//! A consumer group whose ingest was once paused.

use sea_orm::entity::prelude::*;

/// A consumer group whose ingest was once paused.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_ingest_group")]
pub struct Model {
    /// The row.
    #[sea_orm(primary_key)]
    pub id: i32,
    /// The consumer group, unique.
    pub consumer_group: String,
    /// Since when its readers take nothing; none while it is not paused.
    pub paused_ms: Option<i64>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// Why it is paused.
    #[sea_orm(column_type = "Text", nullable)]
    pub pause_reason: Option<String>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
