//! Requests on their way into the database: placed into shards, and moved into a batch and out
//! of it again with each try, so that no try copies them.

use std::mem::take;
use std::sync::Arc;

use super::Admission;
use super::tickets::Tickets;
use crate::model::ids::{KeyId, Offset};
use crate::store::{Batch, BatchSource, Entry, PlacedCandidate, ShardFence};

/// What is to be admitted together, in the order in which it came.
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

    pub(super) fn of_candidate(candidate: Box<PlacedCandidate>) -> Self {
        Self::new(vec![Entry::Job(candidate)])
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps the first `at` and returns the others, which were never tried by themselves.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        Self::new(self.entries.split_off(at.min(self.entries.len())))
    }

    /// Appends what [`split_off`](Self::split_off) returned.
    pub(crate) fn append(&mut self, mut rest: Self) {
        self.entries.append(&mut rest.entries);
    }

    /// The place of the first record in its partition.
    pub(crate) fn first_offset(&self) -> Option<Offset> {
        self.entries.first()?.offset()
    }

    /// The idempotency keys that they bring.
    pub(super) fn keys(&self) -> Vec<KeyId> {
        self.entries.iter().filter_map(key_of).collect()
    }

    /// Makes a batch of them, each in a shard of this instance where it has one and `own`
    /// allows it, else in its home. A job with a concurrency key is always in its home. Until [`take_back`](Self::take_back) nothing is left here.
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
            let Entry::Job(candidate) = entry else { continue };
            let (app, id) = (&candidate.app, candidate.job.id);
            let key = candidate.job.concurrency_key.as_deref();
            let home = app.home_of(id, key);
            let fence = match key {
                _ if !own => None,
                None => admission.shards.choose(app.id, id),
                // Whoever owns its shard sees all jobs of the key.
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
            verdicts: admission.rules.tells_verdicts,
            now_ms: admission.clock.now_ms(),
        })
    }

    /// Takes the entries back out of a batch that was not admitted.
    pub(super) fn take_back(&mut self, batch: Arc<Batch>) {
        self.entries = entries_of(batch);
    }
}

/// The entries of a batch. They are copied only if a writer on another thread, whose answer
/// was given up, still has them.
pub(super) fn entries_of(batch: Arc<Batch>) -> Vec<Entry> {
    Arc::try_unwrap(batch).map_or_else(|shared| shared.entries.clone(), |batch| batch.entries)
}

/// The idempotency key of an entry that brings one.
pub(super) fn key_of(entry: &Entry) -> Option<KeyId> {
    match entry {
        Entry::Job(candidate) => candidate.key.as_ref().map(|key| key.id),
        Entry::Letter(_) | Entry::Wait(_) => None,
    }
}
