//! Deletes what was kept for the configured time, a few rows at a time: dead letters that have not
//! changed since, entries of the audit, the history of jobs, tombstones of cancelled ones, and
//! answers to commands.
//!
//! Every instance does this; a row that another one has deleted is skipped. Tombstones are deleted
//! by the owner of their shard.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::child::Child;
use super::instance::Instance;
use super::messages::*;
use super::registry::Routes;
use crate::model::ids::ShardId;
use crate::store::{Error as StoreError, LetterCursor};

/// The pause before the first round, which other work at the start goes before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The pause between two steps, which leaves the database free for other work.
const BETWEEN_STEPS: Duration = Duration::from_millis(100);
/// The same in the history, which may grow by thousands of rows a second.
const BETWEEN_HISTORY_STEPS: Duration = Duration::from_millis(20);
/// The pause between two rounds through everything.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(600);

/// How long the answer to a command is kept.
const KEEP_ANSWERS: Duration = Duration::from_secs(24 * 3600);

/// Deletes what was kept for long enough.
pub(super) struct Janitor {
    instance: Arc<Instance>,
    expired: u64,
}

impl Janitor {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Self { instance, expired: 0 }
    }

    /// Runs one step, and schedules the next one.
    fn sweep(&mut self, after: Option<LetterCursor>, ctx: &mut Context<Self>) {
        let until_ms = self.kept_since_ms(self.instance.settings.keep_dead_letters);
        let no_kafka = self.instance.kafka.is_none();
        let store = self.instance.store.clone();
        let expire = async move { store.expire_letters(after, until_ms, no_kafka).await };
        let step = tokio::spawn(expire);
        ctx.spawn(step.into_actor(self).map(move |step, actor, ctx| {
            let step = step.unwrap_or_else(|error| panic!("removing old letters: {error}"));
            match step {
                Ok((expired, None)) => {
                    actor.expired += expired;
                    actor.after(BETWEEN_STEPS, ctx, Self::sweep_audit);
                }
                Ok((expired, next)) => {
                    actor.expired += expired;
                    actor.after(BETWEEN_STEPS, ctx, move |actor, ctx| actor.sweep(next, ctx));
                }
                Err(error) => {
                    tracing::debug!(%error, "old dead letters could not be removed");
                    actor.after(BETWEEN_ROUNDS, ctx, move |actor, ctx| actor.sweep(after, ctx));
                }
            }
        }));
    }

    /// One step through the audit, oldest first, and through bulk actions that are as old.
    fn sweep_audit(&mut self, ctx: &mut Context<Self>) {
        let until_ms = self.kept_since_ms(self.instance.settings.keep_audit);
        let store = self.instance.store.clone();
        let step = tokio::spawn(async move {
            let more = store.expire_audit(until_ms).await?;
            Ok::<bool, StoreError>(store.expire_bulks(until_ms).await? || more)
        });
        ctx.spawn(step.into_actor(self).map(|step, actor, ctx| {
            let step = step.unwrap_or_else(|error| panic!("removing old audit entries: {error}"));
            match step {
                Ok(true) => actor.after(BETWEEN_STEPS, ctx, Self::sweep_audit),
                Ok(false) => actor.after(BETWEEN_STEPS, ctx, Self::sweep_history),
                Err(error) => {
                    tracing::debug!(%error, "old audit entries could not be removed");
                    actor.after(BETWEEN_ROUNDS, ctx, Self::sweep_audit);
                }
            }
        }));
    }

    /// One step through the history of each app, oldest first.
    fn sweep_history(&mut self, ctx: &mut Context<Self>) {
        let now_ms = self.instance.clock.now_ms();
        let store = self.instance.store.clone();
        let step = tokio::spawn(async move { store.expire_history(now_ms).await });
        ctx.spawn(step.into_actor(self).map(|step, actor, ctx| {
            let step = step.unwrap_or_else(|error| panic!("removing old history: {error}"));
            match step {
                Ok(true) => actor.after(BETWEEN_HISTORY_STEPS, ctx, Self::sweep_history),
                Ok(false) => actor.after(BETWEEN_STEPS, ctx, Self::sweep_changes),
                Err(error) => {
                    tracing::debug!(%error, "old history could not be removed");
                    actor.after(BETWEEN_ROUNDS, ctx, Self::sweep_history);
                }
            }
        }));
    }

    /// One step through tombstones and answers; the next round begins after the last one.
    fn sweep_changes(&mut self, ctx: &mut Context<Self>) {
        let now_ms = self.instance.clock.now_ms();
        let until_ms = self.kept_since_ms(KEEP_ANSWERS);
        let owned = self.instance.apps.keys().map(|app| self.instance.owned.of(*app));
        let shards: Vec<ShardId> = owned
            .flat_map(|fences| fences.iter().map(|fence| fence.shard).collect::<Vec<_>>())
            .collect();
        let store = self.instance.store.clone();
        let step = tokio::spawn(async move {
            let more = store.forget_tombstones(&shards, now_ms).await?;
            Ok::<bool, StoreError>(store.forget_commands(until_ms).await? || more)
        });
        ctx.spawn(step.into_actor(self).map(|step, actor, ctx| {
            let step = step.unwrap_or_else(|error| panic!("removing tombstones: {error}"));
            match step {
                Ok(true) => actor.after(BETWEEN_STEPS, ctx, Self::sweep_changes),
                Ok(false) => actor.after(BETWEEN_ROUNDS, ctx, |actor, ctx| actor.sweep(None, ctx)),
                Err(error) => {
                    tracing::debug!(%error, "tombstones could not be removed");
                    actor.after(BETWEEN_ROUNDS, ctx, Self::sweep_changes);
                }
            }
        }));
    }

    /// What is not younger than this was kept for `keep`, epoch milliseconds.
    fn kept_since_ms(&self, keep: Duration) -> i64 {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        self.instance.clock.now_ms().saturating_sub(keep_ms)
    }

    /// Does `next` after a pause, or once the database answers again.
    fn after(
        &self,
        pause: Duration,
        ctx: &mut Context<Self>,
        next: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
    ) {
        let instance = self.instance.clone();
        let waited = async move { instance.database.recovery().wait(pause).await };
        ctx.spawn(waited.into_actor(self).map(|(), actor, ctx| next(actor, ctx)));
    }
}

impl Actor for Janitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(FIRST_PAUSE, |actor, ctx| actor.sweep(None, ctx));
    }
}

impl Child for Janitor {
    const KIND: &'static str = "janitor";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes
    }
}

impl Handler<Report> for Janitor {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        let expired = self.expired;
        tracing::info!(actor = "janitor", expired, "{expired} old dead letters removed");
    }
}
