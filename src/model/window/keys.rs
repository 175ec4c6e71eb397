//! Concurrency keys: jobs whose key is taken wait without keeping others from their turn.

use super::Window;
use crate::model::ids::ShardId;
use crate::model::job::Priority;

/// The part of a window that the waiting jobs of one key in one list may fill.
const PART_OF_ONE_KEY: usize = 8;
/// The part that those of all keys may fill. Each key may have one in any case.
const PART_OF_ALL_KEYS: usize = 2;

impl Window {
    /// An attempt with this key has ended, or will not start: the first job that waits for the key
    /// is considered again, by priority and due time.
    pub fn key_freed(&mut self, shard: ShardId, name: &str) {
        let Some(of_shard) = self.shards.get_mut(&shard) else { return };
        if of_shard.lists.iter_mut().any(|list| list.unblock(name)) {
            return;
        }
        for priority in Priority::ALL {
            let Some(list) = self.list_mut(shard, priority) else { continue };
            for job in list.read_dropped_again(name) {
                self.places.remove(&job.id);
            }
        }
    }

    /// How many jobs of one key may wait in a list.
    pub(super) fn most_blocked_of_key(&self) -> usize {
        (self.limits.max_jobs / PART_OF_ONE_KEY).max(1)
    }

    /// How many more jobs may wait for their keys over all lists.
    pub(super) fn free_for_blocked(&self) -> usize {
        let blocked: usize = self.lists().map(|list| list.blocked().len()).sum();
        (self.limits.max_jobs / PART_OF_ALL_KEYS).saturating_sub(blocked)
    }
}
