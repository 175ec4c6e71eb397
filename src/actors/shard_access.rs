//! The shards of this instance as its admissions see them.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};

use super::directory::{Directory, hint};
use super::lease::Lease;
use super::messages::*;
use super::owned_shards::OwnedShards;
use crate::admission::{Committed, ShardAccess};
use crate::model::ids::{AppId, JobId, KeyId, ShardId};
use crate::model::job::Job;
use crate::model::window::TicketId;
use crate::store::ShardFence;

/// The lease and the shards that this instance has, and where its actors are reached.
#[derive(Clone, Debug)]
pub(super) struct InstanceShards {
    pub(super) lease: Arc<Lease>,
    pub(super) owned: Arc<OwnedShards>,
    pub(super) directory: Arc<Directory>,
}

impl InstanceShards {
    /// None, and no actors yet.
    pub(super) fn new(lease: Lease) -> Self {
        Self { lease: Arc::new(lease), owned: Arc::default(), directory: Arc::default() }
    }
}

impl ShardAccess for InstanceShards {
    fn has_lease(&self) -> bool {
        self.lease.is_valid()
    }

    fn choose(&self, app: AppId, job: JobId) -> Option<ShardFence> {
        self.owned.choose(app, job)
    }

    fn take_ticket(&self, app: AppId) -> BoxFuture<'_, Option<TicketId>> {
        let scheduler = self.directory.app(app);
        async move { scheduler?.send(TakeTicket).await.ok() }.boxed()
    }

    fn return_ticket(&self, app: AppId, ticket: TicketId, jobs: Vec<Job>) {
        hint(self.directory.app(app), JobsAdmitted { ticket, jobs });
    }

    fn read_again(&self, app: AppId, ticket: TicketId, shards: Vec<ShardId>) {
        hint(self.directory.app(app), TicketDropped { ticket, shards });
    }

    fn knows_any(&self, keys: Vec<KeyId>) -> BoxFuture<'_, bool> {
        let dedup = self.directory.dedup();
        async move {
            match dedup {
                Some(dedup) => dedup.send(Recall { keys }).await.unwrap_or(false),
                None => false,
            }
        }
        .boxed()
    }

    fn committed(&self, committed: Committed) {
        let Committed { keys, lanes, parked_due_ms } = committed;
        if !keys.is_empty() {
            hint(self.directory.dedup(), Remember { keys });
        }
        for lane in lanes {
            hint(self.directory.retry_dlq(), PublishLane(lane));
        }
        if let Some(due_ms) = parked_due_ms {
            hint(self.directory.retry_dlq(), RecordsParked { due_ms });
        }
    }
}
