//! Changes of single jobs: a job is out of the window while its row is changed, so that it either
//! fires as it was before or as it is afterwards.

use actix::prelude::*;
use futures::future::join_all;
use tokio::sync::oneshot;

use super::super::change_work::{Found, spawn, spawn_batch};
use super::super::changing::PendingChange;
use super::super::in_flight::Attempting;
use super::super::messages::{ChangeBatch, ChangeJob, JobChanged};
use super::AppScheduler;
use crate::admission::ChangeReply;
use crate::model::change::JobChange;
use crate::model::change::named::Named;
use crate::model::job::{Cancellation, Job};
use crate::model::window::Withdrawn;
use crate::store::ShardFence;

impl AppScheduler {
    /// Begins a change, or puts it behind what the job is busy with.
    fn change(&mut self, change: PendingChange) {
        if let Some((change, fence, found)) = self.begun(change) {
            spawn(&self.instance, &self.app, fence, change, found);
        }
    }

    /// Begins changes of jobs in one shard. Those of jobs that wait are made together.
    fn change_together(&mut self, changes: Vec<PendingChange>, bulk: i64) {
        let (mut together, mut of_shard) = (Vec::with_capacity(changes.len()), None);
        for change in changes {
            match self.begun(change) {
                Some((change, fence, Found::Waiting)) => {
                    of_shard = Some(fence);
                    together.push(change);
                }
                Some((change, fence, found)) => {
                    spawn(&self.instance, &self.app, fence, change, found);
                }
                None => {}
            }
        }
        if let Some(fence) = of_shard {
            spawn_batch(&self.instance, &self.app, fence, together, bulk);
        }
    }

    /// A change of a job that is out of the window now, or runs. Nothing if it waits for what the
    /// job is busy with, or is answered.
    fn begun(&mut self, change: PendingChange) -> Option<(PendingChange, ShardFence, Found)> {
        let change = self.instance.changing.queue(change)?;
        let (id, shard) = (change.request.job, change.shard);
        let me = self.instance.me();
        let fence = self.fences.get(&shard).filter(|fence| fence.owner == me).copied();
        let Some(fence) = fence.filter(|_| !self.releasing.contains_key(&shard)) else {
            // The caller may have stopped waiting.
            drop(change.reply.send(ChangeReply::NotOurs));
            return None;
        };
        let found = match self.attempting(&change) {
            Attempting::No => match self.window.withdraw(shard, id) {
                Withdrawn::Taken(_) | Withdrawn::Absent => Found::Waiting,
                // It is written what became of its attempt, and the window is about to hear of it.
                Withdrawn::InFlight => {
                    self.after_attempts.push(change);
                    return None;
                }
            },
            Attempting::Ended => {
                self.after_attempts.push(change);
                return None;
            }
            Attempting::Running { is_cancelling: true } => Found::Cancelling,
            Attempting::Running { is_cancelling: false } => Found::Running,
        };
        Some((change, fence, found))
    }

    /// What the job is doing, to which a cancellation says at once that nothing may follow.
    fn attempting(&self, change: &PendingChange) -> Attempting {
        let request = &change.request;
        let in_flight = &self.instance.in_flight;
        let (at_ms, by) = (self.instance.clock.now_ms(), request.by.who().to_owned());
        let first = Cancellation { at_ms, by };
        match &request.change {
            JobChange::Cancel { stop } => {
                in_flight.cancel_one(request.job, |job| request.is_of(job), first, *stop)
            }
            JobChange::Named(named) if matches!(named.change, Named::Cancel) => {
                let is_meant = |job: &Job| request.is_of(job) && named.ends(job);
                in_flight.cancel_one(request.job, is_meant, first, false)
            }
            JobChange::Run | JobChange::Edit(_) | JobChange::Named(_) => {
                in_flight.attempting(request.job)
            }
        }
    }

    /// Changes that waited for the end of an attempt.
    pub(super) fn change_after_attempts(&mut self) {
        for change in std::mem::take(&mut self.after_attempts) {
            self.change(change);
        }
    }
}

impl Handler<ChangeJob> for AppScheduler {
    type Result = ResponseFuture<ChangeReply>;

    fn handle(&mut self, asked: ChangeJob, _: &mut Context<Self>) -> Self::Result {
        let ChangeJob { shard, request, command } = asked;
        let (reply, answer) = oneshot::channel();
        self.change(PendingChange { shard, request, command, reply });
        // Work that ends without an answer leaves the question open, as a scheduler does that ends.
        Box::pin(async move { answer.await.unwrap_or(ChangeReply::NotOurs) })
    }
}

impl Handler<ChangeBatch> for AppScheduler {
    type Result = ResponseFuture<Vec<ChangeReply>>;

    fn handle(&mut self, asked: ChangeBatch, _: &mut Context<Self>) -> Self::Result {
        let ChangeBatch { shard, request } = asked;
        let (mut changes, mut answers) = (Vec::new(), Vec::new());
        for request in request.jobs.iter().map(|job| request.of(job)) {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            // Without a change there is nothing to be answered.
            let Some(request) = request else { continue };
            changes.push(PendingChange { shard, request, command: None, reply });
        }
        self.change_together(changes, request.bulk);
        Box::pin(async move {
            let answered = join_all(answers).await.into_iter();
            answered.map(|answer| answer.unwrap_or(ChangeReply::NotOurs)).collect()
        })
    }
}

impl Handler<JobChanged> for AppScheduler {
    type Result = ();

    fn handle(&mut self, changed: JobChanged, ctx: &mut Context<Self>) {
        self.update_window(changed.written);
        for change in changed.next {
            self.change(change);
        }
        self.change_after_attempts();
        self.finish_releases();
        self.advance(ctx);
    }
}
