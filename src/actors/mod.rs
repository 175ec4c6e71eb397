//! Who does the work: one file per actor, in the order of the flow.
//!
//! A record goes reader → (dedup) → store → app scheduler → attempt → outcomes; the shard
//! keeper stands beside the flow and the supervisor above it. Every actor can be rebuilt
//! from the database and from what is in [`Instance`]; messages are hints, or questions
//! whose answer is awaited.

mod messages;
mod instance;
mod settings;
mod child;

mod app;
mod kafka_side;
mod brokers;
mod counters;
mod registry;
mod shard_access;
mod owned_shards;
mod in_flight;
mod changing;
mod database_clock;
mod job_memory;
mod lease;
mod processes;

mod reader;

mod dedup;
mod retry_dlq;

mod app_scheduler;
mod attempt;
mod outcomes;
mod change_work;

mod shard_keeper;
mod shares;

mod janitor;

mod supervisor;
mod rebalance_listener;

pub(crate) use brokers::KAFKA;
pub use counters::{AppMetrics, IngestMetrics};
pub(crate) use instance::Instance;
pub(crate) use messages::Drain;
pub(crate) use rebalance_listener::RebalanceListener;
pub(crate) use settings::Settings;
pub(crate) use supervisor::{Break, Supervisor};
