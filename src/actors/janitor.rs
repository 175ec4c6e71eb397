//! Deletes dead letters that have not changed for the configured time, a few at a time.
//!
//! Every instance does this; a letter that another one has deleted is skipped.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::child::Child;
use super::instance::Instance;
use super::messages::*;
use super::registry::Routes;
use crate::store::LetterCursor;

/// The pause before the first round, which other work at the start goes before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The pause between two steps, which leaves the database free for other work.
const BETWEEN_STEPS: Duration = Duration::from_millis(100);
/// The pause between two rounds through all letters.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(600);

/// Deletes old dead letters.
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
        let keep_ms = self.instance.settings.keep_dead_letters.as_millis();
        let keep_ms = i64::try_from(keep_ms).unwrap_or(i64::MAX);
        let until_ms = self.instance.clock.now_ms().saturating_sub(keep_ms);
        let no_kafka = self.instance.kafka.is_none();
        let store = self.instance.store.clone();
        let expire = async move { store.expire_letters(after, until_ms, no_kafka).await };
        let step = tokio::spawn(expire);
        ctx.spawn(step.into_actor(self).map(move |step, actor, ctx| {
            let step = step.unwrap_or_else(|error| panic!("removing old letters: {error}"));
            let (pause, next) = match step {
                Ok((expired, next)) => {
                    actor.expired += expired;
                    (next.map_or(BETWEEN_ROUNDS, |_| BETWEEN_STEPS), next)
                }
                Err(error) => {
                    tracing::debug!(%error, "old dead letters could not be removed");
                    (BETWEEN_ROUNDS, after)
                }
            };
            let instance = actor.instance.clone();
            let waited = async move { instance.database.recovery().wait(pause).await };
            ctx.spawn(waited.into_actor(actor).map(move |(), actor, ctx| actor.sweep(next, ctx)));
        }));
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
