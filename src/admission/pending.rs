//! Requests that are being admitted. Each try moves them into a batch, and back if it fails, so
//! that they are not copied.

use std::mem::take;
use std::sync::Arc;

use super::Admission;
use super::tickets::Tickets;
use crate::model::ids::{KeyId, Offset};
use crate::store::{Batch, BatchSource, Entry, ShardFence};

/// Requests to be admitted together, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: Vec<Entry>,
    /// The tickets of tries whose answers were lost.
    pub(super) unanswered: Tickets,
}

impl Pending {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Self { entries, unanswered: Tickets::default() }
    }

    pub(super) fn of_entry(entry: Entry) -> Self {
        Self::new(vec![entry])
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps the first `at` requests, and returns the others, which have no unanswered tries.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        Self::new(self.entries.split_off(at.min(self.entries.len())))
    }

    /// Appends what [`split_off`](Self::split_off) returned.
    pub(crate) fn append(&mut self, mut rest: Self) {
        self.entries.append(&mut rest.entries);
    }

    /// The offset of the first record in its partition.
    pub(crate) fn first_offset(&self) -> Option<Offset> {
        self.entries.first()?.offset()
    }

    /// The idempotency keys of the requests.
    pub(super) fn keys(&self) -> Vec<KeyId> {
        self.entries.iter().filter_map(key_of).collect()
    }

    /// Moves the requests into a batch. A job is put into a shard of this instance, if it owns one
    /// and `own` allows it, or else into its home shard; one with a concurrency key is always put
    /// into its home shard. Until [`restore`](Self::restore) nothing is left here.
    pub(super) fn batch(
        &mut self,
        admission: &Admission,
        source: BatchSource,
        own: bool,
        read_first: bool,
    ) -> Arc<Batch> {
        let mut fences: Vec<ShardFence> = Vec::new();
        let mut entries = take(&mut self.entries);
        for entry in &mut entries {
            if let Entry::Operation(operation) = entry {
                // What it leaves is read by nobody's window, so it may be in any shard. Of its own
                // shards an instance publishes the verdicts at once.
                let (app, id) = (&operation.app, operation.job);
                let chosen = admission.shards.choose(app.id, id).map(|fence| fence.shard);
                operation.shard = chosen.or(app.home_of(id, None)).unwrap_or(operation.shard);
            }
            let Entry::Job(candidate) = entry else { continue };
            let (app, id) = (&candidate.app, candidate.job.id);
            let key = candidate.job.concurrency_key.as_deref();
            let home = app.home_of(id, key);
            let fence = match key {
                _ if !own => None,
                None => admission.shards.choose(app.id, id),
                // The owner of its shard sees all jobs of the key.
                Some(_) => home.and_then(|shard| admission.shards.fence(app.id, shard)),
            };
            if let Some(fence) = fence
                && !fences.contains(&fence)
            {
                fences.push(fence);
            }
            candidate.foreign = fence.is_none();
            let shard = fence.map(|fence| fence.shard).or(home);
            candidate.job.shard = shard.unwrap_or(candidate.job.shard);
        }
        fences.sort_unstable();
        Arc::new(Batch {
            source,
            entries,
            fences,
            read_first,
            conflict_on_time: admission.rules.conflict_on_time,
            verdicts: admission.rules.publishes_verdicts,
            now_ms: admission.clock.now_ms(),
            window_ms: admission.rules.window_ms(),
        })
    }

    /// Moves the entries back from a batch that was not admitted.
    pub(super) fn restore(&mut self, batch: Arc<Batch>) {
        self.entries = entries_of(batch);
    }
}

/// The entries of a batch. They are copied only if a writer thread whose answer timed out still has
/// the batch.
pub(super) fn entries_of(batch: Arc<Batch>) -> Vec<Entry> {
    Arc::try_unwrap(batch).map_or_else(|shared| shared.entries.clone(), |batch| batch.entries)
}

/// The idempotency key of an entry, if it has one.
pub(super) fn key_of(entry: &Entry) -> Option<KeyId> {
    match entry {
        Entry::Job(candidate) => candidate.key.as_ref().map(|key| key.id),
        Entry::Operation(_) | Entry::Letter(_) | Entry::Wait(_) => None,
    }
}
