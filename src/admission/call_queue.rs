//! Calls that wait for their admission, so that those which come at the same time share a
//! transaction.
//!
//! Nothing is delayed for that: a call that finds a writer free is admitted at once, and what
//! comes while all writers are busy is the next batch of the first that is free again. Callers
//! await their answers, which bounds the queue.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::bounded_tries::End;
use crate::model::ids::{JobId, KeyId};
use crate::store::{Decision, Entry};

/// Batches that are admitted at the same time.
const WRITERS: usize = 3;
/// Calls in one batch.
const BATCH: usize = 1000;
/// The job data in one batch, in bytes, one call aside: what the database is sent stays far below
/// the packet size that MariaDB has by default.
const BATCH_BYTES: usize = 4 << 20;

/// A call that waits.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) entry: Entry,
    /// Where its decision goes; an error if the writer failed.
    pub(super) answer: oneshot::Sender<Result<Decision, End>>,
}

/// The calls that wait, and how many writers there are.
#[derive(Debug, Default)]
pub(super) struct CallQueue(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Call>,
    writers: usize,
}

/// The right to take batches of calls.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    queue: &'a CallQueue,
    has_ended: bool,
}

impl CallQueue {
    /// Appends `calls`. True if another writer is to be [started](Self::writer) for them.
    pub(super) fn push(&self, calls: impl IntoIterator<Item = Call>) -> bool {
        let mut queue = self.lock();
        queue.waiting.extend(calls);
        let starts = queue.writers < WRITERS && !queue.waiting.is_empty();
        queue.writers += usize::from(starts);
        starts
    }

    /// The writer that [`push`](Self::push) asked for.
    pub(super) fn writer(&self) -> Writer<'_> {
        Writer { queue: self, has_ended: false }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer<'_> {
    /// The next batch, in the order in which its calls came; `None` if nothing waits, and then
    /// this is no writer any more.
    ///
    /// No two calls of a batch have a name in common: a try without an answer would not tell
    /// which of them it had admitted.
    pub(super) fn take(&mut self) -> Option<Vec<Call>> {
        let mut queue = self.queue.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let (mut jobs, mut keys) = (HashSet::<JobId>::new(), HashSet::<KeyId>::new());
        let mut later = VecDeque::new();
        while let Some(call) = queue.waiting.pop_front() {
            let (job, key, size) = match &call.entry {
                Entry::Job(candidate) => {
                    let key = candidate.key.as_ref().map(|key| key.id);
                    (Some(candidate.job.id), key, candidate.job.data.as_str().len())
                }
                Entry::Operation(operation) => (Some(operation.job), None, 0),
                Entry::Letter(_) | Entry::Wait(_) => (None, None, 0),
            };
            bytes += size;
            if batch.len() == BATCH || (bytes > BATCH_BYTES && !batch.is_empty()) {
                queue.waiting.push_front(call);
                break;
            }
            // Also a repeat of what is put off is put off: their order stays.
            let is_new_job = job.is_none_or(|job| jobs.insert(job));
            let is_new_key = key.is_none_or(|key| keys.insert(key));
            match is_new_job && is_new_key {
                true => batch.push(call),
                false => later.push_back(call),
            }
        }
        while let Some(call) = later.pop_back() {
            queue.waiting.push_front(call);
        }
        if batch.is_empty() {
            queue.writers -= 1;
            self.has_ended = true;
            return None;
        }
        Some(batch)
    }
}

impl Drop for Writer<'_> {
    /// One that panicked leaves its place to another.
    fn drop(&mut self) {
        if !self.has_ended {
            self.queue.lock().writers -= 1;
        }
    }
}
