//! Something that the owner of a shard is to do.

use sea_orm::entity::prelude::*;

/// Something that the owner of a shard is to do.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_command")]
pub struct Model {
    /// The command.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// Whose owner it is for.
    pub shard: i32,
    /// `look`: these ids were put into your shard by somebody else.
    pub kind: String,
    /// What it needs, as JSON.
    #[sea_orm(column_type = "Text")]
    pub args: String,
    /// 0 waiting, 1 done, 2 withdrawn.
    pub state: i16,
    /// What came of it.
    #[sea_orm(column_type = "Text", nullable)]
    pub answer: Option<String>,
    /// When it was given.
    pub created_ms: i64,
    /// When the caller stops waiting.
    pub deadline_ms: Option<i64>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
