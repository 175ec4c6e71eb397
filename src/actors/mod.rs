//! The actors of an instance, one file for each, in the order in which a record passes them.
//!
//! A record passes the reader, the key cache (`dedup`), the admission, the app scheduler, an
//! attempt and the outcomes. The shard keeper manages the lease and the shards, the supervisor
//! starts and restarts all other actors. Every actor can be restarted from the database and from
//! [`Instance`]. Messages are either notifications, which may be lost, or questions whose reply is
//! awaited.

mod messages;
mod instance;
mod settings;
mod child;
#[cfg(feature = "failpoints")]
mod failpoints;

mod app;
mod kafka_clients;
mod brokers;
mod counters;
mod lateness_figures;
mod crash_guard;
mod registry;
mod shard_access;
mod owned_shards;
mod in_flight;
mod changing;
mod database_clock;
mod job_memory;
mod permits;
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
mod progress;
mod target_gate;
mod watch_handlers;

mod janitor;

mod supervisor;
mod rebalance_listener;

pub(crate) use brokers::KAFKA;
pub use counters::{AppMetrics, IngestMetrics};
#[cfg(feature = "failpoints")]
pub(crate) use failpoints::Break;
pub(crate) use instance::Instance;
pub(crate) use messages::Drain;
pub(crate) use rebalance_listener::RebalanceListener;
pub(crate) use settings::Settings;
pub(crate) use supervisor::Supervisor;
pub(crate) use watch_handlers::watch_handlers;
