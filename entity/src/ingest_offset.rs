//! The ledger: the position of one partition, and how many of its records had which result.

use sea_orm::entity::prelude::*;

/// The ledger: the position of one partition, and how many of its records had which result.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_ingest_offset")]
pub struct Model {
    /// The ledger row.
    #[sea_orm(primary_key)]
    pub id: i32,
    /// The Kafka cluster's id.
    pub cluster: String,
    /// The consumer group.
    pub consumer_group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub number: i32,
    /// The token of the reader that has claimed it.
    pub reader: i64,
    /// The offset of the next record to be admitted.
    pub next_offset: i64,
    /// Records that became jobs.
    pub jobs: i64,
    /// Records that were duplicates.
    pub duplicates: i64,
    /// Records that were applied as operations.
    pub operations: i64,
    /// Records that are dead letters.
    pub dead_letters: i64,
    /// The time of the last record below `next_offset`.
    pub last_time_ms: Option<i64>,
    /// A hash of that record, to detect a recreated topic.
    pub last_hash: Option<i64>,
    /// The instance whose reader has claimed it, or had it last.
    pub instance: Option<i64>,
    /// Records that were read: jobs, duplicates, operations, dead letters and those parked.
    pub records: i64,
    /// Parked records, which are kept in `dead_letter` until they are retried.
    pub parked: i64,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
