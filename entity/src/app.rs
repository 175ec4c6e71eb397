//! One app that was ever registered, with the rules that every instance checks.

use sea_orm::entity::prelude::*;

/// One app that was ever registered, with the rules that every instance checks.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_app")]
pub struct Model {
    /// The app.
    #[sea_orm(primary_key)]
    pub id: i32,
    /// Its name, unique.
    pub name: String,
    /// The number of its shards; never lowered.
    pub shards: i32,
    /// The number of its shards when it was first registered: concurrency keys are spread over
    /// these, so that a key keeps its shard when there are more.
    pub first_shards: i32,
    /// The required fields and the schema of `jobData`, as JSON.
    #[sea_orm(column_type = "Text")]
    pub rules: String,
    /// When it was first registered.
    pub created_ms: i64,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
