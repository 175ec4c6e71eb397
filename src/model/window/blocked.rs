//! The jobs of one list that are due and wait for their concurrency key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::places::Key;
use crate::model::job::Job;

/// The jobs of one list that were their turn, and wait for their concurrency key.
///
/// A flood of one key must not fill the window, so a key may have only so many jobs here. Further
/// ones are dropped from memory, and so are all later ones of that key, until those that are here
/// have had their turn: then the rows are read again from the first that was dropped.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    jobs: BTreeMap<Key, Arc<Job>>,
    by_key: HashMap<Arc<str>, BTreeSet<Key>>,
    /// The first place of which a job was dropped, by concurrency key.
    dropped: HashMap<Arc<str>, Key>,
}

impl Blocked {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// The jobs, in the order of the list.
    pub(super) fn jobs(&self) -> &BTreeMap<Key, Arc<Job>> {
        &self.jobs
    }

    /// Takes a job that waits for its key, which may have `most` here. False if it is dropped.
    pub(super) fn add(&mut self, job: &Arc<Job>, most: usize) -> bool {
        let Some(name) = job.concurrency_key.as_deref() else { return false };
        if self.is_dropped(job) {
            return false;
        }
        let of_key = self.by_key.get(name).map_or(0, BTreeSet::len);
        if of_key >= most {
            self.dropped.insert(name.into(), job.key());
            return false;
        }
        self.by_key.entry(name.into()).or_default().insert(job.key());
        self.jobs.insert(job.key(), job.clone());
        true
    }

    /// Takes the first job of this key out.
    pub(super) fn pop(&mut self, name: &str) -> Option<Arc<Job>> {
        let first = *self.by_key.get(name)?.first()?;
        self.remove(first)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Arc<Job>> {
        let job = self.jobs.remove(&key)?;
        if let Some(name) = job.concurrency_key.as_deref()
            && let Some(places) = self.by_key.get_mut(name)
        {
            places.remove(&key);
            if places.is_empty() {
                self.by_key.remove(name);
            }
        }
        Some(job)
    }

    /// Whether a row is known to be missing in memory, since it was dropped here.
    pub(super) fn is_dropped(&self, job: &Job) -> bool {
        let Some(name) = job.concurrency_key.as_deref() else { return false };
        self.dropped.get(name).is_some_and(|first| *first <= job.key())
    }

    /// The first place of which a job of this key was dropped.
    pub(super) fn first_dropped(&self, name: &str) -> Option<Key> {
        self.dropped.get(name).copied()
    }

    /// Notes that all rows after `mark` are to be read again.
    pub(super) fn mark_moved_to(&mut self, mark: Key) {
        self.dropped.retain(|_, first| *first <= mark);
    }
}
