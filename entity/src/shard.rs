//! One shard of an app: a part of its jobs with one owner at a time.

use sea_orm::entity::prelude::*;

/// One shard of an app: a part of its jobs with one owner at a time.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_shard")]
pub struct Model {
    /// The shard.
    #[sea_orm(primary_key)]
    pub id: i32,
    /// The app of its jobs.
    pub app: i32,
    /// Its number among the shards of the app, from 0.
    pub number: i32,
    /// The instance that fires, changes and deletes its jobs; none when released.
    pub owner: Option<i64>,
    /// Grows each time that its owner changes; a write under an older epoch changes nothing.
    pub epoch: i64,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
