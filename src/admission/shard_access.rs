//! What an admission needs from its instance, and the implementation for programs that are no
//! instance.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures::future::{self, BoxFuture, FutureExt};

use super::ChangeReply;
use crate::model::ids::{AppId, JobId, KeyId, ShardId};
use crate::model::job::Job;
use crate::model::window::TicketId;
use crate::store::{BatchRequest, ChangeRequest, OrderingKey, ShardFence};

/// The shards of a running instance, and the actors that are notified of what is written to them.
///
/// A notification may be lost: the database has the same information, and is scanned for it.
pub(crate) trait ShardAccess: Debug + Send + Sync {
    /// Whether the lease is valid, so that jobs may be put into shards of this instance.
    fn has_lease(&self) -> bool;

    /// A shard of this instance for a new job of `app`; `None` if it owns none.
    fn choose(&self, app: AppId, job: JobId) -> Option<ShardFence>;

    /// The fence of this shard of `app`; `None` if another instance owns it.
    fn fence(&self, app: AppId, shard: ShardId) -> Option<ShardFence>;

    /// Takes a ticket from the scheduler of `app`, which thereby expects new jobs; `None` while the
    /// scheduler is being restarted.
    fn take_ticket(&self, app: AppId) -> BoxFuture<'_, Option<TicketId>>;

    /// Returns a ticket with the jobs that were committed; none if nothing was written.
    fn return_ticket(&self, app: AppId, ticket: TicketId, jobs: Vec<Job>);

    /// Returns a ticket when it is not known what was written and the transaction has ended: the
    /// scheduler reads these shards again.
    fn read_again(&self, app: AppId, ticket: TicketId, shards: Vec<ShardId>);

    /// Whether one of these keys is cached. A wrong answer costs one additional read or write of
    /// the batch.
    fn knows_any(&self, keys: Vec<KeyId>) -> BoxFuture<'_, bool>;

    /// Asks the scheduler of `app` for a change of a job in `shard`. None: it is being started
    /// again, or there is none here, and nothing is known of the change.
    fn change(
        &self,
        app: AppId,
        shard: ShardId,
        request: ChangeRequest,
    ) -> BoxFuture<'_, Option<ChangeReply>>;

    /// Asks the scheduler of `app` for a part of a bulk action in `shard`, and answers for each job
    /// in their order. None: as for [`change`](Self::change).
    fn change_batch(
        &self,
        app: AppId,
        shard: ShardId,
        request: Arc<BatchRequest>,
    ) -> BoxFuture<'_, Option<Vec<ChangeReply>>>;

    /// Whether an attempt at this job runs here.
    fn is_running(&self, job: JobId) -> bool;

    /// Notifies the actors of what was committed.
    fn committed(&self, committed: Committed);
}

/// What a transaction has written besides jobs.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// New idempotency keys.
    pub(crate) keys: Vec<KeyId>,
    /// The ordering keys of the outbox in which this instance has letters or verdicts to publish.
    pub(crate) ordering_keys: BTreeSet<OrderingKey>,
    /// Whether an owner of shards here is asked by commands.
    pub(crate) has_commands: bool,
    /// When the first of the new parked records is due, epoch milliseconds.
    pub(crate) parked_due_ms: Option<i64>,
}

/// The implementation for a program that is no instance: it owns no shards and runs no actors.
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

    fn change_batch(
        &self,
        _: AppId,
        _: ShardId,
        _: Arc<BatchRequest>,
    ) -> BoxFuture<'_, Option<Vec<ChangeReply>>> {
        future::ready(None).boxed()
    }

    fn is_running(&self, _: JobId) -> bool {
        false
    }

    fn committed(&self, _: Committed) {}
}
