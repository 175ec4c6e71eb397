//! Where each job that the window knows of is, by id.

use super::carriers::CarrierId;
use super::id_map::IdMap;
use crate::model::ids::ShardId;
use crate::model::job::Priority;

/// Every id that is in a list or in flight; never both.
pub(super) type Places = IdMap<Place>;

/// Where one job is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the list of this shard and class, at this due time.
    Listed { shard: ShardId, priority: Priority, due_ms: i64 },
    /// Handed out and not yet settled.
    InFlight(Flight),
}

/// A job that was handed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// The shard that it belongs to.
    pub(super) shard: ShardId,
    /// The last carrier that was issued before; tells whether the shard has been away since.
    pub(super) since: CarrierId,
    /// Its row came up again meanwhile. That may be the old one, or a new one under the same
    /// id, admitted after a delete that was committed but not yet confirmed to the window.
    pub(super) seen_again: bool,
}
