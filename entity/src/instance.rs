//! One start of an instance.

use sea_orm::entity::prelude::*;

/// One start of an instance.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scheduler_instance")]
pub struct Model {
    /// The instance.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    /// Its name for logs and status pages.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// The version of its IANA time zone database.
    pub time_zones: String,
    /// The ids of the apps that it registers, as a JSON array.
    #[sea_orm(column_type = "Text")]
    pub apps: String,
    /// Its process as a JSON object: boot id, inode of the PID namespace, process id and start
    /// time; null where the kernel does not provide these.
    #[sea_orm(column_type = "Text", nullable)]
    pub process: Option<String>,
    /// When it started, by its own clock.
    pub started_ms: i64,
    /// Grows with each heartbeat.
    pub beat: i64,
    /// The end of its lease, until which it may fire and write: epoch microseconds by the
    /// database's clock.
    pub lease_until_us: i64,
    /// Whether it was declared dead; its shards may be taken then.
    pub dead: bool,
    /// Since when it is to own nothing; none unless somebody drains it.
    pub drain_ms: Option<i64>,
    /// How many attempts of each app start, and how many met its objective, as JSON.
    #[sea_orm(column_type = "Text", nullable)]
    pub pace: Option<String>,
}

/// Nothing is joined through the entity.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
