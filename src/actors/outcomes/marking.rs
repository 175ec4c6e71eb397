//! Marks attempts in the rows of their jobs, many in one transaction: once they have run for a
//! second, or before they start, if they must not start without. Other ones cost nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::super::in_flight::{Attempt, WantedMark};
use super::super::instance::Instance;
use super::writing::LEASE_AGAIN;
use super::{Outcomes, WRITERS, queue_of};
use crate::health::ProblemKind;
use crate::model::ids::JobId;
use crate::model::job::Mark;
use crate::recovery::Backoff;
use crate::store::{MarkBatch, Marked, ShardFence};

/// How often the attempts are looked through.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// An attempt is marked after this time.
const AGE: Duration = Duration::from_secs(1);
/// The subject of a problem with writing marks.
const MARKS: &str = "marks";

impl Outcomes {
    /// Looks for attempts to mark, from time to time.
    pub(super) fn mark(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(LOOK, Self::mark);
        if self.instance.in_flight.running() > 0 {
            self.mark_now(ctx);
        }
    }

    /// Looks for attempts to mark.
    pub(super) fn mark_now(&mut self, ctx: &mut Context<Self>) {
        for queue in 0..WRITERS {
            self.queues[queue].may_mark = true;
            self.write(queue, ctx);
        }
    }

    /// Marks attempts of a queue. Returns false if there are none, or outcomes have their turn.
    pub(super) fn write_marks(&mut self, queue: usize, ctx: &mut Context<Self>) -> bool {
        let of_queue = |shard| queue_of(shard) == queue;
        let state = &mut self.queues[queue];
        let outcomes_first = std::mem::take(&mut state.has_marked) && !state.waiting.is_empty();
        if outcomes_first || !std::mem::take(&mut state.may_mark) {
            return false;
        }
        let wanted = self.instance.in_flight.take_wanted(of_queue);
        let old = self.instance.in_flight.take_unmarked(AGE, of_queue);
        if wanted.is_empty() && old.is_empty() {
            return false;
        }
        (state.writing, state.has_marked) = (true, true);
        let attempts = wanted.iter().map(|wanted| &wanted.attempt).chain(&old);
        let batch = Arc::new(batch_of(attempts));
        let instance = self.instance.clone();
        let done = tokio::spawn(async move { mark_until_answered(&instance, &batch).await });
        ctx.spawn(done.into_actor(self).map(move |done, actor, ctx| {
            let done = done.unwrap_or_else(|error| panic!("marking attempts: {error}"));
            let marked: HashSet<JobId> = done.jobs.into_iter().collect();
            for WantedMark { attempt, written } in wanted {
                // Nobody waits if the attempt's task was aborted.
                written.send(marked.contains(&attempt.job.id)).ok();
            }
            actor.queues[queue].writing = false;
            actor.collect(ctx);
        }));
        true
    }
}

fn batch_of<'a>(attempts: impl Iterator<Item = &'a Attempt> + Clone) -> MarkBatch {
    let fences: BTreeSet<ShardFence> = attempts.clone().map(|attempt| attempt.fence).collect();
    let marks = attempts.map(|attempt| {
        let mark = Mark { started_ms: attempt.fired_ms, by: attempt.fence.owner };
        (attempt.job.clone(), mark)
    });
    MarkBatch { fences: fences.into_iter().collect(), marks: marks.collect() }
}

/// Writes marks until that is confirmed: an answer shows that no earlier try is open any more,
/// which would otherwise mark a row after the outcome. Without a valid lease nothing is written.
async fn mark_until_answered(instance: &Instance, batch: &Arc<MarkBatch>) -> Marked {
    let mut backoff = Backoff::default();
    loop {
        while !instance.lease.is_valid() {
            tokio::time::sleep(LEASE_AGAIN).await;
        }
        match instance.bounded(instance.store.mark_attempts(batch)).await {
            Ok(marked) => {
                instance.health.clear(MARKS);
                return marked;
            }
            Err(error) => {
                let kind = Instance::problem(&error, ProblemKind::OutcomesNotWritten);
                instance.health.report(MARKS, kind, format!("cannot be written: {error}"));
                let recovery = instance.database.recovery();
                recovery.wait(backoff.failed(recovery.recoveries())).await;
            }
        }
    }
}
