//! The first schema: apps and their shards, instances, live jobs and the history of ended ones,
//! idempotency keys, the ingest ledger, dead letters with their outbox, commands to the owners of
//! shards, the audit, and bulk actions.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager};
use sea_orm_migration::sea_orm::DatabaseBackend;

use crate::dialect;

/// The step's name is this module's.
#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [(&str, &str); 13] = [
    (
        "scheduler_app",
        "create table if not exists scheduler_app (
            id {auto32},
            name {name}(64) {binary} not null unique,
            shards integer not null,
            first_shards integer not null,
            rules {text} not null,
            created_ms bigint not null,
            paused_ms bigint,
            paused_by {name}(255),
            pause_reason {text},
            refuse_requests boolean not null default false,
            rate_ns bigint not null default 0,
            overrides {text},
            overridden_ms bigint,
            overridden_by {name}(255),
            deleted_ms bigint
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
            time_zones {name}(16) not null,
            apps {text} not null,
            process {text},
            started_ms bigint not null,
            beat bigint not null,
            lease_until_us bigint not null,
            dead boolean not null,
            drain_ms bigint,
            pace {text}
        ) {tail}",
    ),
    // On databases that store rows in the order of the primary key, that is the order of firing:
    // rows that are written, read and deleted together are stored together, also in a table
    // larger than memory. A unique index guards against duplicate requests there.
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
            flexible_ms bigint,
            concurrency_key {name}(255),
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
            version bigint,
            revision integer not null default 0,
            moved_ms bigint,
            original {uuid},
            cancelled_ms bigint,
            cancelled_by {name}(255),
            cancel_version bigint,
            move_version bigint,
            move_ms bigint,
            awaited smallint,
            started_ms bigint,
            started_by bigint,
            interruptions {text},
            primary key {job_key}
        ) {rowid} {tail}",
    ),
    // One row for each attempt that counts, and for a job that was cancelled before one. What is
    // written twice has the same job, admission, attempt and state.
    (
        "scheduler_job_history",
        "create table if not exists scheduler_job_history (
            id {uuid} not null,
            created_ms bigint not null,
            attempt integer not null,
            state smallint not null,
            app integer not null,
            request_id {name}(128) not null,
            scheduled_ms bigint not null,
            due_ms bigint not null,
            started_ms bigint,
            ended_ms bigint not null,
            lateness_ms bigint,
            kind {name}(40),
            error {text},
            instance {name}(255),
            cancelled_by {name}(255),
            priority smallint not null,
            max_attempts integer,
            timeout_ms bigint,
            data {text},
            ledger integer,
            source_offset bigint,
            primary key {history_key}
        ) {rowid} {tail}",
    ),
    (
        "scheduler_idempotency_key",
        "create table if not exists scheduler_idempotency_key (
            id {uuid} not null,
            app integer not null,
            name {name}(255) not null,
            job {uuid} not null,
            request_id {name}(128) not null,
            fingerprint {uuid} not null,
            scheduled_ms bigint not null,
            expires_ms bigint not null,
            primary key {key_key}
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
            timeout_ms bigint,
            expires_ms bigint,
            flexible_ms bigint,
            concurrency_key {name}(255),
            bulk bigint
        ) {tail}",
    ),
    (
        "scheduler_outbox",
        "create table if not exists scheduler_outbox (
            id {auto64},
            ordering_key bigint not null,
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
    (
        "scheduler_ingest_group",
        "create table if not exists scheduler_ingest_group (
            id {auto32},
            consumer_group {name}(255) {binary} not null unique,
            paused_ms bigint,
            paused_by {name}(255),
            pause_reason {text}
        ) {tail}",
    ),
    (
        "scheduler_audit",
        "create table if not exists scheduler_audit (
            id {auto64},
            at_ms bigint not null,
            who {name}(255) not null,
            source {name}(16) not null,
            action {name}(40) not null,
            app {name}(64),
            subject {name}(255) not null,
            reason {text},
            details {text} not null,
            count bigint not null
        ) {tail}",
    ),
    (
        "scheduler_bulk",
        "create table if not exists scheduler_bulk (
            id bigint not null primary key,
            action {name}(16) not null,
            args {text} not null,
            filter {text} not null,
            who {name}(255) not null,
            source {name}(16) not null,
            reason {text},
            rate integer,
            idempotency_key {name}(255) {binary} unique,
            state smallint not null,
            matched bigint not null,
            done bigint not null,
            failed bigint not null,
            treated bigint not null,
            failed_again bigint not null default 0,
            expected bigint,
            place {text},
            step {text},
            runner bigint,
            created_ms bigint not null,
            changed_ms bigint not null
        ) {tail}",
    ),
];

/// Table, name and columns of an index that every database has.
const INDEXES: [(&str, &str, &str); 9] = [
    ("scheduler_dead_letter", "scheduler_dead_letter_by_time", "(created_ms, id)"),
    ("scheduler_dead_letter", "scheduler_dead_letter_by_request", "(request_id)"),
    ("scheduler_dead_letter", "scheduler_dead_letter_parked", "(state, ledger, due_ms)"),
    ("scheduler_outbox", "scheduler_outbox_by_ordering_key", "(ordering_key, id)"),
    ("scheduler_command", "scheduler_command_by_state", "(state, shard)"),
    ("scheduler_audit", "scheduler_audit_by_time", "(at_ms, id)"),
    ("scheduler_audit", "scheduler_audit_by_subject", "(subject)"),
    ("scheduler_bulk", "scheduler_bulk_by_time", "(created_ms, id)"),
    ("scheduler_bulk", "scheduler_bulk_by_state", "(state)"),
];

/// How a database stores the large tables.
struct Layout {
    job_key: &'static str,
    key_key: &'static str,
    history_key: &'static str,
    /// Table, kind, name and columns of further indexes.
    indexes: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

const FIRING_ORDER: &str = "(shard, priority, due_ms, id)";
const ATTEMPT: &str = "(id, created_ms, attempt, state)";
/// New rows are added at the end of an app's list of each state, and expired ones are at its start.
/// Lists of jobs that ended in a state are read from its end.
const ENDING_ORDER: &str = "(app, state, ended_ms, id, created_ms, attempt)";
const JOB_BY_ID: (&str, &str, &str, &str) = (JOB, "unique index", "scheduler_job_by_id", "(id)");
const HISTORY_BY_ATTEMPT: (&str, &str, &str, &str) =
    (HISTORY, "unique index", "scheduler_job_history_by_attempt", ATTEMPT);

/// PostgreSQL stores rows in no order. The index of the firing order contains the id as bytes,
/// which sort as it does: an index with the id itself would be used to find rows by id, by a full
/// scan in each statement, when the statistics say that the table is empty.
const HEAP: Layout = Layout {
    job_key: "(id)",
    key_key: "(id)",
    history_key: ATTEMPT,
    indexes: &[
        (JOB, "index", "scheduler_job_in_firing_order", "(shard, priority, due_ms, uuid_send(id))"),
        (HISTORY, "index", "scheduler_job_history_in_ending_order", "(app, state, ended_ms)"),
    ],
};

/// Keys in the order of the ends of their windows: new ones are added at the end of the table,
/// and expired ones are at its start.
const CLUSTERED: Layout = Layout {
    job_key: FIRING_ORDER,
    key_key: "(expires_ms, id)",
    history_key: ENDING_ORDER,
    indexes: &[
        JOB_BY_ID,
        HISTORY_BY_ATTEMPT,
        (KEY, "unique index", "scheduler_idempotency_key_by_id", "(id)"),
    ],
};

/// SQLite has one writer, for which an entry in a second tree per key costs more than it saves.
const FILE: Layout = Layout {
    job_key: FIRING_ORDER,
    key_key: "(id)",
    history_key: ENDING_ORDER,
    indexes: &[JOB_BY_ID, HISTORY_BY_ATTEMPT],
};

const KEY: &str = "scheduler_idempotency_key";
const JOB: &str = "scheduler_job";
const HISTORY: &str = "scheduler_job_history";

impl Migration {
    /// The tables that this step creates.
    pub(crate) fn tables() -> impl Iterator<Item = &'static str> {
        TABLES.iter().map(|(name, _)| *name)
    }
}

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let layout = match manager.get_database_backend() {
            DatabaseBackend::MySql => CLUSTERED,
            DatabaseBackend::Sqlite => FILE,
            _ => HEAP,
        };
        for (_, table) in TABLES {
            let table = table.replace("{job_key}", layout.job_key);
            let table = table.replace("{key_key}", layout.key_key);
            dialect::run(manager, &[&table.replace("{history_key}", layout.history_key)]).await?;
        }
        let common = INDEXES.map(|(table, name, columns)| (table, "index", name, columns));
        for (table, kind, name, columns) in common.iter().chain(layout.indexes) {
            if !manager.has_index(table, name).await? {
                dialect::run(manager, &[&format!("create {kind} {name} on {table} {columns}")])
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
