//! The migrations of the schema, in order.
//!
//! Steps are additive, so that the previous version keeps working while instances are replaced
//! one by one. A step never imports the current entities: it contains the schema of its time. The
//! migrator takes no lock: its caller must ensure that only one runs at a time.

use sea_orm_migration::prelude::{DynIden, IntoIden};
pub use sea_orm_migration::prelude::{MigrationTrait, MigratorTrait};

mod dialect;
mod m20261101_000001_core;

/// The table of applied steps.
pub const MIGRATION_TABLE: &str = "scheduler_migration";

/// Every step, oldest first.
#[derive(Debug)]
pub struct Migrator;

impl Migrator {
    /// The name of each step and the tables that it creates, oldest first.
    pub fn tables() -> Vec<(String, Vec<&'static str>)> {
        let name = |step: &dyn MigrationTrait| step.name().to_owned();
        vec![(
            name(&m20261101_000001_core::Migration),
            m20261101_000001_core::Migration::tables().collect(),
        )]
    }
}

#[sea_orm_migration::async_trait::async_trait]
impl MigratorTrait for Migrator {
    /// Not the migrator's default name: an embedding program may have migrations of its own in
    /// the same database.
    fn migration_table_name() -> DynIden {
        MIGRATION_TABLE.into_iden()
    }

    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261101_000001_core::Migration)]
    }
}
