//! Takes what the poll thread hears of the group's rebalances to the Supervisor.

use std::sync::Weak;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use actix::prelude::*;

use super::instance::Instance;
use super::messages::{PartitionsAssigned, PartitionsRevoked};
use super::supervisor::Supervisor;
use crate::kafka::{Assignments, PartitionQueue, TopicPartition};
use crate::model::ids::Offset;

/// How long the poll thread waits for readers to stop. Longer, and the broker would throw
/// us out of the group; the ledger fences a reader that is slower.
const REVOKE_PATIENCE: Duration = Duration::from_secs(5);

/// Hears of partitions that this instance is assigned, and of those that it loses.
#[derive(Debug)]
pub(crate) struct RebalanceListener {
    /// Whom to tell.
    pub(crate) supervisor: Addr<Supervisor>,
    /// Whose health says that the group has answered. Weak: the intake that holds us is
    /// among what is instance, and must end with it.
    pub(crate) instance: Weak<Instance>,
}

impl Assignments for RebalanceListener {
    fn assigned(&self, queues: Vec<PartitionQueue>) {
        // Also of none: there may be more members than partitions.
        if let Some(instance) = self.instance.upgrade() {
            instance.has_joined();
        }
        if !queues.is_empty() {
            tell(&self.supervisor, PartitionsAssigned { queues });
        }
    }

    fn revoked(
        &self,
        partitions: Vec<TopicPartition>,
        lost: bool,
    ) -> Vec<(TopicPartition, Offset)> {
        if partitions.is_empty() {
            return Vec::new();
        }
        if lost {
            tracing::warn!(?partitions, "partitions were lost: the group gave them away");
        }
        let (reply, answer) = sync_channel(1);
        tell(&self.supervisor, PartitionsRevoked { partitions, reply });
        answer.recv_timeout(REVOKE_PATIENCE).unwrap_or_default()
    }
}

#[allow(clippy::disallowed_methods, reason = "the poll thread cannot await")]
fn tell<M>(supervisor: &Addr<Supervisor>, message: M)
where
    Supervisor: Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    supervisor.do_send(message);
}
