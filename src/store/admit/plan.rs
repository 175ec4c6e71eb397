//! Judging a batch by what is known: which rows it makes, and the fate of each entry.

use std::collections::HashMap;

use infinite_scheduler_entity::dead_letter;

use super::known::{Earlier, Known};
use super::{Batch, Candidate, Entry, Fate};
use crate::model::ids::{JobId, KeyId};
use crate::model::letter::{DeadLetter, ErrorKind, Refusal};
use crate::store::letters::{self, Lane};

/// The rows that a batch makes. Places are indexes into its entries.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Candidates that become jobs, by id, so that two batches lock rows in one order.
    jobs: Vec<usize>,
    /// Those of them that bring a key, by key.
    keys: Vec<usize>,
    /// Keys to replace, with the end of their window as it was read.
    pub(super) expired: Vec<(KeyId, i64)>,
    pub(super) letters: Vec<dead_letter::Model>,
    pub(super) fates: Vec<Fate>,
    pub(super) duplicates: i64,
}

/// Names that earlier entries of the same batch have taken.
#[derive(Default)]
struct Taken {
    keys: HashMap<KeyId, Earlier>,
    jobs: HashMap<JobId, Earlier>,
}

impl Plan {
    pub(super) fn of(batch: &Batch, known: &Known) -> Self {
        let mut plan = Self::default();
        let mut taken = Taken::default();
        for (place, entry) in batch.entries.iter().enumerate() {
            let fate = match entry {
                Entry::Job(candidate) => plan.judge(batch, known, &mut taken, place, candidate),
                Entry::Letter(letter) => plan.bury(letter),
            };
            plan.fates.push(fate);
        }
        plan.sort(batch);
        plan
    }

    /// Only new jobs and keys, for shards of ours, from a partition.
    pub(super) fn is_plain(&self) -> bool {
        self.letters.is_empty() && self.expired.is_empty() && !self.jobs.is_empty()
    }

    pub(super) fn jobs<'a>(
        &'a self,
        batch: &'a Batch,
    ) -> impl Iterator<Item = &'a Candidate> + Clone {
        self.jobs.iter().filter_map(|place| candidate(batch, *place))
    }

    pub(super) fn keys<'a>(
        &'a self,
        batch: &'a Batch,
    ) -> impl Iterator<Item = &'a Candidate> + Clone {
        self.keys.iter().filter_map(|place| candidate(batch, *place))
    }

    /// The totals that go into the ledger: jobs, duplicates, dead letters.
    pub(super) fn totals(&self) -> [i64; 3] {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let dead = self.fates.iter().filter(|fate| matches!(fate, Fate::Dead(_))).count();
        [count(self.jobs.len()), self.duplicates, count(dead)]
    }

    /// The lane of this batch's letters.
    pub(super) fn lane(batch: &Batch) -> Option<i64> {
        Some(Lane::Partition(batch.advance.as_ref()?.ledger).number())
    }

    fn judge(
        &mut self,
        batch: &Batch,
        known: &Known,
        taken: &mut Taken,
        place: usize,
        candidate: &Candidate,
    ) -> Fate {
        let id = candidate.job.id;
        let key = candidate.key.as_ref().map(|key| key.id);
        let earlier = key.and_then(|key| known.keys.get(&key).or_else(|| taken.keys.get(&key)));
        if let Some(earlier) = earlier {
            return self.repeated(batch, candidate, earlier, ErrorKind::IdempotencyConflict);
        }
        if let Some(earlier) = known.jobs.get(&id).or_else(|| taken.jobs.get(&id)) {
            return self.repeated(batch, candidate, earlier, ErrorKind::RequestConflict);
        }
        let me = Earlier {
            job: id,
            request_id: candidate.job.request_id.clone(),
            fingerprint: candidate.fingerprint,
            scheduled_ms: candidate.job.scheduled_ms,
        };
        if let Some(key) = key {
            self.expired.extend(known.expired.iter().find(|(expired, _)| *expired == key));
            self.keys.push(place);
            taken.keys.insert(key, me.clone());
        }
        self.jobs.push(place);
        taken.jobs.insert(id, me);
        Fate::Accepted
    }

    fn repeated(
        &mut self,
        batch: &Batch,
        candidate: &Candidate,
        earlier: &Earlier,
        conflict: ErrorKind,
    ) -> Fate {
        let other_time = earlier.scheduled_ms != candidate.job.scheduled_ms;
        let same = earlier.fingerprint == candidate.fingerprint
            && !(batch.conflict_on_time && other_time)
            && (conflict != ErrorKind::RequestConflict
                || earlier.request_id == candidate.job.request_id);
        if same {
            self.duplicates += 1;
            return Fate::Duplicate { of: earlier.request_id.clone(), job: earlier.job };
        }
        let refusal = candidate.refusal(conflict, conflict_message(candidate, earlier, conflict));
        if let Some(letter) = candidate.letter(refusal.clone(), batch.now_ms) {
            self.letters.push(letters::encode(&letter));
        }
        Fate::Dead(refusal)
    }

    fn bury(&mut self, letter: &DeadLetter) -> Fate {
        self.letters.push(letters::encode(letter));
        Fate::Dead(Refusal {
            kind: letter.kind,
            message: letter.message.clone(),
            request_id: letter.request_id.clone(),
            app: letter.app.clone(),
        })
    }

    fn sort(&mut self, batch: &Batch) {
        self.jobs.sort_unstable_by_key(|place| candidate(batch, *place).map(|c| c.job.id));
        self.keys.sort_unstable_by_key(|place| {
            candidate(batch, *place).and_then(|c| c.key.as_ref()).map(|key| key.id)
        });
        self.expired.sort_unstable();
        self.letters.sort_by_key(|letter| letter.source_offset);
    }
}

fn candidate(batch: &Batch, place: usize) -> Option<&Candidate> {
    match batch.entries.get(place) {
        Some(Entry::Job(candidate)) => Some(candidate),
        _ => None,
    }
}

fn conflict_message(candidate: &Candidate, earlier: &Earlier, kind: ErrorKind) -> String {
    let first = &earlier.request_id;
    let difference = if earlier.fingerprint == candidate.fingerprint {
        "another scheduledTime"
    } else {
        "other jobData"
    };
    match (&candidate.key, kind) {
        (Some(key), ErrorKind::IdempotencyConflict) => format!(
            "idempotencyKey \"{}\" stands for request \"{first}\" with {difference}: \
             use another key for another job",
            key.name
        ),
        _ => format!(
            "requestId \"{first}\" stands for a live job with {difference}: \
             use another requestId for another job"
        ),
    }
}
