//! Which shards to take and which to give up, and how: those of the dead and of nobody up
//! to a fair share, and what others are due.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;

use super::super::lease::boot_ms;
use super::super::messages::ReleaseShard;
use super::super::shared::RegisteredApp;
use super::super::shares::{idle_first, share_of};
use super::{HEARTBEAT, ShardKeeper};
use crate::model::ids::InstanceId;
use crate::store::{ShardFence, ShardRow};

/// How long a gentle release waits for what runs.
const PATIENCE: Duration = Duration::from_secs(2);
/// The wait before a release that others did not let happen is tried again.
const RELEASE_AGAIN_MS: i64 = 10_000;

impl ShardKeeper {
    pub(super) fn take_and_release(&mut self, ctx: &mut Context<Self>) {
        self.watch_others();
        let me = self.shared.me();
        let apps: Vec<Arc<RegisteredApp>> = self.shared.apps.values().cloned().collect();
        let mut takes: Vec<(Arc<RegisteredApp>, ShardRow)> = Vec::new();
        let mut releases = Vec::new();
        for app in apps {
            let of_app = || self.observed.shards.iter().filter(|row| row.app == app.id);
            let live: Vec<InstanceId> = self
                .observed
                .instances
                .iter()
                .filter(|instance| instance.apps.contains(&app.id))
                .map(|instance| instance.id)
                .collect();
            let share = share_of(me, app.id, of_app().count(), &live);
            let held = of_app().filter(|row| row.owner == Some(me)).count();
            let is_free = |row: &&ShardRow| row.owner.is_none_or(|owner| !self.is_known(owner));
            if held < share {
                let free = of_app().filter(is_free).take(share - held);
                takes.extend(free.map(|row| (app.clone(), *row)));
            } else if held > share {
                // Shares add up to all shards, so somebody else has less than a share.
                let surplus = self.surplus(&app, held - share).into_iter();
                releases.extend(surplus.map(|fence| (app.clone(), fence)));
            }
        }
        if takes.is_empty() {
            self.shared.settled.store(true, Ordering::Release);
        } else {
            self.take(takes, ctx);
        }
        for (app, fence) in releases {
            self.release(app, fence, ctx);
        }
    }

    /// Declares dead whose lease is past by the database's clock and whose beat has not
    /// moved for a whole lease by ours: a clock that jumps kills nobody. Time in which we
    /// could not look proves nothing: whatever kept us from it may have kept others, too.
    fn watch_others(&mut self) {
        let now = boot_ms();
        let lease_ms = i64::try_from(self.shared.lease.length().as_millis()).unwrap_or(i64::MAX);
        let could_look = now - std::mem::replace(&mut self.looked_ms, now) <= lease_ms / 2;
        let mut moved = HashMap::new();
        for other in &self.observed.instances {
            let since = match self.moved.get(&other.id) {
                Some((beat, since)) if *beat == other.beat && could_look => *since,
                _ => now,
            };
            moved.insert(other.id, (other.beat, since));
            let silent = now - since >= lease_ms && other.lease_until_us < self.observed.now_us;
            if silent && other.id != self.shared.me() {
                let (shared, other) = (self.shared.clone(), other.clone());
                drop(tokio::spawn(async move {
                    let id = other.id;
                    match shared.bounded(shared.store.declare_dead(&other)).await {
                        Ok(true) => tracing::warn!(instance = %id, "instance {id} is dead"),
                        Ok(false) => {}
                        Err(error) => tracing::debug!(%error, "could not declare {id} dead"),
                    }
                }));
            }
        }
        self.moved = moved;
    }

    fn is_known(&self, owner: InstanceId) -> bool {
        self.observed.instances.iter().any(|instance| instance.id == owner)
    }

    /// Shards to give up, besides those that are on their way.
    fn surplus(&self, app: &RegisteredApp, count: usize) -> Vec<ShardFence> {
        let now = boot_ms();
        let may_go = |fence: &ShardFence| {
            self.release_after_ms.get(&fence.shard).is_none_or(|after| now >= *after)
        };
        let held = self.shared.holdings.of(app.id);
        let may = held.iter().filter(|fence| may_go(fence)).copied().collect();
        let under_way = self.releasing.iter().filter(|shard| {
            self.observed.shards.iter().any(|row| row.id == **shard && row.app == app.id)
        });
        let count = count.saturating_sub(under_way.count());
        idle_first(may, count, |shard| self.shared.in_flight.has(shard))
    }

    fn take(&mut self, shards: Vec<(Arc<RegisteredApp>, ShardRow)>, ctx: &mut Context<Self>) {
        let (store, me) = (self.shared.store.clone(), self.shared.me());
        let take = tokio::spawn(async move {
            let mut taken = Vec::new();
            for (app, row) in shards {
                match store.take_shard(&row, me).await {
                    Ok(Some(epoch)) => {
                        taken.push((app, ShardFence { shard: row.id, owner: me, epoch }));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%error, shard = %row.id, "a shard was not taken");
                        break;
                    }
                }
            }
            taken
        });
        ctx.spawn(take.into_actor(self).map(move |taken, actor, _| {
            let taken = taken.unwrap_or_else(|error| panic!("taking shards: {error}"));
            if actor.shared.me() != me {
                return;
            }
            actor.changes += 1;
            actor.shared.settled.store(true, Ordering::Release);
            for (app, fence) in taken {
                tracing::info!(app = %app.name, shard = %fence.shard, epoch = %fence.epoch, "shard taken");
                actor.own(&app, fence);
            }
        }));
    }

    /// Stops choosing the shard, waits for what runs, then gives it up; or keeps it.
    fn release(&mut self, app: Arc<RegisteredApp>, fence: ShardFence, ctx: &mut Context<Self>) {
        let Some(scheduler) = self.shared.directory.app(app.id) else { return };
        self.releasing.insert(fence.shard);
        self.shared.holdings.remove(app.id, fence.shard);
        let shared = self.shared.clone();
        let release = async move {
            let request = ReleaseShard { shard: fence.shard, patience: PATIENCE };
            if !scheduler.send(request).await.unwrap_or(false) {
                return false;
            }
            // Until it is answered: a release without an answer may still happen, and then
            // somebody else has the shard.
            while shared.me() == fence.owner
                && shared.bounded(shared.store.release_shard(&fence)).await.is_err()
            {
                tokio::time::sleep(HEARTBEAT / 5).await;
            }
            true
        };
        ctx.spawn(tokio::spawn(release).into_actor(self).map(move |released, actor, _| {
            let released = released.unwrap_or(false);
            actor.changes += 1;
            actor.releasing.remove(&fence.shard);
            if released {
                tracing::info!(app = %app.name, shard = %fence.shard, "shard released");
            } else {
                // Whether it still is ours is seen at the next heartbeat.
                actor.release_after_ms.insert(fence.shard, boot_ms() + RELEASE_AGAIN_MS);
            }
        }));
    }
}
