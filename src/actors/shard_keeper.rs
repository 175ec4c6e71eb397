//! Renews the lease, and with each heartbeat reads which shards this instance owns, what other
//! instances put into them, and which ledger rows were changed. `balance` takes and releases shards.
//!
//! All of that comes from one statement per heartbeat. The owned shards are compared with it each
//! time, so that a restarted keeper continues where the last one ended.

mod balance;
mod commands;
mod controls;
mod heartbeat;
mod orphans;
mod zones;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;

use super::child::Child;
use super::instance::Instance;
use super::lease::boot_ms;
use super::messages::*;
use super::registry::Routes;
use crate::health::ProblemKind;
use crate::kafka::TopicPartition;
use crate::model::ids::{InstanceId, ShardId};
use crate::store::{Error as StoreError, Observation, Result as StoreResult, ShardFence};

use heartbeat::Heartbeat;

/// The subject of a problem with the clock.
const CLOCK: &str = "clock";
/// How much a clock may be slowed down by synchronisation within a heartbeat; a larger difference
/// means that it was set back.
const SET_BACK_MS: i64 = 500;
/// The interval of the heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The wait for further commands before the heartbeat that carries them out.
const SOON: Duration = Duration::from_millis(20);
/// At least this many heartbeats are sent per lease, so that some of them may fail.
const BEATS_PER_LEASE: u32 = 5;

/// Renews the lease and manages the shards.
pub(super) struct ShardKeeper {
    instance: Arc<Instance>,
    /// The last beat of each instance, and since when it has not changed, by the boot clock.
    beats_seen: HashMap<InstanceId, (i64, i64)>,
    /// When the other instances were last observed, by the boot clock.
    observed_ms: i64,
    /// Shards that are being released, and when a failed release may be tried again.
    releasing: HashSet<ShardId>,
    release_after_ms: HashMap<ShardId, i64>,
    observed: Observation,
    /// A statement that takes shards is running.
    taking: bool,
    /// How many times shards were taken or released. An observation is not compared if this changed
    /// while it was read.
    changes: u64,
    beats: u64,
    /// How many heartbeats in a row had no answer.
    unanswered: u32,
    orphans: orphans::Orphans,
    /// The wall clock minus the boot clock at the last heartbeat.
    wall_since_boot_ms: Option<i64>,
    /// The last heartbeat failed, so the next one opens a session of its own first: a pool would
    /// reconnect at growing intervals, and not report when the server is available.
    probes_first: bool,
    /// Commands are being executed.
    running_commands: bool,
    /// Commands that were passed on and not answered yet.
    passed_on: HashSet<i64>,
    /// The next heartbeat, while it is waited for.
    next_beat: Option<SpawnHandle>,
    /// There are commands that no heartbeat has seen.
    has_commands: bool,
    leaving: bool,
    /// A drained instance was asked to leave the consumer group.
    has_left_group: bool,
}

impl ShardKeeper {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Self {
            instance,
            beats_seen: HashMap::new(),
            observed_ms: 0,
            releasing: HashSet::new(),
            release_after_ms: HashMap::new(),
            observed: Observation::default(),
            taking: false,
            changes: 0,
            beats: 0,
            unanswered: 0,
            orphans: orphans::Orphans::default(),
            wall_since_boot_ms: None,
            probes_first: false,
            running_commands: false,
            passed_on: HashSet::new(),
            next_beat: None,
            has_commands: false,
            leaving: false,
            has_left_group: false,
        }
    }

    fn beat(&mut self, ctx: &mut Context<Self>) {
        (self.next_beat, self.has_commands) = (None, false);
        let (instance, changes) = (self.instance.clone(), self.changes);
        let max_wait = heartbeat::max_wait(instance.lease.length(), self.unanswered);
        let probes_first = self.probes_first;
        let beat =
            tokio::spawn(async move { heartbeat::beat(&instance, max_wait, probes_first).await });
        ctx.spawn(beat.into_actor(self).map(move |beat, actor, ctx| {
            let beat = beat.unwrap_or_else(|error| panic!("heartbeat: {error}"));
            actor.after_beat(beat, changes, ctx);
        }));
    }

    fn after_beat(&mut self, beat: StoreResult<Heartbeat>, changes: u64, ctx: &mut Context<Self>) {
        if self.leaving {
            return;
        }
        self.beats += 1;
        self.notice_clock_set_back();
        match beat {
            Ok(Heartbeat::Alive(observed, skew_ms)) => {
                self.unanswered = 0;
                self.probes_first = false;
                self.instance.health.clear("database");
                self.check_clock(skew_ms);
                self.instance.database.recovery().answers();
                self.check_time_zones(&observed);
                self.run_commands(&observed, ctx);
                self.pass_changes_on(&observed, ctx);
                self.pass_batches_on(&observed, ctx);
                self.report_unknown_commands(&observed);
                self.notify_readers(&observed);
                self.follow_controls(&observed);
                self.observed = *observed;
                if changes == self.changes {
                    self.compare_owned();
                }
                self.take_and_release(ctx);
                self.check_orphans(ctx);
            }
            Ok(Heartbeat::Unanswered { error, says_why }) => {
                self.unanswered = self.unanswered.saturating_add(1);
                self.probes_first = says_why;
                self.database_failed(&error);
            }
            Ok(Heartbeat::Unknown) => {
                if self.instance.me().0 != 0 {
                    tracing::warn!(
                        "declared dead by another instance: dropping every shard and registering again"
                    );
                }
                self.drop_all_shards();
                self.join(ctx);
                return;
            }
            Err(error) => {
                self.unanswered = 0;
                self.probes_first = true;
                self.database_failed(&error);
            }
        }
        let every = HEARTBEAT.min(self.instance.lease.length() / BEATS_PER_LEASE);
        self.beat_after(if self.has_commands { SOON } else { every }, ctx);
    }

    fn beat_after(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if let Some(sooner) = self.next_beat.take() {
            ctx.cancel_future(sooner);
        }
        self.next_beat = Some(ctx.run_later(wait, |actor, ctx| actor.beat(ctx)));
    }

    fn database_failed(&self, error: &StoreError) {
        self.instance.database.recovery().unavailable();
        let kind = match error {
            StoreError::ReadOnly(_) => ProblemKind::DatabaseReadOnly,
            StoreError::Unusable(_) | StoreError::Setting(_) => ProblemKind::DatabaseUnusable,
            StoreError::Unavailable(_)
            | StoreError::Unclear(_)
            | StoreError::Refused(_)
            | StoreError::Raced(_) => ProblemKind::DatabaseUnavailable,
        };
        self.instance.health.report("database", kind, error.to_string());
    }

    /// Registers as a new instance.
    fn join(&mut self, ctx: &mut Context<Self>) {
        let instance = self.instance.clone();
        let probes_first = self.probes_first;
        let join = async move {
            if probes_first {
                instance.store.knock().await?;
            }
            let sent = instance.lease.sending();
            let now_ms = instance.clock.now_ms();
            let me = instance.store.join(&instance.membership(), now_ms).await?;
            instance.set_me(me);
            instance.lease.renewed(sent);
            Ok(me)
        };
        ctx.spawn(tokio::spawn(join).into_actor(self).map(|joined, actor, ctx| {
            let joined: StoreResult<InstanceId> =
                joined.unwrap_or_else(|error| panic!("joining: {error}"));
            match joined {
                Ok(me) => {
                    actor.probes_first = false;
                    tracing::info!(instance = %me, "joined as instance {me}");
                    actor.notify_rejoined();
                    actor.beat(ctx);
                }
                Err(error) => {
                    actor.probes_first = true;
                    actor.database_failed(&error);
                    ctx.run_later(HEARTBEAT / 5, |actor, ctx| actor.beat(ctx));
                }
            }
        }));
    }

    fn drop_all_shards(&mut self) {
        self.instance.lease.lost();
        for app in self.instance.apps.keys() {
            // Includes shards whose release is running or has failed, which the scheduler has but
            // `OwnedShards` has not.
            let held = self.instance.owned.of(*app);
            let seen = self.observed.shards.iter().filter(|row| row.app == *app);
            let shards = held.iter().map(|fence| fence.shard).chain(seen.map(|row| row.id));
            let lost = ShardsLost { shards: shards.collect() };
            self.instance.registry.notify_scope(*app, lost);
        }
        self.instance.owned.clear();
        self.beats_seen.clear();
        self.releasing.clear();
    }

    /// Wakes the Kafka client after the clock was set back, since it waits by the wall clock.
    fn notice_clock_set_back(&mut self) {
        let now_ms = self.instance.clock.now_ms() - boot_ms();
        let before = self.wall_since_boot_ms.replace(now_ms);
        if before.is_some_and(|before| now_ms < before - SET_BACK_MS) {
            tracing::warn!("the machine's clock was set back");
            if let Some(intake) = self.instance.intake() {
                intake.wake();
            }
        }
    }

    fn check_clock(&self, skew_ms: i64) {
        self.instance.counters.clock_skew_ms.store(skew_ms, Ordering::Relaxed);
        let skew_ms = u128::from(skew_ms.unsigned_abs());
        let most_ms = self.instance.settings.max_clock_skew.as_millis();
        if skew_ms > most_ms {
            let why = format!(
                "differs from the database's by {skew_ms} ms (at most {most_ms}), so only what is \
                 due by both is fired: set the machine's clock, or the database's"
            );
            self.instance.health.report(CLOCK, ProblemKind::ClockSkew, why);
        } else if skew_ms < most_ms - most_ms / 5 || most_ms == 0 {
            // With some hysteresis, so that a difference close to the limit is not reported and
            // cleared each second.
            self.instance.health.clear(CLOCK);
        }
    }

    /// Sends the readers the tokens of their rows: a reader without records would not notice that
    /// its row was changed.
    fn notify_readers(&self, observed: &Observation) {
        for held in &observed.partitions {
            let partition = TopicPartition::new(held.topic.as_str(), held.partition);
            let seen = LedgerSeen { ledger: held.ledger, reader: held.reader };
            self.instance.registry.notify_scope(partition, seen);
        }
    }

    fn notify_rejoined(&self) {
        self.instance.registry.notify_all(&Rejoined);
    }

    /// Corrects `OwnedShards` by the table, which is authoritative.
    fn compare_owned(&self) {
        let me = self.instance.me();
        let by_app = balance::by_app(&self.observed.shards);
        let mut unknown = Vec::new();
        for app in self.instance.apps.values() {
            let held = self.instance.owned.of(app.id);
            let rows = by_app.get(&app.id).map_or(&[][..], Vec::as_slice);
            let is_ours = |fence: &&ShardFence| {
                rows.iter().any(|row| {
                    row.id == fence.shard && row.owner == Some(me) && row.epoch >= fence.epoch
                })
            };
            let lost: Vec<ShardId> =
                held.iter().filter(|fence| !is_ours(fence)).map(|fence| fence.shard).collect();
            if !lost.is_empty() {
                tracing::warn!(app = %app.name, ?lost, "shards were reassigned to other instances");
                lost.iter().for_each(|shard| self.instance.owned.remove(app.id, *shard));
                self.instance.registry.notify_scope(app.id, ShardsLost { shards: lost });
            }
            let ours = rows.iter().filter(|row| row.owner == Some(me));
            let missing = ours.filter(|row| {
                !self.releasing.contains(&row.id)
                    && held.iter().all(|fence| (fence.shard, fence.epoch) != (row.id, row.epoch))
            });
            unknown.extend(missing.map(|row| ShardFence {
                shard: row.id,
                owner: me,
                epoch: row.epoch,
            }));
        }
        // It is not known from whom they were taken.
        self.instance.crash_guard.watch(unknown.iter().copied(), self.instance.now_ms());
        self.add_owned(unknown);
    }
}

/// Releases all shards by deleting the instance's row.
async fn leave(instance: &Instance) -> StoreResult<()> {
    let me = instance.me();
    instance.owned.clear();
    instance.store.leave(me).await
}

impl Actor for ShardKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.beat(ctx);
    }
}

impl Child for ShardKeeper {
    const KIND: &'static str = "shard-keeper";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes.handles::<ReleaseAll>().handles::<SeeCommands>()
    }
}

impl Handler<SeeCommands> for ShardKeeper {
    type Result = ();

    fn handle(&mut self, _: SeeCommands, ctx: &mut Context<Self>) {
        // One that is under way may have read the commands before these.
        if !std::mem::replace(&mut self.has_commands, true) && self.next_beat.is_some() {
            self.beat_after(SOON, ctx);
        }
    }
}

impl Handler<ReleaseAll> for ShardKeeper {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, _: ReleaseAll, _: &mut Context<Self>) -> Self::Result {
        self.leaving = true;
        let instance = self.instance.clone();
        Box::pin(async move {
            let left = tokio::spawn(async move {
                let left = leave(&instance).await;
                instance.lease.lost();
                left
            });
            match left.await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the shards were not released: other instances wait for the end of the lease");
                    false
                }
                Err(_) => false,
            }
        })
    }
}

impl Handler<Report> for ShardKeeper {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        let held: usize =
            self.instance.apps.keys().map(|app| self.instance.owned.of(*app).len()).sum();
        tracing::info!(
            actor = "shard-keeper",
            instance = %self.instance.me(),
            beats = self.beats,
            instances = self.observed.instances.len(),
            shards_held = held,
            lease_valid = self.instance.lease.is_valid(),
            "{held} shards held among {} instances",
            self.observed.instances.len(),
        );
    }
}
