//! What others do to a window: shards that come and go, other instances, a successor.

use super::{World, pick};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Job;
use crate::model::window::Window;

impl World {
    pub(in super::super) fn set_held(&mut self, shard: i32, held: bool) {
        if held {
            self.window.hold(ShardId(shard));
        } else {
            self.window.unhold(ShardId(shard));
        }
    }

    pub(in super::super) fn lose_shard(&mut self, shard: i32) {
        if let Some((epoch, ours)) = self.epochs.get_mut(&ShardId(shard))
            && *ours
        {
            *ours = false;
            epoch.0 += 1;
            self.window.remove_shard(ShardId(shard));
        }
    }

    pub(in super::super) fn gain_shard(&mut self, shard: i32) {
        if let Some((epoch, ours)) = self.epochs.get_mut(&ShardId(shard))
            && !*ours
        {
            *ours = true;
            epoch.0 += 1;
            self.window.add_shard(ShardId(shard), *epoch);
        }
    }

    /// Another process inserts a row: its owner learns of it later.
    pub(in super::super) fn foreign_insert(&mut self, mut job: Job) {
        job.created_ms = self.now_ms;
        if !self.table.contains_key(&job.id) {
            self.untold.push(job.id);
            self.write(job);
        }
    }

    /// The owner of a shard that is not ours fires one of its jobs.
    pub(in super::super) fn foreign_outcome(&mut self, id: JobId, delay_ms: Option<i64>) {
        let Some(row) = self.table.get(&id).cloned() else { return };
        if self.our_epoch(row.shard).is_some() {
            return;
        }
        match delay_ms {
            Some(delay_ms) => drop(self.write(Job { due_ms: self.now_ms + delay_ms, ..row })),
            None => drop(self.table.remove(&id)),
        }
    }

    pub(in super::super) fn report(&mut self, nth: u8) {
        if let Some(id) = pick(&mut self.untold, nth) {
            self.window.look_up(id);
        }
    }

    /// The scheduler is replaced: its window is lost, all else goes on.
    pub(in super::super) fn replace(&mut self) {
        self.window = Window::new(self.limits);
        self.windows += 1;
        self.add_our_shards();
        let running = self.running.iter().map(|(id, run)| (*id, run.job.shard));
        self.window.adopt_in_flight(running);
        let withdrawn = self.withdrawn.iter().map(|(id, (shard, _))| (*id, *shard));
        self.window.adopt_in_flight(withdrawn);
        self.look_ups.clear();
    }
}
