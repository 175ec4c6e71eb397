//! Takes free shards up to a fair share, and releases shards beyond it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::super::app::RegisteredApp;
use super::super::instance::Instance;
use super::super::lease::boot_ms;
use super::super::messages::{ReleaseShard, ScanOutbox, ShardsTaken};
use super::super::permits::permits_of;
use super::super::shares::{idle_first, only_owner, share_of};
use super::{HEARTBEAT, ShardKeeper};
use crate::model::ids::{AppId, Epoch, InstanceId, ShardId};
use crate::store::{ShardFence, ShardRow};

/// How long a release waits for running attempts.
const RELEASE_MAX_WAIT: Duration = Duration::from_secs(2);
/// The largest number of shards that are released together.
const BATCH: usize = 500;
/// The wait before a release that failed is tried again.
const RELEASE_AGAIN_MS: i64 = 10_000;

impl ShardKeeper {
    pub(super) fn take_and_release(&mut self, ctx: &mut Context<Self>) {
        self.declare_silent_dead();
        let me = self.instance.me();
        let by_app = by_app(&self.observed.shards);
        let mut takes: Vec<ShardRow> = Vec::new();
        let mut releases: Vec<(AppId, ShardFence)> = Vec::new();
        for (app, registered) in &self.instance.apps {
            let rows = by_app.get(app).map_or(&[][..], Vec::as_slice);
            let instances = self.observed.instances.iter();
            let live: Vec<InstanceId> = instances
                .filter(|instance| instance.apps.binary_search(app).is_ok())
                .filter(|instance| !self.observed.draining.contains(&instance.id))
                .map(|instance| instance.id)
                .collect();
            registered.instances.store(live.len(), Ordering::Relaxed);
            for (rows, live) in divided(registered, rows, live) {
                let share = match self.instance.is_drained() {
                    true => 0,
                    false => share_of(me, *app, rows.len(), &live),
                };
                let held = rows.iter().filter(|row| row.owner == Some(me)).count();
                if held < share {
                    let is_free =
                        |row: &&&ShardRow| row.owner.is_none_or(|owner| !self.is_live(owner));
                    takes.extend(rows.iter().filter(is_free).take(share - held).map(|row| **row));
                } else if held > share {
                    // The shares add up to the number of shards, so another instance has fewer than
                    // its share.
                    let surplus = self.surplus(*app, &rows, held - share).into_iter();
                    releases.extend(surplus.map(|fence| (*app, fence)));
                }
            }
        }
        if takes.is_empty() {
            self.instance.asked_for_shards.store(true, Ordering::Release);
        } else {
            self.take(takes, ctx);
        }
        if !releases.is_empty() {
            self.release(releases, ctx);
        }
    }

    /// Declares an instance dead if its lease has ended by the database's clock and its beat has
    /// not changed for a whole lease by ours, so that a jump of one clock has no effect. Intervals
    /// in which this instance could not observe do not count, since the other ones may have been
    /// blocked by the same cause.
    fn declare_silent_dead(&mut self) {
        let now = boot_ms();
        let lease_ms = i64::try_from(self.instance.lease.length().as_millis()).unwrap_or(i64::MAX);
        let could_look = now - std::mem::replace(&mut self.observed_ms, now) <= lease_ms / 2;
        let mut seen = HashMap::new();
        for other in &self.observed.instances {
            let since = match self.beats_seen.get(&other.id) {
                Some((beat, since)) if *beat == other.beat && could_look => *since,
                _ => now,
            };
            seen.insert(other.id, (other.beat, since));
            let silent = now - since >= lease_ms && other.lease_until_us < self.observed.now_us;
            if silent && other.id != self.instance.me() {
                let (instance, other) = (self.instance.clone(), other.clone());
                drop(tokio::spawn(async move {
                    let id = other.id;
                    match instance.bounded(instance.store.declare_dead(&other)).await {
                        Ok(true) => tracing::warn!(instance = %id, "instance {id} is dead"),
                        Ok(false) => {}
                        Err(error) => tracing::debug!(%error, "could not declare {id} dead"),
                    }
                }));
            }
        }
        self.beats_seen = seen;
    }

    fn is_live(&self, owner: InstanceId) -> bool {
        self.observed.instances.iter().any(|instance| instance.id == owner)
    }

    /// Up to `count` shards to release, less those that are being released.
    fn surplus(&self, app: AppId, rows: &[&ShardRow], count: usize) -> Vec<ShardFence> {
        let now = boot_ms();
        let may_go = |fence: &ShardFence| {
            self.release_after_ms.get(&fence.shard).is_none_or(|after| now >= *after)
        };
        let held = self.instance.owned.of(app);
        let among = |fence: &ShardFence| rows.iter().any(|row| row.id == fence.shard);
        let may = held.iter().filter(|fence| among(fence) && may_go(fence)).copied().collect();
        let under_way = rows.iter().filter(|row| self.releasing.contains(&row.id)).count();
        let count = count.saturating_sub(under_way);
        idle_first(may, count, |shard| self.instance.in_flight.has(shard))
    }

    /// Takes these shards, unless others are being taken.
    fn take(&mut self, shards: Vec<ShardRow>, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.taking, true) {
            return;
        }
        let (instance, me) = (self.instance.clone(), self.instance.me());
        // One that left in order has released its shards.
        let of_dead: HashSet<ShardId> =
            shards.iter().filter(|row| row.owner.is_some()).map(|row| row.id).collect();
        let take = tokio::spawn(async move {
            let now_ms = instance.clock.now_ms();
            instance.bounded(instance.store.take_shards(&shards, me, now_ms)).await
        });
        ctx.spawn(take.into_actor(self).map(move |taken, actor, _| {
            let taken = taken.unwrap_or_else(|error| panic!("taking shards: {error}"));
            actor.taking = false;
            if actor.instance.me() != me {
                return;
            }
            actor.changes += 1;
            actor.instance.asked_for_shards.store(true, Ordering::Release);
            match taken {
                Ok(taken) => {
                    let watched = taken.iter().filter(|fence| of_dead.contains(&fence.shard));
                    actor.instance.crash_guard.watch(watched.copied(), actor.instance.now_ms());
                    actor.add_owned(taken);
                }
                // The next heartbeat shows which of them were taken.
                Err(error) => tracing::debug!(%error, "shards were not taken"),
            }
        }));
    }

    /// Puts no more jobs into these shards, waits for their running attempts, and releases those
    /// that become idle in time.
    fn release(&mut self, releases: Vec<(AppId, ShardFence)>, ctx: &mut Context<Self>) {
        let asked = FuturesUnordered::new();
        let mut shards = Vec::new();
        for (app, fence) in releases {
            if !self.instance.registry.is_registered::<ReleaseShard>(app) {
                continue;
            }
            shards.push(fence.shard);
            self.releasing.insert(fence.shard);
            self.instance.owned.remove(app, fence.shard);
            let request = ReleaseShard { shard: fence.shard, max_wait: RELEASE_MAX_WAIT };
            let released = self.instance.registry.ask(app, request);
            asked.push(async move { released.await.unwrap_or(false).then_some((app, fence)) });
        }
        let instance = self.instance.clone();
        let release = async move {
            let mut released = Vec::new();
            let mut answers = asked.ready_chunks(BATCH);
            while let Some(given_up) = answers.next().await {
                let given_up: Vec<(AppId, ShardFence)> = given_up.into_iter().flatten().collect();
                release_until_answered(&instance, &given_up).await;
                released.extend(given_up);
            }
            released
        };
        ctx.spawn(tokio::spawn(release).into_actor(self).map(move |released, actor, _| {
            let released = released.unwrap_or_default();
            actor.changes += 1;
            let given_up: HashSet<ShardId> =
                released.iter().map(|(_, fence)| fence.shard).collect();
            for shard in shards {
                actor.releasing.remove(&shard);
                if !given_up.contains(&shard) {
                    // The next heartbeat shows whether it is still owned.
                    actor.release_after_ms.insert(shard, boot_ms() + RELEASE_AGAIN_MS);
                }
            }
            if !released.is_empty() {
                let apps = actor.instance.names_of(released.iter().map(|(app, _)| *app));
                let shards = released.len();
                tracing::info!(shards, "{shards} shards of {apps} released");
            }
        }));
    }

    /// Adds shards: to the schedulers first, then to `OwnedShards`, from which admissions choose.
    pub(super) fn add_owned(&self, fences: Vec<ShardFence>) {
        if fences.is_empty() {
            return;
        }
        let apps: HashMap<ShardId, AppId> =
            self.observed.shards.iter().map(|row| (row.id, row.app)).collect();
        let mut taken: BTreeMap<AppId, Vec<ShardFence>> = BTreeMap::new();
        for fence in &fences {
            if let Some(app) = apps.get(&fence.shard) {
                taken.entry(*app).or_default().push(*fence);
            }
        }
        let registry = &self.instance.registry;
        let names = self.instance.names_of(taken.keys().copied());
        for (app, fences) in taken {
            registry.notify_scope(app, ShardsTaken { fences: fences.clone() });
            self.instance.owned.add(app, &fences);
        }
        registry.notify(ScanOutbox);
        let shards = fences.len();
        let epoch = fences.iter().map(|fence| fence.epoch).max().unwrap_or(Epoch(0));
        tracing::info!(shards, %epoch, "{shards} shards of {names} are ours");
    }
}

/// The parts of an app's shards that are each divided evenly, and among whom.
///
/// With `max_concurrent`, shards have permits ([`permits_of`]). If some have none, they are divided
/// apart from the others, so that every owner has permits; if there are fewer permits than
/// instances, one of them owns all.
fn divided<'a>(
    app: &RegisteredApp,
    rows: &[&'a ShardRow],
    live: Vec<InstanceId>,
) -> Vec<(Vec<&'a ShardRow>, Vec<InstanceId>)> {
    let Some(most) = app.limits().max_concurrent else { return vec![(rows.to_vec(), live)] };
    let owners = match (most.get() as usize) < live.len() {
        true => only_owner(app.id, &live).into_iter().collect(),
        false => live,
    };
    let (with, without): (Vec<&ShardRow>, Vec<&ShardRow>) =
        rows.iter().partition(|row| permits_of(row.id, &app.row, most) > 0);
    vec![(with, owners.clone()), (without, owners)]
}

/// The rows of each app.
pub(super) fn by_app(rows: &[ShardRow]) -> HashMap<AppId, Vec<&ShardRow>> {
    let mut by_app: HashMap<AppId, Vec<&ShardRow>> = HashMap::new();
    for row in rows {
        by_app.entry(row.app).or_default().push(row);
    }
    by_app
}

/// Releases shards until that is confirmed. A release whose answer is lost may still take effect,
/// and then another instance owns the shards.
async fn release_until_answered(instance: &Instance, given_up: &[(AppId, ShardFence)]) {
    let fences: Vec<ShardFence> = given_up.iter().map(|(_, fence)| *fence).collect();
    let Some(owner) = fences.first().map(|fence| fence.owner) else { return };
    while instance.me() == owner
        && instance.bounded(instance.store.release_shards(&fences)).await.is_err()
    {
        tokio::time::sleep(HEARTBEAT / 5).await;
    }
}
