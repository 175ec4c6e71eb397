//! What an admission needs of the instance that it runs in, and the form of it for a program
//! that is no instance.

use std::collections::BTreeSet;
use std::fmt::Debug;

use futures::future::{self, BoxFuture, FutureExt};

use crate::model::ids::{AppId, JobId, KeyId, ShardId};
use crate::model::job::Job;
use crate::model::window::TicketId;
use super::ChangeReply;
use crate::store::{ChangeRequest, Lane, ShardFence};

/// The shards of a running instance, and the actors that hear of what goes into them.
///
/// Where nobody is told of something, the database has it, and it is found there later.
pub(crate) trait ShardAccess: Debug + Send + Sync {
    /// Whether jobs may be put into shards of this instance just now.
    fn has_lease(&self) -> bool;

    /// One of this instance's shards for a new job of `app`; none if it has no shard of it.
    fn choose(&self, app: AppId, job: JobId) -> Option<ShardFence>;

    /// This shard of `app`, if it is one of this instance's.
    fn fence(&self, app: AppId, shard: ShardId) -> Option<ShardFence>;

    /// Tells the scheduler of `app` that jobs may come; none if it is being started again.
    fn take_ticket(&self, app: AppId) -> BoxFuture<'_, Option<TicketId>>;

    /// Tells it that these jobs were committed; none, if nothing was.
    fn return_ticket(&self, app: AppId, ticket: TicketId, jobs: Vec<Job>);

    /// Tells it that nobody knows what was written, that the transaction has ended, and that
    /// these shards are to be read again.
    fn read_again(&self, app: AppId, ticket: TicketId, shards: Vec<ShardId>);

    /// Whether one of these keys was seen lately. A wrong answer costs one read or one write
    /// of the batch more.
    fn knows_any(&self, keys: Vec<KeyId>) -> BoxFuture<'_, bool>;

    /// Asks the scheduler of `app` for a change of a job in `shard`. None: it is being started
    /// again, or there is none here, and nothing is known of the change.
    fn change(
        &self,
        app: AppId,
        shard: ShardId,
        request: ChangeRequest,
    ) -> BoxFuture<'_, Option<ChangeReply>>;

    /// Whether an attempt at this job runs here.
    fn is_running(&self, job: JobId) -> bool;

    /// Something was committed.
    fn committed(&self, committed: Committed);
}

/// What is new in the database, beside jobs.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Idempotency keys that are taken now.
    pub(crate) keys: Vec<KeyId>,
    /// Where this instance has letters and verdicts to publish.
    pub(crate) lanes: BTreeSet<Lane>,
    /// When the first record that was parked is tried again, epoch milliseconds.
    pub(crate) parked_due_ms: Option<i64>,
}

/// A program that is no instance: it owns nothing, and no actor runs in it.
#[derive(Debug)]
pub(super) struct NoShards;

impl ShardAccess for NoShards {
    fn has_lease(&self) -> bool {
        false
    }

    fn choose(&self, _: AppId, _: JobId) -> Option<ShardFence> {
        None
    }

    fn fence(&self, _: AppId, _: ShardId) -> Option<ShardFence> {
        None
    }

    fn take_ticket(&self, _: AppId) -> BoxFuture<'_, Option<TicketId>> {
        future::ready(None).boxed()
    }

    fn return_ticket(&self, _: AppId, _: TicketId, _: Vec<Job>) {}

    fn read_again(&self, _: AppId, _: TicketId, _: Vec<ShardId>) {}

    fn knows_any(&self, _: Vec<KeyId>) -> BoxFuture<'_, bool> {
        future::ready(false).boxed()
    }

    fn change(&self, _: AppId, _: ShardId, _: ChangeRequest) -> BoxFuture<'_, Option<ChangeReply>> {
        future::ready(None).boxed()
    }

    fn is_running(&self, _: JobId) -> bool {
        false
    }

    fn committed(&self, _: Committed) {}
}
