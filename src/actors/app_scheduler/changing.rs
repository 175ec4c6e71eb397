//! Changes of single jobs: a job is out of the window while its row is changed, so that it either
//! fires as it was before or as it is afterwards.

use actix::prelude::*;
use tokio::sync::oneshot;

use super::super::change_work::{Found, spawn};
use super::super::changing::PendingChange;
use super::super::in_flight::Attempting;
use super::super::messages::{ChangeJob, JobChanged};
use super::AppScheduler;
use crate::admission::ChangeReply;
use crate::model::change::JobChange;
use crate::model::change::named::Named;
use crate::model::job::{Cancellation, Job};
use crate::model::window::Withdrawn;

impl AppScheduler {
    /// Begins a change, or puts it behind what the job is busy with.
    fn change(&mut self, change: PendingChange) {
        let Some(change) = self.instance.changing.queue(change) else { return };
        let (id, shard) = (change.request.job, change.shard);
        let me = self.instance.me();
        let fence = self.fences.get(&shard).filter(|fence| fence.owner == me).copied();
        let Some(fence) = fence.filter(|_| !self.releasing.contains_key(&shard)) else {
            // The caller may have stopped waiting.
            drop(change.reply.send(ChangeReply::NotOurs));
            return;
        };
        let found = match self.attempting(&change) {
            Attempting::No => match self.window.withdraw(shard, id) {
                Withdrawn::Taken(_) | Withdrawn::Absent => Found::Waiting,
                // It is written what became of its attempt, and the window is about to hear of it.
                Withdrawn::InFlight => return self.after_attempts.push(change),
            },
            Attempting::Ended => return self.after_attempts.push(change),
            Attempting::Running { is_cancelling: true } => Found::Cancelling,
            Attempting::Running { is_cancelling: false } => Found::Running,
        };
        spawn(&self.instance, &self.app, fence, change, found);
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
