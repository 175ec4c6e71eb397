//! The entries of a batch that are operations, or schedules of a name with versions or operations.

use super::super::batch::{Batch, Decision, PlacedCandidate, PlacedOperation};
use super::super::known::Known;
use super::names::NameState;
use super::{Plan, candidate};
use crate::model::change::{Answer, ChangeResult};
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::versions::schedule_version;

impl Plan {
    /// Whether the versions of the schedules of this request id differ, or operations came before.
    pub(super) fn is_versioned(
        &self,
        batch: &Batch,
        known: &Known,
        candidate: &PlacedCandidate,
    ) -> bool {
        let id = candidate.job.id;
        let version = |job: &Job| schedule_version(job.version);
        let differs = |job: &Job| version(job) != version(&candidate.job);
        if self.names.contains_key(&id) {
            return true;
        }
        match known.jobs.get(&id).and_then(|earlier| earlier.row.as_ref()) {
            Some(row) => row.is_tombstone || differs(&row.job),
            None => self.inserted(id, batch).is_some_and(|(_, earlier)| differs(&earlier.job)),
        }
    }

    /// The job that an earlier entry inserts.
    fn inserted<'a>(&self, id: JobId, batch: &'a Batch) -> Option<(usize, &'a PlacedCandidate)> {
        let place = *self.places.get(&id)?;
        Some((place, candidate(batch, place)?))
    }

    /// Decides on a schedule by the versions and operations of its request id, if there are some.
    pub(super) fn schedule(
        &mut self,
        batch: &Batch,
        known: &Known,
        place: usize,
        candidate: &PlacedCandidate,
    ) -> Option<Decision> {
        if !self.is_versioned(batch, known, candidate) {
            return None;
        }
        let state = self.state(batch, known, candidate.job.id)?;
        Some(state.schedule(candidate, place, batch))
    }

    pub(super) fn operate(
        &mut self,
        batch: &Batch,
        known: &Known,
        operation: &PlacedOperation,
    ) -> Decision {
        if let Some(state) = self.state(batch, known, operation.job) {
            return state.operate(operation, batch);
        }
        let mut state = NameState::unknown(operation, batch);
        if known.fired.contains(&operation.job) {
            let answer = Answer::no(ChangeResult::AlreadyFired, operation.job);
            return state.answered(operation, batch, answer);
        }
        let decision = state.operate(operation, batch);
        self.names.insert(operation.job, state);
        decision
    }

    /// The name of this job, if something is known of it.
    fn state(&mut self, batch: &Batch, known: &Known, id: JobId) -> Option<&mut NameState> {
        if !self.names.contains_key(&id) {
            let stored = known.jobs.get(&id);
            let stored = stored.and_then(|earlier| Some((earlier.row.as_ref()?, earlier)));
            let state = match stored {
                Some((row, earlier)) => NameState::of_row(row, earlier.fingerprint, batch.now_ms),
                None => {
                    let (place, candidate) = self.inserted(id, batch)?;
                    NameState::of_entry(candidate, place)
                }
            };
            self.names.insert(id, state);
        }
        self.names.get_mut(&id)
    }

    /// What the names come to at the end of the batch.
    pub(super) fn finish_names(&mut self, batch: &Batch) {
        if self.names.is_empty() {
            return;
        }
        let names = std::mem::take(&mut self.names);
        self.jobs.retain(|(id, _)| !names.contains_key(id));
        for (id, state) in names {
            let finished = state.finish(batch, &mut self.decisions, &mut self.name_writes);
            if let Some((place, job)) = finished {
                self.jobs.push((id, place));
                self.altered.insert(place, job);
            }
        }
    }
}
