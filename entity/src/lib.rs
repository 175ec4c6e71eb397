//! The rows of the current schema, one module per table.
//!
//! Instants are epoch milliseconds in columns that end in `_ms`. Ids of jobs, keys and
//! dead letters are UUIDs (binary on MariaDB, MySQL and SQLite).

pub mod app;
pub mod audit;
pub mod bulk;
pub mod command;
pub mod dead_letter;
pub mod idempotency_key;
pub mod ingest_group;
pub mod ingest_offset;
pub mod instance;
pub mod job;
pub mod job_history;
pub mod outbox;
pub mod shard;
