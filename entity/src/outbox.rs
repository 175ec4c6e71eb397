//! What is still to be published, in order within its lane.

use sea_orm::entity::prelude::*;

/// What is still to be published, in order within its lane.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_outbox")]
pub struct Model {
    /// Its place in the lane.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The partition's ledger row, or 2^32 + the shard, whose holder publishes it.
    pub lane: i64,
    /// The dead letter to publish; of verdicts the nil UUID.
    pub letter: Uuid,
    /// Verdicts to publish, a JSON array of pairs: key and event.
    #[sea_orm(column_type = "Text", nullable)]
    pub verdicts: Option<String>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
