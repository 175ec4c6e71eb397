//! The first schema: apps and their shards, instances, live jobs, idempotency keys, the
//! ingest ledger, dead letters with their outbox, and commands to the owners of shards.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager};
use sea_orm_migration::sea_orm::DatabaseBackend;

use crate::dialect;

/// The step's name is this module's.
#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [(&str, &str); 9] = [
    (
        "app",
        "create table if not exists app (
            id {auto32},
            name {name}(64) {binary} not null unique,
            shards integer not null,
            rules {text} not null,
            created_ms bigint not null
        ) {tail}",
    ),
    (
        "shard",
        "create table if not exists shard (
            id {auto32},
            app integer not null,
            number integer not null,
            owner bigint,
            epoch bigint not null default 0,
            unique (app, number)
        ) {tail}",
    ),
    (
        "instance",
        "create table if not exists instance (
            id bigint not null primary key,
            name {name}(255) not null,
            version {name}(64) not null,
            apps {text} not null,
            process {text},
            started_ms bigint not null,
            beat bigint not null,
            lease_until_us bigint not null,
            dead boolean not null
        ) {tail}",
    ),
    // SQLite keeps the rows themselves in firing order (without a rowid); the servers
    // have an index for it, so that the primary key can be the guard against a request twice.
    (
        "job",
        "create table if not exists job (
            id {uuid} not null,
            shard integer not null,
            priority smallint not null,
            due_ms bigint not null,
            request_id {name}(128) not null,
            scheduled_ms bigint not null,
            expires_ms bigint,
            created_ms bigint not null,
            attempts integer not null,
            max_attempts integer,
            timeout_ms bigint,
            data {text} not null,
            traceparent {text},
            tracestate {text},
            ledger integer,
            source_offset bigint,
            source_time_ms bigint,
            last_error {text},
            primary key {job_key}
        ) {rowid} {tail}",
    ),
    (
        "idempotency_key",
        "create table if not exists idempotency_key (
            id {uuid} not null primary key,
            app integer not null,
            name {name}(255) not null,
            job {uuid} not null,
            request_id {name}(128) not null,
            fingerprint {uuid} not null,
            scheduled_ms bigint not null,
            expires_ms bigint not null
        ) {rowid} {tail}",
    ),
    (
        "ingest_offset",
        "create table if not exists ingest_offset (
            id {auto32},
            cluster {name}(64) {binary} not null,
            consumer_group {name}(255) {binary} not null,
            topic {name}(249) {binary} not null,
            number integer not null,
            reader bigint not null,
            next_offset bigint not null,
            jobs bigint not null default 0,
            duplicates bigint not null default 0,
            operations bigint not null default 0,
            dead_letters bigint not null default 0,
            last_time_ms bigint,
            last_hash bigint,
            unique (cluster, consumer_group, topic, number)
        ) {tail}",
    ),
    (
        "dead_letter",
        "create table if not exists dead_letter (
            id {uuid} not null primary key,
            kind {name}(40) not null,
            message {text} not null,
            app {name}(64),
            request_id {name}(128),
            job {uuid},
            topic {name}(249),
            number integer,
            source_offset bigint,
            source_time_ms bigint,
            record_key {blob},
            record_value {blob},
            headers {text} not null,
            attempts integer not null,
            created_ms bigint not null
        ) {tail}",
    ),
    (
        "outbox",
        "create table if not exists outbox (
            id {auto64},
            lane bigint not null,
            letter {uuid} not null
        ) {tail}",
    ),
    (
        "command",
        "create table if not exists command (
            id {auto64},
            shard integer not null,
            kind {name}(16) not null,
            args {text} not null,
            state smallint not null,
            answer {text},
            created_ms bigint not null,
            deadline_ms bigint
        ) {tail}",
    ),
];

const INDEXES: [(&str, &str, &str); 3] = [
    ("job", "job_in_firing_order", "(shard, priority, due_ms, id)"),
    ("outbox", "outbox_by_lane", "(lane, id)"),
    ("command", "command_by_state", "(state, shard)"),
];

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let clustered = manager.get_database_backend() == DatabaseBackend::Sqlite;
        let job_key = if clustered { "(shard, priority, due_ms, id)" } else { "(id)" };
        for (_, table) in TABLES {
            dialect::run(manager, &[&table.replace("{job_key}", job_key)]).await?;
        }
        if clustered {
            let guard = "create unique index if not exists job_by_id on job (id)";
            dialect::run(manager, &[guard]).await?;
        }
        for (table, name, columns) in INDEXES {
            let is_the_key = clustered && table == "job";
            if !is_the_key && !manager.has_index(table, name).await? {
                dialect::run(manager, &[&format!("create index {name} on {table} {columns}")])
                    .await?;
            }
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, _) in TABLES.iter().rev() {
            dialect::run(manager, &[&format!("drop table if exists {table}")]).await?;
        }
        Ok(())
    }
}
