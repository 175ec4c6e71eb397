//! Gives admissions access to the shards and actors of this instance.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};

use super::in_flight::{Attempting, InFlight};
use super::lease::Lease;
use super::messages::*;
use super::owned_shards::OwnedShards;
use super::registry::{Registry, Scope};
use crate::admission::{ChangeReply, Committed, ShardAccess};
use crate::model::ids::{AppId, JobId, KeyId, ShardId};
use crate::model::job::Job;
use crate::model::window::TicketId;
use crate::store::{BatchRequest, ChangeRequest, ShardFence};

/// The lease and the owned shards of this instance, and the registry of its actors.
#[derive(Clone, Debug)]
pub(super) struct InstanceShards {
    pub(super) lease: Arc<Lease>,
    pub(super) owned: Arc<OwnedShards>,
    pub(super) registry: Arc<Registry>,
    pub(super) in_flight: Arc<InFlight>,
}

impl InstanceShards {
    /// No shards and no actors yet.
    pub(super) fn new(lease: Lease) -> Self {
        Self {
            lease: Arc::new(lease),
            owned: Arc::default(),
            registry: Arc::default(),
            in_flight: Arc::default(),
        }
    }
}

impl ShardAccess for InstanceShards {
    fn has_lease(&self) -> bool {
        self.lease.is_valid()
    }

    fn choose(&self, app: AppId, job: JobId) -> Option<ShardFence> {
        self.owned.choose(app, job)
    }

    fn fence(&self, app: AppId, shard: ShardId) -> Option<ShardFence> {
        self.owned.of(app).iter().find(|fence| fence.shard == shard).copied()
    }

    fn take_ticket(&self, app: AppId) -> BoxFuture<'_, Option<TicketId>> {
        self.registry.ask(app, TakeTicket).boxed()
    }

    fn return_ticket(&self, app: AppId, ticket: TicketId, jobs: Vec<Job>) {
        self.registry.notify_scope(app, JobsAdmitted { ticket, jobs });
    }

    fn read_again(&self, app: AppId, ticket: TicketId, shards: Vec<ShardId>) {
        self.registry.notify_scope(app, TicketDropped { ticket, shards });
    }

    fn knows_any(&self, keys: Vec<KeyId>) -> BoxFuture<'_, bool> {
        let asked = self.registry.ask(Scope::Instance, FindKeys { keys });
        async move { asked.await.unwrap_or(false) }.boxed()
    }

    fn change(
        &self,
        app: AppId,
        shard: ShardId,
        request: ChangeRequest,
    ) -> BoxFuture<'_, Option<ChangeReply>> {
        self.registry.ask(app, ChangeJob { shard, request, command: None }).boxed()
    }

    fn change_batch(
        &self,
        app: AppId,
        shard: ShardId,
        request: Arc<BatchRequest>,
    ) -> BoxFuture<'_, Option<Vec<ChangeReply>>> {
        self.registry.ask(app, ChangeBatch { shard, request }).boxed()
    }

    fn is_running(&self, job: JobId) -> bool {
        matches!(self.in_flight.attempting(job), Attempting::Running { .. })
    }

    fn committed(&self, committed: Committed) {
        let Committed { keys, ordering_keys, has_commands, parked_due_ms } = committed;
        if !keys.is_empty() {
            self.registry.notify(RememberKeys { keys });
        }
        for ordering_key in ordering_keys {
            self.registry.notify(PublishOutbox(ordering_key));
        }
        if has_commands {
            self.registry.notify(SeeCommands);
        }
        if let Some(due_ms) = parked_due_ms {
            self.registry.notify(RecordsParked { due_ms });
        }
    }
}
