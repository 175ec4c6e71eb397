//! A naive world around a window: a table, transactions that end at any moment, answers that
//! arrive at any later one, and what must be true after each of these.

mod checks;
mod firing;
mod others;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::ids::{Epoch, JobId, ShardId};
use crate::model::job::{Changes, Job, JobData, Priority};
use crate::model::window::{Audit, LookUp, PageRequest, TicketId, Window, WindowLimits, Withdrawn};

/// A job without anything special.
pub(super) fn job(id: u8, shard: i32, priority: Priority, due_ms: i64) -> Job {
    Job {
        id: id_of(id),
        shard: ShardId(shard),
        priority,
        due_ms,
        request_id: String::new(),
        scheduled_ms: due_ms,
        expires_ms: None,
        flexible_ms: None,
        concurrency_key: None,
        created_ms: 0,
        attempts: 0,
        max_attempts: None,
        timeout_ms: None,
        data: JobData::default(),
        trace: None,
        origin: None,
        last_error: None,
        letter: None,
        version: None,
        changes: Changes::default(),
    }
}

pub(super) fn id_of(id: u8) -> JobId {
    JobId::from_bytes([id; 16])
}

/// How many shards there are; not all are ours all the time.
pub(super) const SHARDS: i32 = 2;

/// An admission under way.
#[derive(Debug)]
struct Admission {
    ticket: TicketId,
    /// How many windows there had been when it began.
    windows: usize,
    staged: Vec<(Job, Option<Epoch>)>,
    inserted: Option<Vec<Job>>,
}

/// An attempt under way.
#[derive(Debug)]
struct Run {
    job: Job,
    epoch: Option<Epoch>,
    /// What was committed and not yet passed to the window: the row as it is, or its end.
    committed: Option<Option<Job>>,
}

/// Something to read, and what was read once it has been.
#[derive(Debug)]
struct Reading<T> {
    what: T,
    rows: Option<Vec<Job>>,
}

/// The window in its world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) window: Window,
    windows: usize,
    limits: WindowLimits,
    pub(super) now_ms: i64,
    /// Rows differ in their request id whenever they are written, so that none passes for
    /// an older one.
    pub(super) table: BTreeMap<JobId, Job>,
    writes: u32,
    epochs: BTreeMap<ShardId, (Epoch, bool)>,
    admissions: Vec<Admission>,
    pages: Vec<Reading<PageRequest>>,
    look_ups: Vec<Reading<LookUp>>,
    audits: Vec<Reading<Audit>>,
    running: BTreeMap<JobId, Run>,
    /// Withdrawn though they were not in memory; their rows have not been read yet. With the epoch
    /// at which the shard was ours.
    withdrawn: BTreeMap<JobId, (ShardId, Epoch)>,
    /// Inserted into the table by another process; the command that announces it has not yet been
    /// read.
    untold: Vec<JobId>,
    pub(super) taken: usize,
}

/// Removes the element that a random number selects.
fn pick<T>(from: &mut Vec<T>, nth: u8) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(usize::from(nth) % from.len()))
}

impl World {
    pub(super) fn new(limits: WindowLimits) -> Self {
        let mut world = Self {
            window: Window::new(limits),
            windows: 1,
            limits,
            now_ms: 0,
            table: BTreeMap::new(),
            writes: 0,
            epochs: (0..SHARDS).map(|shard| (ShardId(shard), (Epoch(1), true))).collect(),
            admissions: Vec::new(),
            pages: Vec::new(),
            look_ups: Vec::new(),
            audits: Vec::new(),
            running: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            untold: Vec::new(),
            taken: 0,
        };
        world.add_our_shards();
        world
    }

    fn add_our_shards(&mut self) {
        for (shard, (epoch, ours)) in &self.epochs {
            if *ours {
                self.window.add_shard(*shard, *epoch);
            }
        }
    }

    fn our_epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.epochs.get(&shard).and_then(|(epoch, ours)| ours.then_some(*epoch))
    }

    fn write(&mut self, mut job: Job) -> Job {
        self.writes += 1;
        job.request_id = format!("write {:06}", self.writes);
        self.table.insert(job.id, job.clone());
        job
    }

    // Admissions.

    pub(super) fn begin_admission(&mut self) {
        let ticket = self.window.take_ticket();
        self.admissions.push(Admission {
            ticket,
            windows: self.windows,
            staged: Vec::new(),
            inserted: None,
        });
    }

    pub(super) fn stage(&mut self, nth: u8, mut job: Job) {
        job.created_ms = self.now_ms;
        let epoch = self.our_epoch(job.shard);
        let open = self.admissions.iter_mut().filter(|admission| admission.inserted.is_none());
        let mut open: Vec<_> = open.collect();
        if !open.is_empty() {
            let nth = usize::from(nth) % open.len();
            open[nth].staged.push((job, epoch));
        }
    }

    pub(super) fn commit_admission(&mut self, nth: u8) {
        if self.admissions.is_empty() {
            return;
        }
        let nth = usize::from(nth) % self.admissions.len();
        if self.admissions[nth].inserted.is_some() {
            return;
        }
        let mut inserted = Vec::new();
        for (job, epoch) in std::mem::take(&mut self.admissions[nth].staged) {
            let is_ours = epoch.is_some() && self.our_epoch(job.shard) == epoch;
            if is_ours && !self.table.contains_key(&job.id) {
                inserted.push(self.write(job));
            }
        }
        self.admissions[nth].inserted = Some(inserted);
    }

    pub(super) fn return_ticket(&mut self, nth: u8) {
        if let Some(admission) = pick(&mut self.admissions, nth) {
            self.window.return_ticket(admission.ticket, admission.inserted.unwrap_or_default());
        }
    }

    pub(super) fn drop_ticket(&mut self, nth: u8) {
        if let Some(admission) = pick(&mut self.admissions, nth) {
            let inserted = admission.inserted.unwrap_or_default();
            let mut shards: Vec<_> = inserted.iter().map(|job| job.shard).collect();
            shards.dedup();
            self.window.drop_ticket(admission.ticket, &shards);
        }
    }

    /// A whole admission at once.
    pub(super) fn admit(&mut self, job: Job) {
        self.begin_admission();
        let nth = u8::try_from(self.admissions.len() - 1).unwrap_or(u8::MAX);
        let created_ms = self.now_ms;
        let epoch = self.our_epoch(job.shard);
        if let Some(admission) = self.admissions.last_mut() {
            admission.staged.push((Job { created_ms, ..job }, epoch));
        }
        self.commit_admission(nth);
        self.return_ticket(nth);
    }

    // Reading.

    pub(super) fn want_pages(&mut self) {
        let pages = self.window.wanted_pages();
        self.pages.extend(pages.into_iter().map(|what| Reading { what, rows: None }));
        for list in self.window.lists() {
            let lives = !list.jobs().is_empty() || !list.is_open();
            assert!(lives, "a list is empty, its table may not be, and nobody asks: {list:?}");
        }
    }

    pub(super) fn read_page(&mut self, nth: u8) {
        let count = self.pages.len().max(1);
        if let Some(page) = self.pages.get_mut(usize::from(nth) % count) {
            let PageRequest { shard, priority, after, limit, .. } = page.what;
            let of_list = |row: &&Job| row.shard == shard && row.priority == priority;
            let mut rows: Vec<_> = self.table.values().filter(of_list).cloned().collect();
            rows.retain(|row| row.key() > after);
            rows.sort_by_key(Job::key);
            rows.truncate(limit);
            page.rows.get_or_insert(rows);
        }
    }

    /// Applies a page that was read, else fails it.
    pub(super) fn answer_page(&mut self, nth: u8) {
        if let Some(page) = pick(&mut self.pages, nth) {
            match page.rows {
                Some(rows) => self.window.apply_page(page.what, rows),
                None => self.window.page_failed(page.what),
            }
        }
    }

    /// All pages at once.
    pub(super) fn fill(&mut self) {
        self.want_pages();
        while !self.pages.is_empty() {
            self.read_page(0);
            self.answer_page(0);
        }
    }

    pub(super) fn want_look_up(&mut self, limit: usize) {
        let look_up = self.window.wanted_look_up(limit);
        self.look_ups.extend(look_up.map(|what| Reading { what, rows: None }));
    }

    pub(super) fn read_look_up(&mut self, nth: u8) {
        let count = self.look_ups.len().max(1);
        if let Some(look_up) = self.look_ups.get_mut(usize::from(nth) % count) {
            let rows = look_up.what.ids.iter().filter_map(|id| self.table.get(id)).cloned();
            look_up.rows.get_or_insert(rows.collect());
        }
    }

    /// Applies a look-up that was read, else fails it.
    pub(super) fn answer_look_up(&mut self, nth: u8) {
        if let Some(look_up) = pick(&mut self.look_ups, nth) {
            match look_up.rows {
                Some(rows) => self.window.apply_look_up(look_up.what, rows),
                None => self.window.look_up_failed(look_up.what),
            }
        }
    }

    pub(super) fn audit(&mut self, shard: i32, priority: Priority) {
        if let Some(what) = self.window.audit(ShardId(shard), priority) {
            let up_to = what.up_to;
            let in_scope = |row: &&Job| row.shard == ShardId(shard) && row.priority == priority;
            let mut rows: Vec<_> = self.table.values().filter(in_scope).cloned().collect();
            rows.retain(|row| row.key() <= up_to && !self.untold.contains(&row.id));
            self.audits.push(Reading { what, rows: Some(rows) });
        }
    }

    pub(super) fn answer_audit(&mut self, nth: u8) {
        if let Some(audit) = pick(&mut self.audits, nth) {
            let missing = self.window.apply_audit(audit.what, audit.rows.unwrap_or_default());
            // A window cannot know what its predecessor's tickets will bring.
            let all_known = self.admissions.iter().all(|of| of.windows == self.windows);
            assert!(missing == 0 || !all_known, "a job was missing");
        }
    }
}
