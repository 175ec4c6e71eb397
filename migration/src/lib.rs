//! How the tables came to be, one step after another.
//!
//! Steps are additive, so that the previous version keeps running beside the new one
//! while instances are replaced. A step never imports today's entities: it says what the
//! schema was then. The migrator takes no lock of its own: whoever runs it guards it.

use sea_orm_migration::prelude::{DynIden, IntoIden};
pub use sea_orm_migration::prelude::{MigrationTrait, MigratorTrait};

mod dialect;
mod m20261101_000001_core;

/// The record of the steps that were applied.
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
    /// Not the migrator's default name: the database may be that of a program which has
    /// migrations of its own.
    fn migration_table_name() -> DynIden {
        MIGRATION_TABLE.into_iden()
    }

    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261101_000001_core::Migration)]
    }
}
