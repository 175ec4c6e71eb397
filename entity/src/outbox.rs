//! Dead letters and verdicts to be published, in order within each ordering key.

use sea_orm::entity::prelude::*;

/// Dead letters and verdicts to be published, in order within each ordering key.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_outbox")]
pub struct Model {
    /// Its number, which orders the rows with the same ordering key.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The ledger row of a partition, or 2^32 + a shard. The reader of that partition or the owner of
    /// that shard publishes its rows in order.
    pub ordering_key: i64,
    /// The dead letter to publish; the nil UUID for verdicts.
    pub letter: Uuid,
    /// Verdicts to publish, a JSON array of pairs: key and event.
    #[sea_orm(column_type = "Text", nullable)]
    pub verdicts: Option<String>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
