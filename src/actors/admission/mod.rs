//! How requests get in, whichever way they come: judged, put into shards, admitted with the
//! schedulers' tickets in hand.
//!
//! A partition's reader admits batches of records. Calls by API, records that were parked
//! and dead letters that are replayed go the same way, each in a file of its own.

mod judge;
mod tickets;

mod parked;
mod replay;
mod submit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::directory::hint;
use super::messages::*;
use super::shared::Shared;
use crate::model::ids::KeyId;
use crate::store::{Batch, Course, Entry, Fate, Lane, ShardFence};

pub(super) use judge::{Judged, judge_record};
pub(super) use parked::try_parked;
pub(crate) use replay::{Replay, Replayed, foresee_replay, replay};
pub use submit::Submitted;
pub(crate) use submit::{SubmitError, submit};
pub(super) use tickets::Tickets;

/// Its keys are in the database now.
pub(super) fn remember(shared: &Shared, batch: &Batch) {
    let keys: Vec<KeyId> = keys_of(batch.entries.iter()).collect();
    if !keys.is_empty() {
        hint(shared.directory.dedup(), Remember { keys });
    }
}

fn keys_of<'a>(entries: impl Iterator<Item = &'a Entry>) -> impl Iterator<Item = KeyId> {
    entries.filter_map(|entry| match entry {
        Entry::Job(candidate) => Some(candidate.key.as_ref()?.id),
        Entry::Letter(_) | Entry::Wait(_) => None,
    })
}

/// Whether some key of these is known, so that reading before writing is worth it.
pub(super) async fn recalled(shared: &Shared, judged: &[Judged]) -> bool {
    let keys: Vec<KeyId> = keys_of(judged.iter().map(|one| &one.entry)).collect();
    match shared.directory.dedup() {
        Some(dedup) if !keys.is_empty() => dedup.send(Recall { keys }).await.unwrap_or(false),
        _ => false,
    }
}

/// Puts every candidate into a shard: one of ours where we have any and may choose it.
pub(super) fn choose_shards(shared: &Shared, judged: &mut [Judged], ours: bool) -> Vec<ShardFence> {
    let mut fences: Vec<ShardFence> = Vec::new();
    for one in judged {
        let (Entry::Job(candidate), Some(app)) = (&mut one.entry, &one.app) else { continue };
        let id = candidate.job.id;
        let own = if ours { shared.holdings.choose(candidate.app, id) } else { None };
        candidate.foreign = own.is_none();
        if let Some(fence) = own {
            candidate.job.shard = fence.shard;
            if !fences.contains(&fence) {
                fences.push(fence);
            }
        } else if let Some(shard) = super::holdings::choose(&app.shards, id) {
            candidate.job.shard = *shard;
        }
    }
    fences.sort_unstable();
    fences
}

/// The entries as one batch.
pub(super) fn batch_of(
    shared: &Shared,
    judged: &[Judged],
    fences: Vec<ShardFence>,
    course: Course,
    read_first: bool,
) -> Arc<Batch> {
    Arc::new(Batch {
        course,
        entries: judged.iter().map(|one| one.entry.clone()).collect(),
        fences,
        read_first,
        conflict_on_time: shared.settings.conflict_on_time,
        verdicts: shared.tells_verdicts(),
        now_ms: shared.clock.now_ms(),
    })
}

/// After COMMIT: what is in the database now, for those who have work by it.
pub(super) fn tell_others(shared: &Shared, batch: &Batch, fates: &[Fate]) {
    remember(shared, batch);
    for lane in lanes_of(batch, fates) {
        hint(shared.directory.retry_dlq(), PublishLane(lane));
    }
    let due = batch.entries.iter().filter_map(|entry| match entry {
        Entry::Wait(wait) => Some(wait.due_ms),
        _ => None,
    });
    if let Some(due_ms) = due.min() {
        hint(shared.directory.retry_dlq(), RecordsParked { due_ms });
    }
}

/// Where letters and verdicts of this batch lie in the outbox that are ours to publish.
fn lanes_of(batch: &Batch, fates: &[Fate]) -> BTreeSet<Lane> {
    let of_records = batch.course.ledger().map(Lane::Partition);
    let lane = |(entry, fate): (&Entry, &Fate)| {
        let shard = match entry {
            // Its owner is told to look, and publishes.
            Entry::Job(candidate) if !candidate.foreign => Some(Lane::Shard(candidate.job.shard)),
            _ => None,
        };
        match fate {
            Fate::Dead(_) => of_records.or(shard),
            Fate::Accepted if batch.verdicts => shard,
            Fate::Duplicate { .. } if batch.verdicts => of_records.or(shard),
            _ => None,
        }
    };
    batch.entries.iter().zip(fates).filter_map(lane).collect()
}

/// Counts what became of a batch, `received` records of which are new to us.
pub(super) fn count_fates(shared: &Shared, batch: &Batch, fates: &[Fate], received: usize) {
    let counters = &shared.counters;
    let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
    counters.add(&counters.received, received);
    let is_first = matches!(batch.course, Course::Records(_));
    for (entry, fate) in batch.entries.iter().zip(fates) {
        match (fate, entry) {
            (Fate::Accepted, Entry::Job(candidate)) => {
                counters.add(&counters.processed, 1);
                *accepted.entry(&candidate.app_name).or_default() += 1;
            }
            (Fate::Duplicate { .. }, _) => counters.add(&counters.duplicate, 1),
            // A record that is parked again was counted before.
            (Fate::Waits, _) => counters.add(&counters.parked, usize::from(is_first)),
            (Fate::Dead(refusal), _) => {
                counters.add(&counters.failed, 1);
                let kind = refusal.kind;
                tracing::debug!(%kind, request_id = refusal.request_id, "refused: {refusal}");
            }
            _ => {}
        }
    }
    for (app, count) in accepted {
        counters.app(app).scheduled.fetch_add(count, Ordering::Relaxed);
    }
}
