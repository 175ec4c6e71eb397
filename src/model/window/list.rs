//! One list: the next jobs of one shard and priority, up to a mark.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::sync::Arc;

use super::blocked::Blocked;
use super::outstanding::ReadId;
use super::places::Key;
use crate::model::ids::JobId;
use crate::model::job::{Job, Priority};

/// Before every row: nothing of the list is known.
pub(super) fn before_all() -> Key {
    (i64::MIN, JobId::from_bytes([0; 16]))
}

/// After every row: all of the list is known.
pub(super) fn after_all() -> Key {
    (i64::MAX, JobId::from_bytes([u8::MAX; 16]))
}

/// The last place before `key`.
fn just_before((due_ms, id): Key) -> Key {
    match id.as_u128().checked_sub(1) {
        Some(id) => (due_ms, JobId::from_bytes(id.to_be_bytes())),
        None => (due_ms.saturating_sub(1), JobId::from_bytes([u8::MAX; 16])),
    }
}

/// A number of jobs and of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) jobs: usize,
    pub(super) bytes: usize,
}

impl Size {
    fn of(job: &Job) -> Self {
        Self { jobs: 1, bytes: job.size() }
    }

    pub(super) fn divided(self, by: usize) -> Self {
        Self { jobs: self.jobs / by.max(1), bytes: self.bytes / by.max(1) }
    }

    pub(super) fn max(self, other: Self) -> Self {
        Self { jobs: self.jobs.max(other.jobs), bytes: self.bytes.max(other.bytes) }
    }
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { jobs: self.jobs + other.jobs, bytes: self.bytes + other.bytes }
    }
}

/// Zero where the difference would be negative.
impl Sub for Size {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_sub(other.jobs),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// An outstanding page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutstandingPage {
    pub(super) read: ReadId,
    /// The expected size of its rows.
    pub(super) expected: Size,
}

/// The next jobs of one shard and priority.
///
/// *Invariant*: every live row at or before the mark is here, in flight, will be returned by
/// an outstanding ticket or look-up, or was dropped by `blocked`; none after it is in `jobs` or
/// `blocked`.
#[derive(Debug)]
pub(super) struct List {
    pub(super) priority: Priority,
    mark: Key,
    jobs: BTreeMap<Key, Arc<Job>>,
    /// Jobs that wait for their concurrency key.
    blocked: Blocked,
    /// Jobs beyond the mark that arrived while a page was outstanding. The page may have been
    /// read before their rows were inserted, and yet move the mark past them.
    waiting: BTreeMap<Key, Arc<Job>>,
    /// The first key evicted from `waiting`: the page must not move the mark past it.
    ceiling: Option<Key>,
    page: Option<OutstandingPage>,
    size: Size,
    /// The mean size of a row in the last page that had any.
    row_bytes: Option<usize>,
}

impl List {
    pub(super) fn new(priority: Priority) -> Self {
        Self {
            priority,
            mark: before_all(),
            jobs: BTreeMap::new(),
            blocked: Blocked::default(),
            waiting: BTreeMap::new(),
            ceiling: None,
            page: None,
            size: Size::default(),
            row_bytes: None,
        }
    }

    pub(super) fn mark(&self) -> Key {
        self.mark
    }

    pub(super) fn page(&self) -> Option<OutstandingPage> {
        self.page
    }

    /// The size of `jobs`, `blocked` and `waiting`.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn row_bytes(&self) -> Option<usize> {
        self.row_bytes
    }

    /// Whether the table may have further rows, and no page is outstanding.
    pub(super) fn is_open(&self) -> bool {
        self.page.is_none() && self.mark < after_all()
    }

    pub(super) fn head(&self) -> Option<&Arc<Job>> {
        self.jobs.first_key_value().map(|(_, job)| job)
    }

    /// The jobs that are due by `until_ms` and have not expired by then.
    pub(super) fn due(&self, until_ms: i64) -> impl Iterator<Item = &Arc<Job>> {
        let due = self.jobs.values().take_while(move |job| job.due_ms <= until_ms);
        due.filter(move |job| !job.is_expired(until_ms))
    }

    pub(super) fn take_head(&mut self) -> Option<Arc<Job>> {
        let (_, job) = self.jobs.pop_first()?;
        self.size = self.size - Size::of(&job);
        Some(job)
    }

    /// The jobs that wait for their concurrency key.
    pub(super) fn blocked(&self) -> &Blocked {
        &self.blocked
    }

    /// How many jobs there are that do not wait for their concurrency key.
    pub(super) fn unblocked(&self) -> usize {
        self.size.jobs - self.blocked.len()
    }

    /// Puts the first job aside until its concurrency key is free; the key may have `most` of them.
    /// Returns the job if there are more, and it is dropped from memory.
    pub(super) fn block_head(&mut self, most: usize) -> Option<Arc<Job>> {
        let (_, job) = self.jobs.pop_first()?;
        if self.blocked.add(&job, most) {
            return None;
        }
        self.size = self.size - Size::of(&job);
        Some(job)
    }

    /// Puts the first job that waits for this concurrency key back in its place.
    pub(super) fn unblock(&mut self, name: &str) -> bool {
        let Some(job) = self.blocked.pop(name) else { return false };
        self.jobs.insert(job.key(), job);
        true
    }

    /// If jobs of this concurrency key were dropped, moves the mark back before the first of them.
    /// Returns the jobs beyond it, which are dropped from memory.
    pub(super) fn read_dropped_again(&mut self, name: &str) -> Vec<Arc<Job>> {
        let Some(first) = self.blocked.first_dropped(name) else { return Vec::new() };
        let mut evicted = Vec::new();
        while self.last().is_some_and(|last| last.key() >= first)
            && let Some(job) = self.evict_last()
        {
            evicted.push(job);
        }
        self.move_mark_back(just_before(first));
        evicted
    }

    /// The last to fire.
    pub(super) fn last(&self) -> Option<&Arc<Job>> {
        let last_of =
            |jobs: &'_ BTreeMap<Key, Arc<Job>>| jobs.last_key_value().map(|(key, _)| *key);
        if let Some((_, job)) = self.waiting.last_key_value() {
            return Some(job);
        }
        let key = last_of(&self.jobs).max(last_of(self.blocked.jobs()))?;
        self.jobs.get(&key).or_else(|| self.blocked.jobs().get(&key))
    }

    /// Whether a row that is known to be in the table belongs in memory now; else a later page
    /// returns it.
    pub(super) fn accepts(&self, key: Key) -> bool {
        let below_ceiling = self.ceiling.is_none_or(|ceiling| key < ceiling);
        key <= self.mark || self.page.is_some() && below_ceiling
    }

    /// Adds a job: to `jobs` up to the mark, to `waiting` beyond it.
    pub(super) fn put(&mut self, job: Arc<Job>) {
        let held = if job.key() <= self.mark { &mut self.jobs } else { &mut self.waiting };
        self.size = self.size + Size::of(&job);
        held.insert(job.key(), job);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Arc<Job>> {
        let job = self
            .jobs
            .remove(&key)
            .or_else(|| self.waiting.remove(&key))
            .or_else(|| self.blocked.remove(key))?;
        self.size = self.size - Size::of(&job);
        Some(job)
    }

    /// Drops the last job to fire from memory. The mark goes back before it, so that its row is
    /// read again.
    pub(super) fn evict_last(&mut self) -> Option<Arc<Job>> {
        let (key, job) = match self.waiting.pop_last() {
            Some((key, job)) => {
                self.ceiling = Some(key);
                (key, job)
            }
            None => {
                let key = self.last()?.key();
                (key, self.jobs.remove(&key).or_else(|| self.blocked.remove(key))?)
            }
        };
        self.move_mark_back(just_before(key));
        self.size = self.size - Size::of(&job);
        Some(job)
    }

    fn move_mark_back(&mut self, mark: Key) {
        self.mark = self.mark.min(mark);
        self.blocked.mark_moved_to(self.mark);
    }

    pub(super) fn open_page(&mut self, page: OutstandingPage) {
        self.page = Some(page);
    }

    /// Ends the page, whose rows end at `reached`; `None` if it was not read. Returns the waiting
    /// jobs that are still beyond the mark, which are dropped from memory.
    pub(super) fn close_page(&mut self, reached: Option<Key>) -> BTreeMap<Key, Arc<Job>> {
        self.page = None;
        let ceiling = self.ceiling.take().map_or(after_all(), just_before);
        if let Some(reached) = reached {
            self.mark = reached.min(ceiling);
        }
        let mut left = std::mem::take(&mut self.waiting);
        while let Some(first) = left.first_entry().filter(|first| *first.key() <= self.mark) {
            let (key, job) = first.remove_entry();
            self.jobs.insert(key, job);
        }
        self.size = left.values().fold(self.size, |size, job| size - Size::of(job));
        left
    }

    /// Notes the mean size of these rows.
    pub(super) fn note_rows(&mut self, rows: &[Job]) {
        if !rows.is_empty() {
            self.row_bytes = Some(rows.iter().map(Job::size).sum::<usize>() / rows.len());
        }
    }

    /// Drops all jobs and moves the mark to the start. Returns the jobs, and the page that was
    /// outstanding.
    pub(super) fn forget(
        &mut self,
    ) -> (impl Iterator<Item = Arc<Job>> + use<>, Option<OutstandingPage>) {
        let row_bytes = self.row_bytes;
        let old = std::mem::replace(self, Self { row_bytes, ..Self::new(self.priority) });
        let blocked: Vec<_> = old.blocked.jobs().values().cloned().collect();
        (old.jobs.into_values().chain(old.waiting.into_values()).chain(blocked), old.page)
    }
}

#[cfg(test)]
impl List {
    pub(super) fn jobs(&self) -> &BTreeMap<Key, Arc<Job>> {
        &self.jobs
    }

    pub(super) fn waiting(&self) -> &BTreeMap<Key, Arc<Job>> {
        &self.waiting
    }
}
