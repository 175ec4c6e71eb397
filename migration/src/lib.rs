//! How the tables came to be, one step after another.
//!
//! Steps are additive, so that the previous version keeps running beside the new one
//! while instances are replaced. A step never imports today's entities: it says what the
//! schema was then. The migrator takes no lock of its own: whoever runs it guards it.

pub use sea_orm_migration::prelude::{MigrationTrait, MigratorTrait};

mod dialect;
mod m20261101_000001_core;
mod m20261126_000002_fates;

/// Every step, oldest first.
#[derive(Debug)]
pub struct Migrator;

#[sea_orm_migration::async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261101_000001_core::Migration),
            Box::new(m20261126_000002_fates::Migration),
        ]
    }
}
