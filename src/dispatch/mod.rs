//! Where fired jobs go: the handler trait that users implement, and the forms of it that
//! come with the system.
//!
//! When an attempt starts, how long it may take and what its answer leads to is the
//! business of those who call a handler; here nothing is retried, timed or remembered.

mod handler;
mod context;
mod typed;
mod body;
mod kafka;
mod log;
mod discard;

pub use body::FiredJob;
pub use context::JobContext;
pub use discard::Discard;
pub use handler::{DynJobHandler, JobError, JobHandler, Rejection, SharedHandler};
pub use kafka::KafkaDispatch;
pub use log::LogDispatch;
pub use typed::{Typed, TypedHandler, handler_fn};
