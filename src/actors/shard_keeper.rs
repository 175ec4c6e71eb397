//! Keeps the lease, and with it the shards, and looks around: which shards are ours, what
//! others put into them, which partitions somebody moved. `balance` takes and gives up.
//!
//! Everything it knows comes from one statement a second. What it believes to own is
//! compared with it each time, so a fresh keeper goes on where its predecessor was.

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
use super::registry::Answers;
use crate::health::ProblemKind;
use crate::kafka::TopicPartition;
use crate::model::ids::{InstanceId, ShardId};
use crate::store::{Error as StoreError, Observation, Result as StoreResult, ShardFence};

use heartbeat::Beat;

/// What the report of a wrong clock is about.
const CLOCK: &str = "clock";
/// A clock that is steered may lose so much within a heartbeat; one that loses more was set.
const SET_BACK_MS: i64 = 500;
/// Between the heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A lease has room for some heartbeats that fail.
const BEATS_PER_LEASE: u32 = 5;

/// Keeps the lease and the shards.
pub(super) struct ShardKeeper {
    instance: Arc<Instance>,
    /// When another instance's beat was last seen to move, by our own clock.
    moved: HashMap<InstanceId, (i64, i64)>,
    /// When we last saw the others, by our own clock.
    looked_ms: i64,
    /// Shards that are being released, and when one may be tried again.
    releasing: HashSet<ShardId>,
    release_after_ms: HashMap<ShardId, i64>,
    observed: Observation,
    /// Shards are being taken.
    taking: bool,
    /// Shards taken and given up so far: an observation from before the last of them may
    /// be older than it.
    changes: u64,
    beats: u64,
    /// Heartbeats without an answer in a row.
    unanswered: u32,
    orphans: orphans::Orphans,
    /// Our wall clock less the time since the boot, as it was at the last heartbeat.
    wall_since_boot_ms: Option<i64>,
    /// The last heartbeat failed, so the next one first asks for a session of its own: a pool
    /// would try again by itself, later each time, and not say when the server is back.
    knocks: bool,
    /// Commands are being carried out.
    looking: bool,
    /// Commands that were passed on and not answered yet.
    passed_on: HashSet<i64>,
    leaving: bool,
    /// A drained instance was told to leave the consumer group.
    has_left_group: bool,
}

impl ShardKeeper {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Self {
            instance,
            moved: HashMap::new(),
            looked_ms: 0,
            releasing: HashSet::new(),
            release_after_ms: HashMap::new(),
            observed: Observation::default(),
            taking: false,
            changes: 0,
            beats: 0,
            unanswered: 0,
            orphans: orphans::Orphans::default(),
            wall_since_boot_ms: None,
            knocks: false,
            looking: false,
            passed_on: HashSet::new(),
            leaving: false,
            has_left_group: false,
        }
    }

    fn beat(&mut self, ctx: &mut Context<Self>) {
        let (instance, changes) = (self.instance.clone(), self.changes);
        let patience = heartbeat::patience(instance.lease.length(), self.unanswered);
        let knocks = self.knocks;
        let beat = tokio::spawn(async move { heartbeat::beat(&instance, patience, knocks).await });
        ctx.spawn(beat.into_actor(self).map(move |beat, actor, ctx| {
            let beat = beat.unwrap_or_else(|error| panic!("heartbeat: {error}"));
            actor.after_beat(beat, changes, ctx);
        }));
    }

    fn after_beat(&mut self, beat: StoreResult<Beat>, changes: u64, ctx: &mut Context<Self>) {
        if self.leaving {
            return;
        }
        self.beats += 1;
        self.notice_clock_set_back();
        match beat {
            Ok(Beat::Alive(observed, skew_ms)) => {
                self.unanswered = 0;
                self.knocks = false;
                self.instance.health.clear("database");
                self.check_clock(skew_ms);
                self.instance.database.recovery().answers();
                self.check_time_zones(&observed);
                self.look_after_commands(&observed, ctx);
                self.pass_changes_on(&observed, ctx);
                self.report_unknown_commands(&observed);
                self.tell_readers(&observed);
                self.follow_controls(&observed);
                self.observed = observed;
                if changes == self.changes {
                    self.compare_owned();
                }
                self.take_and_release(ctx);
                self.look_for_orphans(ctx);
            }
            Ok(Beat::Unanswered { error, says_why }) => {
                self.unanswered = self.unanswered.saturating_add(1);
                self.knocks = says_why;
                self.database_failed(&error);
            }
            Ok(Beat::Unknown) => {
                if self.instance.me().0 != 0 {
                    tracing::warn!("declared dead by others: dropping every shard, joining anew");
                }
                self.drop_everything();
                self.join(ctx);
                return;
            }
            Err(error) => {
                self.unanswered = 0;
                self.knocks = true;
                self.database_failed(&error);
            }
        }
        let every = HEARTBEAT.min(self.instance.lease.length() / BEATS_PER_LEASE);
        ctx.run_later(every, |actor, ctx| actor.beat(ctx));
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

    /// Becomes a new instance.
    fn join(&mut self, ctx: &mut Context<Self>) {
        let instance = self.instance.clone();
        let knocks = self.knocks;
        let join = async move {
            if knocks {
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
                    actor.knocks = false;
                    tracing::info!(instance = %me, "joined as instance {me}");
                    actor.tell_of_new_name();
                    actor.beat(ctx);
                }
                Err(error) => {
                    actor.knocks = true;
                    actor.database_failed(&error);
                    ctx.run_later(HEARTBEAT / 5, |actor, ctx| actor.beat(ctx));
                }
            }
        }));
    }

    fn drop_everything(&mut self) {
        self.instance.lease.lost();
        for app in self.instance.apps.keys() {
            // All that it may have: a shard whose release is under way, or was just given
            // up, is with the scheduler and not among the owned.
            let held = self.instance.owned.of(*app);
            let seen = self.observed.shards.iter().filter(|row| row.app == *app);
            let shards = held.iter().map(|fence| fence.shard).chain(seen.map(|row| row.id));
            let lost = ShardsLost { shards: shards.collect() };
            self.instance.registry.hint_to(*app, lost);
        }
        self.instance.owned.clear();
        self.moved.clear();
        self.releasing.clear();
    }

    /// Kafka's client waits by the wall clock.
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
            // A difference about the limit would begin and end each second.
            self.instance.health.clear(CLOCK);
        }
    }

    /// A reader that has nothing to read would not notice that its row was moved.
    fn tell_readers(&self, observed: &Observation) {
        for held in &observed.partitions {
            let partition = TopicPartition::new(held.topic.as_str(), held.partition);
            let seen = LedgerSeen { ledger: held.ledger, reader: held.reader };
            self.instance.registry.hint_to(partition, seen);
        }
    }

    fn tell_of_new_name(&self) {
        self.instance.registry.hint_all(&JoinedAnew);
    }

    /// What the table says of our shards is true; what we believe may be old.
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
                tracing::warn!(app = %app.name, ?lost, "shards were taken from us");
                lost.iter().for_each(|shard| self.instance.owned.remove(app.id, *shard));
                self.instance.registry.hint_to(app.id, ShardsLost { shards: lost });
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
        self.own(unknown);
    }
}

/// Gives up every shard of ours with the instance's row.
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

    fn answers(answers: Answers<Self>) -> Answers<Self> {
        answers.to::<GoodBye>()
    }
}

impl Handler<GoodBye> for ShardKeeper {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, _: GoodBye, _: &mut Context<Self>) -> Self::Result {
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
                    tracing::warn!(%error, "could not say goodbye: others wait for the lease");
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

impl Handler<Fault> for ShardKeeper {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        panic!("a fault was asked for");
    }
}
