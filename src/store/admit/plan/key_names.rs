//! Operations that name their job by an idempotency key: on the job that the key stands for, or
//! remembered in the key's own row until a job comes.

use std::collections::BTreeMap;

use super::super::batch::{Batch, Decision, PlacedOperation};
use super::super::known::{Earlier, Known};
use super::{Names, Plan};
use crate::model::change::named::{Named, NamedChange};
use crate::model::change::{Answer, ChangeResult};
use crate::model::ids::{AppId, JobId, KeyId};
use crate::model::versions::{Effect, Memory, Moved, Standing};
use crate::store::IdempotencyKey;
use crate::store::job_rows::{insert_awaited_key, remember_key, update_key_memory};

/// What a batch writes of keys besides those of its jobs.
#[derive(Debug, Default)]
pub(super) struct KeyNames {
    /// Keys that have no job.
    awaited: BTreeMap<KeyId, Awaited>,
    /// What is remembered of keys that have got a job by this batch.
    with_new_job: BTreeMap<KeyId, Memory>,
    /// Of keys that had one before: operations with a version hold for their next jobs as well.
    with_job: BTreeMap<KeyId, Remembered>,
}

#[derive(Debug)]
struct Awaited {
    key: IdempotencyKey,
    app: AppId,
    memory: Memory,
    /// The end of the window of the row that is replaced.
    stored_ms: Option<i64>,
    is_changed: bool,
}

/// What is remembered of a key with a job, and its row as it was read.
#[derive(Debug)]
struct Remembered {
    job: JobId,
    expires_ms: i64,
    memory: Memory,
    is_changed: bool,
}

impl KeyNames {
    fn is_empty(&self) -> bool {
        let Self { awaited, with_new_job, with_job } = self;
        awaited.is_empty() && with_new_job.is_empty() && with_job.is_empty()
    }

    /// What is remembered of a key, which `stored` has.
    pub(super) fn memory(&self, key: KeyId, stored: Option<&Earlier>) -> Memory {
        let awaited = self.awaited.get(&key).map(|awaited| &awaited.memory);
        let with_job = self.with_job.get(&key).map(|remembered| &remembered.memory);
        let memory = awaited.or(with_job).or(self.with_new_job.get(&key));
        memory.or(stored.map(|earlier| &earlier.memory)).cloned().unwrap_or_default()
    }

    /// The key has got a job, and this was remembered of it.
    pub(super) fn got_job(&mut self, key: KeyId, memory: Memory) {
        self.awaited.remove(&key);
        self.with_job.remove(&key);
        self.with_new_job.insert(key, memory.without_waiting());
    }

    /// An operation with a version on a key that has a job.
    fn remember(&mut self, key: KeyId, stored: Option<&Earlier>, change: &NamedChange) {
        if let Some(memory) = self.with_new_job.get_mut(&key) {
            apply(change, memory);
        } else if let Some(Earlier { job, expires_ms: Some(expires_ms), memory, .. }) = stored {
            let (job, expires_ms) = (*job, *expires_ms);
            let new = || Remembered { job, expires_ms, memory: memory.clone(), is_changed: false };
            let remembered = self.with_job.entry(key).or_insert_with(new);
            let before = remembered.memory.clone();
            apply(change, &mut remembered.memory);
            remembered.is_changed |= remembered.memory != before;
        }
    }
}

/// Remembers an operation on a key.
fn apply(change: &NamedChange, memory: &mut Memory) -> Effect {
    match change.change {
        Named::Reschedule(to_ms) => {
            let moved = Moved { version: change.version, to_ms, by_key: true };
            memory.reschedule(Standing::Awaited, moved)
        }
        // A schedule is never remembered.
        Named::Cancel | Named::Replace(_) => memory.cancel(Standing::Awaited, change.version),
    }
}

impl Plan {
    pub(super) fn operate_by_key(
        &mut self,
        batch: &Batch,
        known: &Known,
        names: &Names,
        operation: &PlacedOperation,
        key: &IdempotencyKey,
    ) -> Decision {
        let stored = known.keys.get(&key.id);
        let in_batch = names.keys.get(&key.id).map(|earlier| earlier.job);
        let job = in_batch.or_else(|| Some(stored.filter(|key| !key.is_awaited())?.job));
        match job {
            Some(job) => {
                let answered = self.operate_on_job_of_key(batch, known, operation, job);
                // It holds for every schedule with the key, whatever it comes to for this one.
                if operation.change.version.is_some()
                    && let Some(answered) = &answered
                    && !matches!(answered, Decision::Dead(_))
                {
                    self.key_names.remember(key.id, stored, &operation.change);
                }
                let fired = || Answer::no(ChangeResult::AlreadyFired, job);
                answered.unwrap_or_else(|| operated(operation, batch, fired()))
            }
            None => {
                let free = known.free.iter().find(|free| free.id == key.id);
                let stored_ms = free.map(|free| free.expires_ms);
                let stored_ms = stored_ms.or(stored.and_then(|earlier| earlier.expires_ms));
                let memory = stored.map(|earlier| earlier.memory.clone()).unwrap_or_default();
                let new = || Awaited {
                    key: key.clone(),
                    app: operation.app.id,
                    memory,
                    stored_ms,
                    is_changed: false,
                };
                self.key_names.awaited.entry(key.id).or_insert_with(new).operate(operation, batch)
            }
        }
    }

    /// `None` if the job has fired.
    fn operate_on_job_of_key(
        &mut self,
        batch: &Batch,
        known: &Known,
        operation: &PlacedOperation,
        job: JobId,
    ) -> Option<Decision> {
        // A key outlives its job, which has fired if it has no row, or that of an awaited name.
        let state = self.state(batch, known, job).filter(|state| !state.is_awaited());
        Some(state?.operate(operation, batch))
    }

    /// What is written of the keys at the end of the batch.
    pub(super) fn finish_keys(&mut self, batch: &Batch) {
        if self.key_names.is_empty() {
            return;
        }
        let KeyNames { awaited, with_new_job, with_job } = std::mem::take(&mut self.key_names);
        for (id, awaited) in awaited {
            if awaited.is_changed {
                self.expired.extend(awaited.stored_ms.map(|expires_ms| (id, expires_ms)));
                let until_ms = batch.now_ms.saturating_add(batch.window_ms);
                // A row that is replaced is known by the end of its window.
                let next_ms = awaited.stored_ms.map_or(until_ms, |ms| ms.saturating_add(1));
                let Awaited { key, app, memory, .. } = awaited;
                let insert = insert_awaited_key(&key, app, &memory, until_ms.max(next_ms));
                self.name_writes.after.push(insert);
            }
        }
        for (key, memory) in with_new_job {
            if !memory.is_empty() {
                self.name_writes.after.push(update_key_memory(key, &memory));
            }
        }
        for (key, Remembered { job, expires_ms, memory, is_changed }) in with_job {
            if is_changed {
                self.name_writes.before.push(remember_key(key, job, expires_ms, &memory));
            }
        }
    }
}

impl Awaited {
    fn operate(&mut self, operation: &PlacedOperation, batch: &Batch) -> Decision {
        let before = self.memory.clone();
        let result = match apply(&operation.change, &mut self.memory) {
            Effect::Superseded => ChangeResult::Superseded,
            Effect::Applied | Effect::Remembered | Effect::Unchanged => ChangeResult::Remembered,
        };
        self.is_changed |= before != self.memory;
        let answer = Answer::no(result, JobId::from_bytes([0; 16]));
        operated(operation, batch, Answer { job_id: None, ..answer })
    }
}

fn operated(operation: &PlacedOperation, batch: &Batch, answer: Answer) -> Decision {
    let events = match batch.verdicts {
        true => {
            let app = &operation.app.name;
            operation.change.events(app, None, None, Ok(&answer), batch.now_ms)
        }
        false => Vec::new(),
    };
    Decision::Operated { answer: Box::new(answer), shard: operation.shard, events }
}
