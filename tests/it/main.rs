//! The integration tests: one binary, one module per capability.
//!
//! `tests/run` starts Kafka, MariaDB, MySQL, PostgreSQL and Redis and runs them; `support` has what they share.

// Futures of tests contain those of several clients, one within the other.
#![recursion_limit = "256"]

mod layers;
mod models;
mod support;

mod fences;
mod writers;
mod keys;
mod names;
mod dead_letters;
mod fleet_memory;
mod main_job;
mod outages;
mod parked;
mod replay;
mod restarts;
mod drains;
mod clocks;
mod many_apps;
mod verdicts;
mod bad_input;
mod bulk;
mod dlq_topic;
mod positions;
mod ingest;
mod operations;
mod job_operations;
mod by_name;
mod audit;
mod pause;
mod history;
mod instances_ops;
mod job_lists;
mod cli_output;
mod memory;
mod lost_answers;
mod marks;
mod split_batches;
mod panics;
mod schema;
mod targets;
mod limits;
mod handle;
mod http;
mod serve;
mod mysql;
mod secured;
mod instances;
mod group;
mod reading;
mod takeovers;
mod unknown;
mod snapshots;
mod crashes;
mod crash_guard;
mod at_most_once;
mod chaos;
