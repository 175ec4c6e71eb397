//! Counts a committed batch, and notifies the actors of what it wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use super::pending::key_of;
use super::{Admission, Committed};
use crate::store::{Batch, BatchSource, Decision, Entry, OrderingKey};

impl Admission {
    /// Counts the decisions on a batch.
    pub(super) fn count(&self, batch: &Batch, decisions: &[Decision]) {
        let counters = &*self.counters;
        let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
        // Parked records and dead letters were counted when they were received.
        let (received, is_first) = match batch.source {
            BatchSource::Records(_) => (decisions.len(), true),
            BatchSource::Call { .. } => (decisions.len(), false),
            BatchSource::Parked { .. } | BatchSource::Replay { .. } => (0, false),
        };
        counters.add(&counters.received, received);
        for (entry, decision) in batch.entries.iter().zip(decisions) {
            match decision {
                Decision::Operated { .. } | Decision::Asked(_) => {
                    counters.add(&counters.operations, 1);
                }
                Decision::Accepted | Decision::Met { .. } => {
                    if let Entry::Job(candidate) = entry {
                        counters.add(&counters.processed, 1);
                        *accepted.entry(&candidate.app.name).or_default() += 1;
                    }
                }
                Decision::Duplicate { .. } => counters.add(&counters.duplicate, 1),
                Decision::Waits => counters.add(&counters.parked, usize::from(is_first)),
                Decision::Dead(refusal) => {
                    counters.add(&counters.failed, 1);
                    let kind = refusal.kind;
                    tracing::debug!(%kind, request_id = refusal.request_id, "refused: {refusal}");
                }
            }
        }
        for (app, count) in accepted {
            counters.scheduled(app).fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Notifies the actors of the keys, outbox rows and parked records that were committed.
    pub(super) fn announce_committed(&self, batch: &Batch, decisions: &[Decision]) {
        let due = batch.entries.iter().filter_map(|entry| match entry {
            Entry::Wait(wait) => Some(wait.due_ms),
            Entry::Job(_) | Entry::Operation(_) | Entry::Letter(_) => None,
        });
        self.shards.committed(Committed {
            keys: batch.entries.iter().filter_map(key_of).collect(),
            ordering_keys: ordering_keys_of(batch, decisions),
            has_commands: self.asks_own(batch, decisions),
            parked_due_ms: due.min(),
        });
    }
}

impl Admission {
    /// Whether the batch has written commands for shards of this instance.
    fn asks_own(&self, batch: &Batch, decisions: &[Decision]) -> bool {
        let is_own = |(entry, decision): (&Entry, &Decision)| {
            let app = match entry {
                Entry::Job(candidate) => candidate.app.id,
                Entry::Operation(operation) => operation.app.id,
                Entry::Letter(_) | Entry::Wait(_) => return false,
            };
            matches!(decision, Decision::Asked(asked) if self.shards.fence(app, asked.shard).is_some())
        };
        !matches!(batch.source, BatchSource::Call { .. })
            && batch.entries.iter().zip(decisions).any(is_own)
    }
}

/// The ordering keys of the outbox in which this batch wrote letters or verdicts for this instance to
/// publish.
fn ordering_keys_of(batch: &Batch, decisions: &[Decision]) -> BTreeSet<OrderingKey> {
    let of_records = batch.source.ledger().map(OrderingKey::Partition);
    let ordering_key = |(entry, decision): (&Entry, &Decision)| {
        let shard = match entry {
            // The shard's owner is notified by a command, and publishes the ordering key.
            Entry::Job(candidate) if candidate.foreign => None,
            Entry::Job(candidate) => Some(OrderingKey::Shard(candidate.job.shard)),
            Entry::Operation(operation) => Some(OrderingKey::Shard(operation.shard)),
            Entry::Letter(_) | Entry::Wait(_) => None,
        };
        match decision {
            Decision::Dead(_) => of_records.or(shard),
            Decision::Operated { events, shard, .. } => match events.len() {
                0 => None,
                1 => of_records.or(Some(OrderingKey::Shard(*shard))),
                _ => Some(OrderingKey::Shard(*shard)),
            },
            Decision::Asked(_) => None,
            Decision::Accepted | Decision::Met { .. } => shard.filter(|_| batch.verdicts),
            Decision::Duplicate { .. } => of_records.or(shard).filter(|_| batch.verdicts),
            Decision::Waits => None,
        }
    };
    batch.entries.iter().zip(decisions).filter_map(ordering_key).collect()
}
