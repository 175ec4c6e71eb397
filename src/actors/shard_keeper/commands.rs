//! Commands: rows by which other processes ask the owner of a shard to do something.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::prelude::*;

use super::super::messages::{ChangeBatch, ChangeJob, LoadJobs, ScanOutbox};
use super::ShardKeeper;
use crate::admission::{ChangeReply, Treated, treated};
use crate::health::ProblemKind;
use crate::model::ids::{AppId, JobId, ShardId};
use crate::store::{
    BatchAnswer, BatchCommand, COMMANDS as MOST, ChangeCommand, Observation, UnknownCommands,
};

/// The subject of a problem with commands.
const COMMANDS: &str = "commands";

impl ShardKeeper {
    /// Passes jobs that other processes put into our shards to the schedulers, unless that is
    /// already running.
    pub(super) fn run_commands(&mut self, observed: &Observation, ctx: &mut Context<Self>) {
        if observed.looks.is_empty() || std::mem::replace(&mut self.running_commands, true) {
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
                if !instance.registry.is_registered::<LoadJobs>(app) {
                    continue;
                }
                // The same transaction may have written verdicts.
                instance.registry.notify(ScanOutbox);
                if instance.registry.ask(app, LoadJobs { jobs }).await.is_some()
                    && let Err(error) =
                        instance.bounded(instance.store.finish_commands(&commands)).await
                {
                    tracing::debug!(%error, "commands will be seen again");
                }
            }
        });
        ctx.spawn(round.into_actor(self).map(|_, actor, _| actor.running_commands = false));
    }

    /// Passes changes of jobs in our shards on to the schedulers of their apps. What is answered is
    /// committed with the answer, so one that is seen again changes nothing.
    pub(super) fn pass_changes_on(&mut self, observed: &Observation, ctx: &mut Context<Self>) {
        let apps: HashMap<ShardId, AppId> =
            observed.shards.iter().map(|row| (row.id, row.app)).collect();
        let now_ms = observed.now_us / 1000;
        let mut passed_on = 0;
        for ChangeCommand { command, shard, request, deadline_ms } in &observed.changes {
            let Some(app) = apps.get(shard) else { continue };
            if !self.passed_on.insert(*command) {
                continue;
            }
            passed_on += 1;
            let (command, app, instance) = (*command, *app, self.instance.clone());
            let is_late = deadline_ms.is_some_and(|deadline_ms| deadline_ms < now_ms);
            let change =
                ChangeJob { shard: *shard, request: request.clone(), command: Some(command) };
            let done = async move {
                // Without an answer it is seen again.
                if is_late {
                    drop(instance.bounded(instance.store.withdraw_command(command)).await);
                } else {
                    drop(instance.registry.ask(app, change).await);
                }
            };
            ctx.spawn(done.into_actor(self).map(move |(), actor, _| {
                actor.passed_on.remove(&command);
            }));
        }
        // There may be more than one heartbeat reads.
        self.has_commands |= passed_on > 0 && observed.changes.len() >= MOST;
    }

    /// Passes parts of bulk actions in our shards on to the schedulers of their apps, and answers
    /// them. Each job counts itself with its commit, so one that is seen again changes nothing.
    pub(super) fn pass_batches_on(&mut self, observed: &Observation, ctx: &mut Context<Self>) {
        let apps: HashMap<ShardId, AppId> =
            observed.shards.iter().map(|row| (row.id, row.app)).collect();
        let now_ms = observed.now_us / 1000;
        for BatchCommand { command, shard, request, deadline_ms } in &observed.batches {
            let Some(app) = apps.get(shard) else { continue };
            if !self.passed_on.insert(*command) {
                continue;
            }
            let (command, app, instance) = (*command, *app, self.instance.clone());
            let is_late = deadline_ms.is_some_and(|deadline_ms| deadline_ms < now_ms);
            let batch = ChangeBatch { shard: *shard, request: Arc::new(request.clone()) };
            let done = async move {
                if is_late {
                    drop(instance.bounded(instance.store.withdraw_command(command)).await);
                    return;
                }
                // Without an answer it is seen again.
                let Some(replies) = instance.registry.ask(app, batch).await else { return };
                let Some(answer) = answer_of(&replies) else { return };
                drop(instance.bounded(instance.store.answer_batch(command, &answer)).await);
            };
            ctx.spawn(done.into_actor(self).map(move |(), actor, _| {
                actor.passed_on.remove(&command);
            }));
        }
    }

    /// Reports commands of an unknown kind, which stay in the table.
    pub(super) fn report_unknown_commands(&self, observed: &Observation) {
        let unknown = &observed.unknown_commands;
        let count = unknown.iter().map(|commands| commands.count).sum();
        let counters = &self.instance.counters;
        counters.commands_unknown.store(count, Ordering::Relaxed);
        if unknown.is_empty() {
            return self.instance.health.clear(COMMANDS);
        }
        let why = sentence(unknown);
        self.instance.health.report(COMMANDS, ProblemKind::UnknownCommands, why);
    }
}

/// The answer to a part of a bulk action; `None` if some jobs are not ours any more.
fn answer_of(replies: &[ChangeReply]) -> Option<BatchAnswer> {
    let mut answer = BatchAnswer::default();
    for reply in replies {
        match treated(reply)? {
            Treated::Done => answer.done += 1,
            Treated::Failed => answer.failed += 1,
            Treated::Changed | Treated::Skipped => {}
        }
    }
    Some(answer)
}

fn sentence(unknown: &[UnknownCommands]) -> String {
    let kinds = unknown.iter().map(|UnknownCommands { kind, count }| match count {
        1 => format!("1 of kind {kind:?}"),
        count => format!("{count} of kind {kind:?}"),
    });
    format!(
        "{} in shards of this instance cannot be carried out by its version, {}: they wait for an \
         instance of a newer version; update this one",
        kinds.collect::<Vec<_>>().join(", "),
        env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_each_kind_and_the_way_out() {
        let unknown = |kind: &str, count| UnknownCommands { kind: kind.into(), count };
        let said = sentence(&[unknown("stop", 1), unknown("undo", 3)]);
        assert!(said.starts_with("1 of kind \"stop\", 3 of kind \"undo\" in shards"), "{said}");
        assert!(said.ends_with("update this one"), "{said}");
    }
}
