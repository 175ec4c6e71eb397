//! The entries of a batch that are operations, or schedules of a name with versions or operations.

use super::super::batch::{
    Batch, BatchSource, Decision, OperationName, PlacedCandidate, PlacedOperation,
};
use super::super::known::Known;
use super::names::NameState;
use super::{Names, Plan, candidate};
use crate::model::change::{Answer, ChangeResult};
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::versions::{Memory, schedule_version};

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

    /// The request id of a schedule whose job was cancelled, if its version does not revive that.
    pub(super) fn cancelled_by(
        &self,
        known: &Known,
        candidate: &PlacedCandidate,
    ) -> Option<String> {
        let id = candidate.job.id;
        let job = match self.names.get(&id) {
            Some(state) => state.cancelled()?,
            None => {
                let earlier = known.jobs.get(&id).filter(|earlier| earlier.cancelled)?;
                &earlier.row.as_ref()?.job
            }
        };
        let highest = job.memory().cancelled.max(Some(schedule_version(job.version)));
        let is_repeated = Some(schedule_version(candidate.job.version)) <= highest;
        is_repeated.then(|| job.request_id.clone())
    }

    /// Whether records that came before have asked for the cancellation of this live job, which
    /// its owner has not carried out yet. Afterwards its key is free.
    pub(super) fn is_being_cancelled(&self, batch: &Batch, known: &Known, job: JobId) -> bool {
        let is_asked = self.cancelling.contains(&job) || batch.cancelling.contains(&job);
        let row = known.jobs.get(&job).and_then(|earlier| earlier.row.as_ref());
        let waits = row.is_some_and(|row| !row.is_tombstone && row.job.changes.cancelled.is_none());
        is_asked && waits && matches!(batch.source, BatchSource::Records(_))
    }

    /// The job that an earlier entry inserts.
    fn inserted<'a>(&self, id: JobId, batch: &'a Batch) -> Option<(usize, &'a PlacedCandidate)> {
        let place = *self.places.get(&id)?;
        Some((place, candidate(batch, place)?))
    }

    /// Decides on a schedule of the key of a live job with another request id, if their versions
    /// differ.
    pub(super) fn replace_by_key(
        &mut self,
        batch: &Batch,
        known: &Known,
        place: usize,
        candidate: &PlacedCandidate,
        job: JobId,
    ) -> Option<Decision> {
        if let Some(state) = self.names.get_mut(&job).filter(|_| job != candidate.job.id) {
            state.live_version()?;
            return Some(state.schedule(candidate, place, batch));
        }
        let version = |job: &Job| schedule_version(job.version);
        let stored = known.jobs.get(&job).and_then(|earlier| earlier.row.as_ref());
        let stored = stored.map(|row| version(&row.job));
        let theirs = stored.or_else(|| Some(version(&self.inserted(job, batch)?.1.job)));
        theirs.filter(|theirs| *theirs != version(&candidate.job))?;
        let state = self.state(batch, known, job)?;
        state.live_version()?;
        Some(state.schedule(candidate, place, batch))
    }

    /// Decides on a schedule by the versions and operations of its request id, and by what is
    /// remembered of its key.
    pub(super) fn schedule(
        &mut self,
        batch: &Batch,
        known: &Known,
        place: usize,
        candidate: &PlacedCandidate,
        of_key: &Memory,
    ) -> Option<Decision> {
        let job = &candidate.job;
        if self.state(batch, known, job.id).is_none() {
            if of_key.is_empty() {
                return None;
            }
            let state = NameState::unknown(job.id, job.shard, &job.request_id, batch);
            self.names.insert(job.id, state);
        }
        let state = self.names.get_mut(&job.id)?;
        state.add(of_key);
        Some(state.schedule(candidate, place, batch))
    }

    pub(super) fn operate(
        &mut self,
        batch: &Batch,
        known: &Known,
        names: &Names,
        operation: &PlacedOperation,
    ) -> Decision {
        let (job, id) = match &operation.name {
            OperationName::Request { job, id } => (*job, id),
            OperationName::Key(key) => {
                return self.operate_by_key(batch, known, names, operation, key);
            }
        };
        if let Some(state) = self.state(batch, known, job) {
            return state.operate(operation, batch);
        }
        let mut state = NameState::unknown(job, operation.shard, id, batch);
        if known.fired.contains(&job) {
            let answer = Answer::no(ChangeResult::AlreadyFired, job);
            return state.answered(operation, batch, answer);
        }
        let decision = state.operate(operation, batch);
        self.names.insert(job, state);
        decision
    }

    /// The name of this job, if something is known of it.
    pub(super) fn state(
        &mut self,
        batch: &Batch,
        known: &Known,
        id: JobId,
    ) -> Option<&mut NameState> {
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
