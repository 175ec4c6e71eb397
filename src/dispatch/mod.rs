//! Dispatch of fired jobs: the handler trait that users implement, and the handlers that come
//! with the system.
//!
//! The callers of a handler decide when an attempt starts, how long it may take and what follows
//! from its result; this module retries and stores nothing.

mod handler;
mod context;
mod typed;
mod body;
mod failure;
mod shared;
mod notes;
mod kafka;
mod http;
mod redis;
mod log;
mod discard;
mod targets;

pub(crate) use body::FiredJob;
pub use context::JobContext;
pub use discard::Discard;
pub(crate) use failure::{About, Failure};
pub use handler::{JobError, JobHandler, Rejection};
pub use http::HttpTarget;
pub(crate) use http::SecretSource;
pub use kafka::KafkaTarget;
pub use log::LogDispatch;
pub(crate) use notes::TargetNotes;
pub(crate) use redis::RedisCommand;
pub use redis::RedisTarget;
pub(crate) use shared::{DynJobHandler, SharedHandler, Target};
pub use targets::Dispatch;
pub(crate) use targets::Producers;
pub use typed::{Typed, TypedHandler, handler_fn};
