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
    /// Since when its jobs are not fired; none while it is not paused.
    pub paused_ms: Option<i64>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// Why it is paused.
    #[sea_orm(column_type = "Text", nullable)]
    pub pause_reason: Option<String>,
    /// Whether its requests are refused while it is paused.
    pub refuse_requests: bool,
    /// The nominal time of the next attempt by the app's rate, epoch nanoseconds. Instances buy
    /// starts by moving it on.
    pub rate_ns: i64,
    /// The limits that win over those of the configuration, as JSON.
    #[sea_orm(column_type = "Text", nullable)]
    pub overrides: Option<String>,
    /// When they were last changed.
    pub overridden_ms: Option<i64>,
    /// By whom.
    pub overridden_by: Option<String>,
    /// Since when it is retired; none unless somebody deleted it. Its row and shards stay, so that
    /// no job can be in a shard that does not exist.
    pub deleted_ms: Option<i64>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
