//! The integration tests: one binary, one module per capability.
//!
//! `tests/run` starts Kafka, MariaDB and PostgreSQL and runs them; `support` has what they share.

mod layers;
mod models;
mod support;

mod fences;
mod keys;
mod main_job;
mod outages;
mod bad_input;
mod positions;
mod ingest;
mod lost_answers;
mod panics;
mod schema;
mod handle;
mod serve;
mod instances;
mod crashes;
mod chaos;
