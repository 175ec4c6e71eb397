//! Marks attempts in the rows of their jobs once they have run for a second, many in one
//! transaction. Shorter ones cost nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::super::instance::Instance;
use super::writing::LEASE_AGAIN;
use super::{Outcomes, WRITERS, queue_of};
use crate::health::ProblemKind;
use crate::model::job::Mark;
use crate::recovery::Backoff;
use crate::store::{MarkBatch, ShardFence};

/// How often the attempts are looked through.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// An attempt is marked after this time.
const AGE: Duration = Duration::from_secs(1);
/// The subject of a problem with writing marks.
const MARKS: &str = "marks";

impl Outcomes {
    /// Looks for attempts to mark.
    pub(super) fn mark(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(LOOK, Self::mark);
        if self.instance.in_flight.running() == 0 {
            return;
        }
        for queue in 0..WRITERS {
            self.queues[queue].may_mark = true;
            self.write(queue, ctx);
        }
    }

    /// Marks the attempts of a queue that have run for long enough. Returns false if there are
    /// none, or it has nothing to look for.
    pub(super) fn write_marks(&mut self, queue: usize, ctx: &mut Context<Self>) -> bool {
        if !std::mem::take(&mut self.queues[queue].may_mark) {
            return false;
        }
        let of_queue = |shard| queue_of(shard) == queue;
        let attempts = self.instance.in_flight.take_unmarked(AGE, of_queue);
        if attempts.is_empty() {
            return false;
        }
        self.queues[queue].writing = true;
        let fences: BTreeSet<ShardFence> = attempts.iter().map(|attempt| attempt.fence).collect();
        let marks = attempts.into_iter().map(|attempt| {
            let mark = Mark { started_ms: attempt.fired_ms, by: attempt.fence.owner };
            (attempt.job, mark)
        });
        let fences = fences.into_iter().collect();
        let batch = Arc::new(MarkBatch { fences, marks: marks.collect() });
        let instance = self.instance.clone();
        let done = tokio::spawn(async move { mark_until_answered(&instance, &batch).await });
        ctx.spawn(done.into_actor(self).map(move |done, actor, ctx| {
            done.unwrap_or_else(|error| panic!("marking attempts: {error}"));
            actor.queues[queue].writing = false;
            actor.collect(ctx);
        }));
        true
    }
}

/// Writes marks until that is confirmed: an answer shows that no earlier try is open any more,
/// which would otherwise mark a row after the outcome. Without a valid lease nothing is written.
async fn mark_until_answered(instance: &Instance, batch: &Arc<MarkBatch>) {
    let mut backoff = Backoff::default();
    loop {
        while !instance.lease.is_valid() {
            tokio::time::sleep(LEASE_AGAIN).await;
        }
        match instance.bounded(instance.store.mark_attempts(batch)).await {
            Ok(_) => return instance.health.clear(MARKS),
            Err(error) => {
                let kind = Instance::problem(&error, ProblemKind::OutcomesNotWritten);
                instance.health.report(MARKS, kind, format!("cannot be written: {error}"));
                let recovery = instance.database.recovery();
                recovery.wait(backoff.failed(recovery.recoveries())).await;
            }
        }
    }
}
