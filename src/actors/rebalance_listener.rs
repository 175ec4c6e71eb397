//! Forwards rebalances of the consumer group from the poll thread to the Supervisor.

use std::sync::Weak;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use actix::prelude::*;

use super::instance::Instance;
use super::messages::{PartitionsAssigned, PartitionsRevoked};
use super::supervisor::Supervisor;
use crate::kafka::{Assignments, PartitionQueue, TopicPartition};
use crate::model::ids::Offset;

/// How long the poll thread waits for readers to stop. With a longer wait the broker could remove
/// the consumer from the group; the ledger fences a slower reader.
const REVOKE_MAX_WAIT: Duration = Duration::from_secs(5);

/// Called with the partitions that are assigned to this instance, and with those that it loses.
#[derive(Debug)]
pub(crate) struct RebalanceListener {
    /// Starts and stops the readers.
    pub(crate) supervisor: Addr<Supervisor>,
    /// Reports that the group has assigned partitions. Weak, because the instance owns the intake,
    /// which owns this listener.
    pub(crate) instance: Weak<Instance>,
}

impl Assignments for RebalanceListener {
    fn assigned(&self, queues: Vec<PartitionQueue>) {
        // An empty assignment counts too: the group may have more members than partitions.
        if let Some(instance) = self.instance.upgrade() {
            instance.has_joined();
        }
        if !queues.is_empty() {
            notify(&self.supervisor, PartitionsAssigned { queues });
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
            tracing::warn!(?partitions, "partitions were lost: the group has reassigned them");
        }
        let (reply, answer) = sync_channel(1);
        notify(&self.supervisor, PartitionsRevoked { partitions, reply });
        answer.recv_timeout(REVOKE_MAX_WAIT).unwrap_or_default()
    }
}

#[allow(clippy::disallowed_methods, reason = "the poll thread cannot await")]
fn notify<M>(supervisor: &Addr<Supervisor>, message: M)
where
    Supervisor: Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    supervisor.do_send(message);
}
