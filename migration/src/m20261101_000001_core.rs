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
        "scheduler_app",
        "create table if not exists scheduler_app (
            id {auto32},
            name {name}(64) {binary} not null unique,
            shards integer not null,
            rules {text} not null,
            created_ms bigint not null
        ) {tail}",
    ),
    (
        "scheduler_shard",
        "create table if not exists scheduler_shard (
            id {auto32},
            app integer not null,
            number integer not null,
            owner bigint,
            epoch bigint not null default 0,
            unique (app, number)
        ) {tail}",
    ),
    (
        "scheduler_instance",
        "create table if not exists scheduler_instance (
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
        "scheduler_job",
        "create table if not exists scheduler_job (
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
            letter {uuid},
            primary key {job_key}
        ) {rowid} {tail}",
    ),
    (
        "scheduler_idempotency_key",
        "create table if not exists scheduler_idempotency_key (
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
        "scheduler_ingest_offset",
        "create table if not exists scheduler_ingest_offset (
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
            instance bigint,
            records bigint not null default 0,
            parked bigint not null default 0,
            unique (cluster, consumer_group, topic, number)
        ) {tail}",
    ),
    (
        "scheduler_dead_letter",
        "create table if not exists scheduler_dead_letter (
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
            created_ms bigint not null,
            state smallint not null default 0,
            changed_ms bigint not null default 0,
            due_ms bigint,
            ledger integer,
            correction {blob},
            replays integer not null default 0,
            replay_of {uuid},
            max_attempts integer,
            timeout_ms bigint
        ) {tail}",
    ),
    (
        "scheduler_outbox",
        "create table if not exists scheduler_outbox (
            id {auto64},
            lane bigint not null,
            letter {uuid} not null,
            verdicts {text}
        ) {tail}",
    ),
    (
        "scheduler_command",
        "create table if not exists scheduler_command (
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

const INDEXES: [(&str, &str, &str); 6] = [
    (JOB, "scheduler_job_in_firing_order", "(shard, priority, due_ms, id)"),
    ("scheduler_dead_letter", "scheduler_dead_letter_by_time", "(created_ms, id)"),
    ("scheduler_dead_letter", "scheduler_dead_letter_by_request", "(request_id)"),
    ("scheduler_dead_letter", "scheduler_dead_letter_parked", "(state, ledger, due_ms)"),
    ("scheduler_outbox", "scheduler_outbox_by_lane", "(lane, id)"),
    ("scheduler_command", "scheduler_command_by_state", "(state, shard)"),
];

const JOB: &str = "scheduler_job";

impl Migration {
    /// The tables that this step creates.
    pub(crate) fn tables() -> impl Iterator<Item = &'static str> {
        TABLES.iter().map(|(name, _)| *name)
    }
}

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let clustered = manager.get_database_backend() == DatabaseBackend::Sqlite;
        let job_key = if clustered { "(shard, priority, due_ms, id)" } else { "(id)" };
        for (_, table) in TABLES {
            dialect::run(manager, &[&table.replace("{job_key}", job_key)]).await?;
        }
        if clustered {
            let guard =
                "create unique index if not exists scheduler_job_by_id on scheduler_job (id)";
            dialect::run(manager, &[guard]).await?;
        }
        for (table, name, columns) in INDEXES {
            let is_the_key = clustered && table == JOB;
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
