//! Requests on their way into the database: placed into shards, and moved into a batch and out
//! of it again with each try, so that no try copies them.

use std::mem::take;
use std::sync::Arc;

use super::Admission;
use super::tickets::Tickets;
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, KeyId, ShardId};
use crate::model::job::{Job, Unassigned};
use crate::model::letter::DeadLetter;
use crate::model::record::RawRecord;
use crate::store::{
    AppRow, Batch, BatchSource, Entry, IdempotencyKey, PlacedCandidate, ShardFence, Wait,
};

/// A request that passed every rule and has no shard yet.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) app: Arc<AppRow>,
    pub(super) job: Job<Unassigned>,
    /// The shard of the app that it goes into if none of them is this instance's.
    pub(super) home: ShardId,
    pub(super) fingerprint: Fingerprint,
    pub(super) key: Option<IdempotencyKey>,
    /// The record that it came by.
    pub(super) record: Option<Arc<RawRecord>>,
}

/// What the rules have made of a record or call.
#[derive(Debug)]
pub(super) enum Judged {
    /// It may become a job.
    Candidate(Box<Candidate>),
    /// It cannot.
    Letter(Box<DeadLetter>),
    /// It cannot yet, and is tried again.
    Wait(Box<Wait>),
}

/// What is to be admitted together, in the order in which it came.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Those that have a shard, from an earlier try.
    entries: Vec<Entry>,
    /// Those behind them, which have none yet.
    judged: Vec<Judged>,
    /// The tickets of tries whose answers were lost.
    pub(super) unanswered: Tickets,
}

impl Pending {
    pub(super) fn new(judged: Vec<Judged>) -> Self {
        Self { judged, ..Self::default() }
    }

    pub(super) fn of_candidate(candidate: Candidate) -> Self {
        Self::new(vec![Judged::Candidate(Box::new(candidate))])
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() + self.judged.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `at` and returns the others, which were never tried by themselves.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let at_entries = at.min(self.entries.len());
        let at_judged = (at - at_entries).min(self.judged.len());
        Self {
            entries: self.entries.split_off(at_entries),
            judged: self.judged.split_off(at_judged),
            unanswered: Tickets::default(),
        }
    }

    /// Appends what [`split_off`](Self::split_off) returned.
    pub(crate) fn append(&mut self, mut rest: Self) {
        // Those without a shard stand behind all others.
        debug_assert!(self.judged.is_empty() || rest.entries.is_empty(), "out of order");
        self.entries.append(&mut rest.entries);
        self.judged.append(&mut rest.judged);
    }

    /// The place of the first record in its partition.
    pub(crate) fn first_offset(&self) -> Option<i64> {
        match self.entries.first() {
            Some(entry) => entry.offset(),
            None => self.judged.first()?.offset(),
        }
    }

    /// The idempotency keys that they bring.
    pub(super) fn keys(&self) -> Vec<KeyId> {
        let of_entries = self.entries.iter().filter_map(key_of);
        let of_judged = self.judged.iter().filter_map(|one| match one {
            Judged::Candidate(candidate) => candidate.key.as_ref().map(|key| key.id),
            Judged::Letter(_) | Judged::Wait(_) => None,
        });
        of_entries.chain(of_judged).collect()
    }

    /// Makes a batch of them, each in a shard of this instance where it has one and `own`
    /// allows it. Until [`take_back`](Self::take_back) nothing is left here.
    pub(super) fn batch(
        &mut self,
        admission: &Admission,
        source: BatchSource,
        own: bool,
        read_first: bool,
    ) -> Arc<Batch> {
        let mut fences: Vec<ShardFence> = Vec::new();
        let mut own_shard = |app: &AppRow, job: JobId| {
            let fence = if own { admission.shards.choose(app.id, job) } else { None };
            if let Some(fence) = fence
                && !fences.contains(&fence)
            {
                fences.push(fence);
            }
            fence.map(|fence| fence.shard)
        };
        let mut entries = take(&mut self.entries);
        for entry in &mut entries {
            let Entry::Job(candidate) = entry else { continue };
            let shard = own_shard(&candidate.app, candidate.job.id);
            candidate.foreign = shard.is_none();
            let home = candidate.job.id.one_of(&candidate.app.shards).copied();
            candidate.job.shard = shard.or(home).unwrap_or(candidate.job.shard);
        }
        entries.extend(take(&mut self.judged).into_iter().map(|one| match one {
            Judged::Letter(letter) => Entry::Letter(letter),
            Judged::Wait(wait) => Entry::Wait(wait),
            Judged::Candidate(candidate) => {
                let shard = own_shard(&candidate.app, candidate.job.id);
                Entry::Job(Box::new(candidate.place(shard)))
            }
        }));
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

impl Judged {
    fn offset(&self) -> Option<i64> {
        let of_letter = |letter: &DeadLetter| letter.source.as_ref().map(|source| source.offset);
        match self {
            Self::Candidate(candidate) => candidate.job.origin.as_ref().map(|from| from.offset),
            Self::Letter(letter) => of_letter(letter),
            Self::Wait(wait) => of_letter(&wait.letter),
        }
    }
}

impl Candidate {
    /// With `own`, a shard of this instance, as its place.
    fn place(self, own: Option<ShardId>) -> PlacedCandidate {
        let Self { app, job, home, fingerprint, key, record } = self;
        let (job, foreign) = (job.in_shard(own.unwrap_or(home)), own.is_none());
        PlacedCandidate { app, job, fingerprint, key, foreign, record }
    }
}
