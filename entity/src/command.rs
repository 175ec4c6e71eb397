//! A command to the owner of a shard.

use sea_orm::entity::prelude::*;

/// A command to the owner of a shard.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_command")]
pub struct Model {
    /// The command.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The shard.
    pub shard: i32,
    /// The kind. `look`: another process inserted jobs with these ids into the shard.
    pub kind: String,
    /// Its arguments, as JSON.
    #[sea_orm(column_type = "Text")]
    pub args: String,
    /// 0 waiting, 1 done, 2 withdrawn.
    pub state: i16,
    /// Its result.
    #[sea_orm(column_type = "Text", nullable)]
    pub answer: Option<String>,
    /// When it was created.
    pub created_ms: i64,
    /// When the caller stops waiting.
    pub deadline_ms: Option<i64>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
