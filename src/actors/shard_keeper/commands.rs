//! Commands: what others ask of the owner of a shard.

use std::collections::HashMap;

use actix::prelude::*;

use super::super::messages::{LookAround, LookFor};
use super::ShardKeeper;
use crate::model::ids::{AppId, JobId, ShardId};
use crate::store::Observation;

impl ShardKeeper {
    /// Hands over jobs that others put into our shards, one round at a time.
    pub(super) fn look_after_commands(&mut self, observed: &Observation, ctx: &mut Context<Self>) {
        if observed.looks.is_empty() || std::mem::replace(&mut self.looking, true) {
            return;
        }
        let apps: HashMap<ShardId, AppId> =
            observed.shards.iter().map(|row| (row.id, row.app)).collect();
        let mut by_app: HashMap<AppId, (Vec<JobId>, Vec<i64>)> = HashMap::new();
        for look in &observed.looks {
            if let Some(app) = apps.get(&look.shard) {
                let (jobs, commands) = by_app.entry(*app).or_default();
                jobs.extend(&look.jobs);
                commands.push(look.command);
            }
        }
        let instance = self.instance.clone();
        let round = tokio::spawn(async move {
            for (app, (jobs, commands)) in by_app {
                if !instance.registry.is_published::<LookFor>(app) {
                    continue;
                }
                // Whoever put them there may have left verdicts, too.
                instance.registry.hint(LookAround);
                if instance.registry.ask(app, LookFor { jobs }).await.is_some()
                    && let Err(error) =
                        instance.bounded(instance.store.finish_commands(&commands)).await
                {
                    tracing::debug!(%error, "commands will be seen again");
                }
            }
        });
        ctx.spawn(round.into_actor(self).map(|_, actor, _| actor.looking = false));
    }
}
