//! The shards of an app: taken, lost, and released once nothing of theirs is in flight.

use std::sync::atomic::Ordering;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::super::messages::{ReleaseShard, ShardsLost, ShardsTaken};
use super::AppScheduler;
use crate::model::ids::ShardId;
use crate::store::ShardFence;

impl AppScheduler {
    /// Replies to the release requests of shards that have nothing in flight any more, and whose
    /// permits no attempt of another shard uses.
    pub(super) fn finish_releases(&mut self) {
        let idle: Vec<ShardId> = self
            .releasing
            .keys()
            .filter(|shard| {
                !self.instance.in_flight.has(**shard) && !self.instance.changing.has(**shard)
            })
            .copied()
            .collect();
        for shard in idle {
            let rest = self.permits_of(self.fences.keys().filter(|other| **other != shard));
            if rest.is_some_and(|rest| self.app.running.load(Ordering::Relaxed) > rest) {
                continue;
            }
            self.window.remove_shard(shard);
            self.fences.remove(&shard);
            if let Some(reply) = self.releasing.remove(&shard) {
                reply.send(true).ok();
            }
        }
    }

    fn cancel_release(&mut self, shard: ShardId) {
        if let Some(reply) = self.releasing.remove(&shard) {
            self.window.unhold(shard);
            reply.send(false).ok();
        }
    }

    pub(super) fn add_shard(&mut self, fence: ShardFence) {
        self.fences.insert(fence.shard, fence);
        self.window.add_shard(fence.shard, fence.epoch);
        self.window.unhold(fence.shard);
    }
}

impl Handler<ShardsTaken> for AppScheduler {
    type Result = ();

    fn handle(&mut self, taken: ShardsTaken, ctx: &mut Context<Self>) {
        for fence in taken.fences {
            self.add_shard(fence);
        }
        self.advance(ctx);
    }
}

impl Handler<ShardsLost> for AppScheduler {
    type Result = ();

    fn handle(&mut self, lost: ShardsLost, _: &mut Context<Self>) {
        for shard in &lost.shards {
            self.window.remove_shard(*shard);
            self.fences.remove(shard);
            if let Some(reply) = self.releasing.remove(shard) {
                reply.send(true).ok();
            }
        }
        self.instance.in_flight.cancel(&lost.shards.into_iter().collect());
    }
}

impl Handler<ReleaseShard> for AppScheduler {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, release: ReleaseShard, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        let shard = release.shard;
        self.window.hold(shard);
        self.releasing.insert(shard, reply);
        self.finish_releases();
        ctx.run_later(release.max_wait, move |actor, _| actor.cancel_release(shard));
        Box::pin(async move { answer.await.unwrap_or(false) })
    }
}
