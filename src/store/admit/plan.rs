//! Decides on each entry of a batch by the existing rows, and which entries become jobs.

pub(super) mod names;
mod versioned;

use std::collections::{BTreeMap, HashMap};

use super::batch::{Batch, BatchSource, Decision, Entry, PlacedCandidate};
use super::known::{Earlier, Known};
use crate::model::ids::{JobId, KeyId};
use crate::model::job::Job;
use crate::model::letter::{DeadLetter, ErrorKind};
use crate::store::columns::keys::KeyRow;
use crate::store::letters;
use names::{NameState, NameWrites};

/// The rows to insert for a batch, and the decisions on its entries.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Entries that become jobs, as id and index. Sorted by id, so that batches lock rows in the same
    /// order.
    jobs: Vec<(JobId, usize)>,
    /// Those of them with an idempotency key, as key and index. Sorted by key.
    keys: Vec<(KeyId, usize)>,
    /// Keys to replace, with the end of their window as it was read.
    pub(super) expired: Vec<(KeyId, i64)>,
    /// The names that have operations or several schedules.
    names: BTreeMap<JobId, NameState>,
    /// The entries that insert jobs, if their names may occur again.
    places: HashMap<JobId, usize>,
    /// The jobs that are inserted otherwise than their requests say, by their entries.
    altered: HashMap<usize, Job>,
    /// What is written of these names besides.
    pub(super) name_writes: NameWrites,
    pub(super) decisions: Vec<Decision>,
}

/// The numbers to add to the totals of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) records: i64,
    pub(super) jobs: i64,
    pub(super) duplicates: i64,
    pub(super) operations: i64,
    pub(super) dead: i64,
    /// Negative if parked records became something else.
    pub(super) parked: i64,
}

/// The request ids and keys of earlier entries of the same batch, or of earlier dry runs.
#[derive(Debug, Default)]
pub struct Names {
    keys: HashMap<KeyId, Earlier>,
    jobs: HashMap<JobId, Earlier>,
}

impl Plan {
    pub(super) fn of(batch: &Batch, known: &Known) -> Self {
        let fresh = if known.is_empty() { Self::of_fresh(batch) } else { None };
        fresh.unwrap_or_else(|| Self::after(&mut Names::default(), batch, known))
    }

    /// The plan of a batch for which no rows exist and that contains no id or key twice. Nearly every
    /// batch is of this kind, so its ids are compared in place, without hash tables.
    fn of_fresh(batch: &Batch) -> Option<Self> {
        let mut plan = Self::default();
        plan.decisions.reserve(batch.entries.len());
        for (place, entry) in batch.entries.iter().enumerate() {
            plan.decisions.push(match entry {
                Entry::Job(candidate) => {
                    plan.jobs.push((candidate.job.id, place));
                    plan.keys.extend(candidate.key.as_ref().map(|key| (key.id, place)));
                    Decision::Accepted
                }
                // What it comes to depends on what exists.
                Entry::Operation(_) => return None,
                Entry::Letter(letter) => Decision::Dead(letter.refusal()),
                Entry::Wait(_) => Decision::Waits,
            });
        }
        plan.sort();
        let is_repeated = plan.jobs.windows(2).any(|pair| pair[0].0 == pair[1].0)
            || plan.keys.windows(2).any(|pair| pair[0].0 == pair[1].0);
        (!is_repeated).then_some(plan)
    }

    /// The plan of a batch if `names` are used already; adds the ids and keys of its jobs to them.
    pub(super) fn after(names: &mut Names, batch: &Batch, known: &Known) -> Self {
        let mut plan = Self::default();
        for (place, entry) in batch.entries.iter().enumerate() {
            let decision = match entry {
                Entry::Job(candidate) => plan.decide(batch, known, names, place, candidate),
                Entry::Operation(operation) => plan.operate(batch, known, operation),
                Entry::Letter(letter) => Decision::Dead(letter.refusal()),
                Entry::Wait(wait) => decide_wait(&wait.letter, known),
            };
            plan.decisions.push(decision);
        }
        plan.finish_names(batch);
        plan.sort();
        plan
    }

    /// Whether the batch has only new jobs, new keys and duplicates.
    pub(super) fn is_plain(&self) -> bool {
        let plain = |decision: &Decision| {
            matches!(decision, Decision::Accepted | Decision::Duplicate { .. })
        };
        self.expired.is_empty()
            && self.name_writes.before.is_empty()
            && self.name_writes.after.is_empty()
            && !self.jobs.is_empty()
            && self.decisions.iter().all(plain)
    }

    /// Whether the batch is a refused call or replay, which changes nothing in the database.
    pub(super) fn is_a_refusal(&self, batch: &Batch) -> bool {
        let writes_nothing = match batch.source {
            BatchSource::Replay { .. } => true,
            BatchSource::Call { .. } => !batch.verdicts,
            BatchSource::Records(_) | BatchSource::Parked { .. } => false,
        };
        let is_nothing = |decision: &Decision| match (decision, &batch.source) {
            (Decision::Dead(_), _) => true,
            (Decision::Operated { .. } | Decision::Asked(_), BatchSource::Call { .. }) => {
                self.name_writes.before.is_empty() && self.name_writes.after.is_empty()
            }
            _ => false,
        };
        writes_nothing && self.decisions.iter().all(is_nothing)
    }

    pub(super) fn candidates<'a>(
        &'a self,
        batch: &'a Batch,
    ) -> impl Iterator<Item = &'a PlacedCandidate> + Clone {
        self.jobs.iter().filter_map(|(_, place)| candidate(batch, *place))
    }

    pub(super) fn jobs<'a>(&'a self, batch: &'a Batch) -> Vec<&'a Job> {
        let job = |(_, place): &(JobId, usize)| match self.altered.get(place) {
            Some(job) => Some(job),
            None => candidate(batch, *place).map(|candidate| &candidate.job),
        };
        self.jobs.iter().filter_map(job).collect()
    }

    pub(super) fn keys<'a>(&'a self, batch: &'a Batch) -> Vec<KeyRow<'a>> {
        let row = |(_, place): &(KeyId, usize)| {
            let PlacedCandidate { app, job, fingerprint, key, .. } = candidate(batch, *place)?;
            Some(KeyRow { key: key.as_ref()?, app: app.id, job, fingerprint: *fingerprint })
        };
        self.keys.iter().filter_map(row).collect()
    }

    /// The numbers to add to the totals in the ledger.
    pub(super) fn totals(&self, batch: &Batch) -> Totals {
        let mut totals = Totals::default();
        for decision in &self.decisions {
            match decision {
                Decision::Accepted | Decision::Met { .. } => totals.jobs += 1,
                Decision::Operated { .. } | Decision::Asked(_) => totals.operations += 1,
                Decision::Duplicate { .. } => totals.duplicates += 1,
                Decision::Dead(_) => totals.dead += 1,
                Decision::Waits => totals.parked += 1,
            }
        }
        let all = i64::try_from(self.decisions.len()).unwrap_or(i64::MAX);
        match batch.source {
            BatchSource::Parked { .. } => Totals { parked: totals.parked - all, ..totals },
            BatchSource::Records(_) | BatchSource::Replay { .. } | BatchSource::Call { .. } => {
                Totals { records: all, ..totals }
            }
        }
    }

    fn decide(
        &mut self,
        batch: &Batch,
        known: &Known,
        names: &mut Names,
        place: usize,
        candidate: &PlacedCandidate,
    ) -> Decision {
        let id = candidate.job.id;
        let key = candidate.key.as_ref().map(|key| key.id);
        // The key of a cancelled job is free for every other request.
        let is_free = |earlier: &Earlier| earlier.cancelled && earlier.job != id;
        let stored = key.and_then(|key| known.keys.get(&key));
        let freed = stored.filter(|earlier| is_free(earlier));
        let earlier = stored.filter(|earlier| !is_free(earlier));
        let in_batch = key.and_then(|key| names.keys.get(&key));
        // Cancelled by an earlier entry: its key is free for others, too.
        let is_ended = |earlier: &&Earlier| {
            earlier.job != id && self.names.get(&earlier.job).is_some_and(NameState::is_cancelled)
        };
        let is_replaced = in_batch.is_some_and(|earlier| is_ended(&earlier));
        let earlier = earlier.or(in_batch.filter(|_| !is_replaced));
        let is_versioned = self.is_versioned(batch, known, candidate);
        // A key outlives its job, which has fired if it has no row.
        let is_there = in_batch.is_some_and(|earlier| earlier.job == id)
            || known
                .jobs
                .get(&id)
                .and_then(|earlier| earlier.row.as_ref())
                .is_some_and(|row| !row.is_tombstone || row.job.changes.cancelled.is_some());
        let is_versioned = is_versioned && (is_there || earlier.is_none());
        let own = earlier.filter(|earlier| earlier.job == id && is_versioned);
        if let Some(earlier) = earlier.filter(|_| own.is_none()) {
            // A job that was replaced has other data than the first request of its key.
            let replaced = known.jobs.get(&earlier.job).filter(|row| !row.cancelled);
            let replaced = replaced.filter(|row| row.has_version());
            let earlier = replaced.unwrap_or(earlier);
            return repeated(batch, candidate, earlier, ErrorKind::IdempotencyConflict);
        }
        if let Some(decision) = self.schedule(batch, known, place, candidate) {
            if matches!(decision, Decision::Met { .. })
                && let Some(key) = key
            {
                // The key of a job that was cancelled is that of the one which comes after it.
                let stored = stored.and_then(|earlier| earlier.expires_ms);
                let expired = known.free.iter().find(|free| free.id == key);
                let expired = expired.map(|free| free.expires_ms).or(stored);
                if !self.keys.iter().any(|(known, _)| *known == key) {
                    self.expired.extend(expired.map(|expires_ms| (key, expires_ms)));
                }
                self.keys.retain(|(known, _)| *known != key);
                self.keys.push((key, place));
            }
            return decision;
        }
        if let Some(earlier) = known.jobs.get(&id).or_else(|| names.jobs.get(&id)) {
            return repeated(batch, candidate, earlier, ErrorKind::RequestConflict);
        }
        if is_replaced {
            self.keys.retain(|(known, _)| Some(*known) != key);
        }
        let me = Earlier {
            job: id,
            request_id: candidate.job.request_id.clone(),
            fingerprint: candidate.fingerprint,
            scheduled_ms: Some(candidate.job.scheduled_ms),
            cancelled: false,
            expires_ms: None,
            row: None,
        };
        if let Some(key) = key {
            let expired = known.free.iter().find(|free| free.id == key).map(|free| free.expires_ms);
            let freed = freed.and_then(|earlier| earlier.expires_ms);
            if !is_replaced {
                self.expired.extend(expired.or(freed).map(|expires_ms| (key, expires_ms)));
            }
            self.keys.push((key, place));
            names.keys.insert(key, me.clone());
        }
        self.jobs.push((id, place));
        self.places.insert(id, place);
        names.jobs.insert(id, me);
        Decision::Accepted
    }

    fn sort(&mut self) {
        self.jobs.sort_unstable();
        self.keys.sort_unstable();
        self.expired.sort_unstable();
    }
}

/// The decision on a record that is to be parked. If the record is read again after that, its
/// existing row decides.
fn decide_wait(letter: &DeadLetter, known: &Known) -> Decision {
    let (app, request) = (letter.app.as_deref(), letter.request_id.as_deref());
    match known.letters.get(&letter.id()) {
        None => Decision::Waits,
        Some(&letters::PARKED) => {
            let (app, request) = (app.unwrap_or_default(), request.unwrap_or_default());
            let job = JobId::derive(app, request);
            Decision::Duplicate { of: request.to_owned(), job, cancelled: false }
        }
        Some(_) => Decision::Dead(letter.refusal()),
    }
}

pub(super) fn repeated(
    batch: &Batch,
    candidate: &PlacedCandidate,
    earlier: &Earlier,
    conflict: ErrorKind,
) -> Decision {
    if earlier.cancelled {
        let (of, job) = (earlier.request_id.clone(), earlier.job);
        return Decision::Duplicate { of, job, cancelled: true };
    }
    let other_time =
        earlier.scheduled_ms.is_some_and(|earlier| earlier != candidate.job.scheduled_ms);
    let same = earlier.fingerprint == candidate.fingerprint
        && !(batch.conflict_on_time && other_time)
        && (conflict != ErrorKind::RequestConflict
            || earlier.request_id == candidate.job.request_id);
    if same {
        let (of, job) = (earlier.request_id.clone(), earlier.job);
        return Decision::Duplicate { of, job, cancelled: false };
    }
    Decision::Dead(candidate.refusal(conflict, conflict_message(candidate, earlier, conflict)))
}

fn candidate(batch: &Batch, place: usize) -> Option<&PlacedCandidate> {
    match batch.entries.get(place) {
        Some(Entry::Job(candidate)) => Some(candidate),
        Some(Entry::Operation(_) | Entry::Letter(_) | Entry::Wait(_)) | None => None,
    }
}

fn conflict_message(candidate: &PlacedCandidate, earlier: &Earlier, kind: ErrorKind) -> String {
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
