//! The state of each job that the window knows, by id.

use super::id_map::IdMap;
use super::outstanding::ReadId;
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Priority;

/// The order of rows in a list: by due time, ties by id.
pub(super) type Key = (i64, JobId);

/// The ids that are in a list or in flight, never both.
pub(super) type Places = IdMap<Place>;

/// The state of one job.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the list of this shard and priority, at this due time.
    Listed { shard: ShardId, priority: Priority, due_ms: i64 },
    /// Taken by the caller, without an outcome yet.
    InFlight(Flight),
}

/// A job that was taken by the caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// Its shard.
    pub(super) shard: ShardId,
    /// The last read that began before the job was taken. It shows whether this instance has owned
    /// the shard ever since.
    pub(super) since: ReadId,
    /// A read returned its row meanwhile. That may be the old row, or a new one under the same
    /// id, admitted after a delete that was committed but not yet passed to the window.
    pub(super) seen_again: bool,
}
