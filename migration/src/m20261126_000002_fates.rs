//! What explains and mends: dead letters with a state, records that are parked, verdicts in
//! the outbox, and who reads a partition.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

/// The step's name is this module's.
#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

/// Table, column, definition. Each has a default or is nullable: the version before inserts
/// rows without them.
const COLUMNS: [(&str, &str, &str); 14] = [
    ("job", "letter", "{uuid}"),
    ("ingest_offset", "instance", "bigint"),
    ("ingest_offset", "records", "bigint not null default 0"),
    ("ingest_offset", "parked", "bigint not null default 0"),
    ("dead_letter", "state", "smallint not null default 0"),
    ("dead_letter", "changed_ms", "bigint not null default 0"),
    ("dead_letter", "due_ms", "bigint"),
    ("dead_letter", "ledger", "integer"),
    ("dead_letter", "correction", "{blob}"),
    ("dead_letter", "replays", "integer not null default 0"),
    ("dead_letter", "replay_of", "{uuid}"),
    ("dead_letter", "max_attempts", "integer"),
    ("dead_letter", "timeout_ms", "bigint"),
    ("outbox", "verdicts", "{text}"),
];

const INDEXES: [(&str, &str, &str); 3] = [
    ("dead_letter", "dead_letter_by_time", "(created_ms, id)"),
    ("dead_letter", "dead_letter_by_request", "(request_id)"),
    ("dead_letter", "dead_letter_parked", "(state, ledger, due_ms)"),
];

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column, definition) in COLUMNS {
            if !manager.has_column(table, column).await? {
                let add = format!("alter table {table} add column {column} {definition}");
                dialect::run(manager, &[&add]).await?;
            }
        }
        for (table, name, columns) in INDEXES {
            if !manager.has_index(table, name).await? {
                dialect::run(manager, &[&format!("create index {name} on {table} {columns}")])
                    .await?;
            }
        }
        let fill = [
            "update ingest_offset set records = jobs + duplicates + operations + dead_letters \
             where records = 0",
            "update dead_letter set changed_ms = created_ms where changed_ms = 0",
        ];
        dialect::run(manager, &fill).await
    }

    /// The step before takes the tables themselves away.
    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}
