//! Who does the work: one file per actor, in the order of the flow.
//!
//! A record goes reader → (dedup) → store → app scheduler → attempt → outcomes; the shard
//! keeper stands beside the flow and the supervisor above it. Every actor can be rebuilt
//! from the database and from what is in [`Shared`]; messages are hints, or questions
//! whose answer is awaited.

mod messages;
mod shared;
mod watch;

mod counters;
mod directory;
mod holdings;
mod in_flight;
mod database_clock;
mod job_memory;
mod lease;
mod processes;
mod recovery;

mod admission;
mod reader;

mod dedup;
mod retry_dlq;

mod app_scheduler;
mod attempt;
mod outcomes;

mod shard_keeper;
mod shares;

mod janitor;

mod supervisor;

pub use admission::Submitted;
pub(crate) use admission::{Replay, Replayed, SubmitError, foresee_replay, replay, submit};
pub use counters::{AppMetrics, IngestMetrics};
pub(crate) use messages::Drain;
pub(crate) use shared::{DeadLetterSettings, KAFKA, Settings, Shared};
pub(crate) use supervisor::{Break, Gate, Supervisor};
