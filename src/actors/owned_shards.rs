//! The shards that this instance owns: written by the shard keeper alone, read by all.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::model::ids::{AppId, JobId, ShardId};
use crate::store::ShardFence;

/// The shards that this instance may put jobs into and fire from, by app.
#[derive(Debug, Default)]
pub(super) struct OwnedShards(RwLock<HashMap<AppId, Arc<[ShardFence]>>>);

impl OwnedShards {
    /// The owned shards of `app`, in ascending order.
    pub(super) fn of(&self, app: AppId) -> Arc<[ShardFence]> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.get(&app).cloned().unwrap_or_default()
    }

    /// Whether this instance owns this shard of `app`.
    pub(super) fn has(&self, app: AppId, shard: ShardId) -> bool {
        self.of(app).iter().any(|fence| fence.shard == shard)
    }

    /// The owned shard that a new job of `app` is put into; jobs are distributed evenly.
    pub(super) fn choose(&self, app: AppId, job: JobId) -> Option<ShardFence> {
        job.one_of(&self.of(app)).copied()
    }

    pub(super) fn add(&self, app: AppId, fences: &[ShardFence]) {
        self.change(app, |held| {
            held.retain(|known| fences.iter().all(|fence| known.shard != fence.shard));
            held.extend(fences);
            held.sort_unstable();
        });
    }

    pub(super) fn remove(&self, app: AppId, shard: ShardId) {
        self.change(app, |held| held.retain(|known| known.shard != shard));
    }

    pub(super) fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn change(&self, app: AppId, change: impl FnOnce(&mut Vec<ShardFence>)) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let held = all.entry(app).or_default();
        let mut changed = held.to_vec();
        change(&mut changed);
        *held = changed.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{Epoch, InstanceId};

    fn fence(shard: i32, epoch: i64) -> ShardFence {
        ShardFence { shard: ShardId(shard), owner: InstanceId(1), epoch: Epoch(epoch) }
    }

    #[test]
    fn a_shard_that_is_taken_again_has_its_new_epoch() {
        let owned = OwnedShards::default();
        let app = AppId(1);
        for held in [fence(2, 1), fence(1, 1), fence(2, 3)] {
            owned.add(app, &[held]);
        }
        assert_eq!(*owned.of(app), [fence(1, 1), fence(2, 3)]);
        owned.remove(app, ShardId(1));
        assert_eq!(*owned.of(app), [fence(2, 3)]);
    }

    #[test]
    fn without_shards_there_is_no_place() {
        assert_eq!(OwnedShards::default().choose(AppId(1), JobId::derive("a", "b")), None);
    }
}
