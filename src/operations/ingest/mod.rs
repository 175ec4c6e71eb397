//! The ingest: how far each partition has been read, and from which offset it is read on.
//!
//! The database is queried directly, so that it does not matter whether an instance runs. Kafka is
//! queried by a client that joins no group.

mod plan;
mod positions;
mod seek;
mod pause;

use std::sync::Arc;

use super::context::Context;

pub use pause::{IngestChange, IngestResult};
pub use plan::PartitionMove;
pub use positions::{PartitionPosition, Positions};
pub use seek::{Seek, SeekAnswer, SeekTo};

/// How far the ingest topics have been read, and from which offset they are read on.
#[derive(Clone, Copy, Debug)]
pub struct Ingest<'a> {
    context: &'a Arc<Context>,
}

impl<'a> Ingest<'a> {
    pub(super) fn new(context: &'a Arc<Context>) -> Self {
        Self { context }
    }
}
