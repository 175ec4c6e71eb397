//! Admission: one batch of one partition becomes rows, and its offset moves, in one
//! transaction.
//!
//! Every batch is first written as if nothing in it were known: the unique keys say so if
//! that is wrong, and the whole transaction is undone. Then what is there already is
//! read, the batch is judged by it, and written again. So a duplicate is decided by the
//! database and by nothing else, and a batch without duplicates pays for no look-up.

mod known;
pub(super) mod mysql;
mod plan;
pub(super) mod postgres;
pub(super) mod sqlite;

use std::sync::Arc;

use super::{Error, Hot, LastRecord, Result, ShardFence, Store};
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{AppId, JobId, KeyId, LedgerId, ReaderToken, ShardId};
use crate::model::job::Job;
use crate::model::letter::{DeadLetter, ErrorKind, Refusal};
use crate::model::record::RawRecord;

use known::Known;
use plan::Plan;

/// What is to be admitted together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The move of the partition's offset; `None` for jobs by API.
    pub advance: Option<Advance>,
    /// Requests and dead letters, in order of their offsets.
    pub entries: Vec<Entry>,
    /// Our belief of each shard of ours that a job goes into, ascending.
    pub fences: Vec<ShardFence>,
    /// Some names are probably known already: read before writing.
    pub read_first: bool,
    /// Whether the same key with another time is a conflict.
    pub conflict_on_time: bool,
    /// When, epoch milliseconds.
    pub now_ms: i64,
}

/// The move of a partition's offset.
#[derive(Clone, Copy, Debug)]
pub struct Advance {
    /// The ledger row.
    pub ledger: LedgerId,
    /// The token under which it was claimed.
    pub reader: ReaderToken,
    /// Where the row stands: its own value, never the first record's offset.
    pub expected: i64,
    /// The offset after the last record of the batch.
    pub next: i64,
    /// That last record.
    pub last: Option<LastRecord>,
}

/// One record's, or one call's, part of a batch.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A request that passed every pure rule.
    Job(Box<Candidate>),
    /// One that did not.
    Letter(Box<DeadLetter>),
}

/// A request that may become a job.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The app.
    pub app: AppId,
    /// Its name.
    pub app_name: Arc<str>,
    /// The job as it will be.
    pub job: Job,
    /// Of its `jobData`.
    pub fingerprint: Fingerprint,
    /// Its idempotency key, if it brought one.
    pub key: Option<IdempotencyKey>,
    /// Its shard is not ours: the owner is told to look.
    pub foreign: bool,
    /// The record that it came by, should it turn out to be a conflict.
    pub record: Option<Arc<RawRecord>>,
}

/// An idempotency key and its window.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// Derived from app and key.
    pub id: KeyId,
    /// The key as it was sent.
    pub name: String,
    /// The end of its window, epoch milliseconds.
    pub expires_ms: i64,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is committed; a fate for each entry.
    Done(Vec<Fate>),
    /// The ledger row is not as expected: nothing was written. Read it and see.
    Fenced,
    /// Some shards are not ours any more: nothing was written. Choose others.
    ShardsMoved,
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is a job now.
    Accepted,
    /// It is the same as an earlier request.
    Duplicate {
        /// That request's name.
        of: String,
        /// Its job.
        job: JobId,
    },
    /// It is a dead letter (by API: refused).
    Dead(Refusal),
}

/// How often a batch is judged anew because others admit the same names at the same time.
const RACES: usize = 8;

impl Store {
    /// Admits a batch, all of it or nothing. A row that the database itself refuses is
    /// found by halving and becomes a dead letter; the rest goes in.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was committed, as its answer may be
    /// lost; the ledger row tells. [`Error::Refused`] only for a batch without records.
    pub async fn admit(&self, batch: &Arc<Batch>) -> Result<Admitted> {
        match self.admit_whole(batch).await {
            Err(Error::Refused(cause)) if batch.advance.is_some() => {
                Box::pin(self.admit_halves(batch, cause)).await
            }
            result => result,
        }
    }

    async fn admit_whole(&self, batch: &Arc<Batch>) -> Result<Admitted> {
        let mut known = match batch.read_first {
            true => self.known(batch).await?,
            false => Known::default(),
        };
        for _ in 0..RACES {
            let plan = Plan::of(batch, &known);
            match self.write(batch, plan).await {
                Err(Error::Raced(_)) => known = self.known(batch).await?,
                result => return result,
            }
        }
        Err(Error::Unavailable("others admit the same names at the same time".into()))
    }

    async fn write(&self, batch: &Arc<Batch>, plan: Plan) -> Result<Admitted> {
        match &self.inner.hot {
            Hot::Postgres(pool) if plan.is_plain() => {
                postgres::write_plain(pool, batch, plan).await
            }
            Hot::Postgres(pool) => postgres::write(pool, batch, plan).await,
            Hot::MySql(pool) => mysql::write(pool, batch, plan).await,
            Hot::Sqlite(sqlite) => {
                let batch = batch.clone();
                sqlite.write(move |connection| sqlite::write(connection, &batch, plan)).await
            }
        }
    }

    async fn admit_halves(&self, batch: &Batch, cause: String) -> Result<Admitted> {
        let Some(advance) = batch.advance else { return Err(Error::Refused(cause)) };
        if batch.entries.len() <= 1 {
            return self.bury_refused(batch, cause).await;
        }
        let (first, second) = batch.entries.split_at(batch.entries.len() / 2);
        let middle = second[0].offset().unwrap_or(advance.expected);
        let half = |entries: &[Entry], advance: Advance| {
            Arc::new(Batch { advance: Some(advance), entries: entries.to_vec(), ..batch.clone() })
        };
        let before = Advance { next: middle, last: None, ..advance };
        let after = Advance { expected: middle, ..advance };
        let mut fates = match self.admit(&half(first, before)).await? {
            Admitted::Done(fates) => fates,
            other => return Ok(other),
        };
        match self.admit(&half(second, after)).await? {
            Admitted::Done(rest) => fates.extend(rest),
            // The first half stands; the row tells the reader where to go on.
            _ => return Ok(Admitted::Fenced),
        }
        Ok(Admitted::Done(fates))
    }

    async fn bury_refused(&self, batch: &Batch, cause: String) -> Result<Admitted> {
        let [Entry::Job(candidate)] = &batch.entries[..] else {
            return Err(Error::Unavailable(format!("a dead letter is refused: {cause}")));
        };
        let refusal = candidate.refusal(
            ErrorKind::RefusedByDatabase,
            format!("the database refuses this request: {cause}"),
        );
        let Some(letter) = candidate.letter(refusal.clone(), batch.now_ms) else {
            return Err(Error::Refused(cause));
        };
        let entries = vec![Entry::Letter(Box::new(letter))];
        let buried = Arc::new(Batch { entries, fences: Vec::new(), ..batch.clone() });
        match self.admit_whole(&buried).await? {
            Admitted::Done(_) => Ok(Admitted::Done(vec![Fate::Dead(refusal)])),
            other => Ok(other),
        }
    }
}

impl Batch {
    /// The shards of others that jobs go into, with those jobs.
    fn looks(&self, plan: &Plan) -> Vec<(ShardId, Vec<JobId>)> {
        let mut looks: Vec<(ShardId, Vec<JobId>)> = Vec::new();
        for candidate in plan.jobs(self).filter(|candidate| candidate.foreign) {
            let (shard, id) = (candidate.job.shard, candidate.job.id);
            match looks.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, ids)) => ids.push(id),
                None => looks.push((shard, vec![id])),
            }
        }
        looks
    }
}

impl Entry {
    /// The place of its record in the partition.
    pub fn offset(&self) -> Option<i64> {
        match self {
            Self::Job(candidate) => candidate.job.origin.as_ref().map(|origin| origin.offset),
            Self::Letter(letter) => letter.source.as_ref().map(|source| source.offset),
        }
    }
}

impl Candidate {
    fn refusal(&self, kind: ErrorKind, message: String) -> Refusal {
        Refusal {
            request_id: Some(self.job.request_id.clone()),
            app: Some(self.app_name.to_string()),
            ..Refusal::new(kind, message)
        }
    }

    /// By API a refusal is an answer, not a dead letter.
    fn letter(&self, refusal: Refusal, now_ms: i64) -> Option<DeadLetter> {
        let record = self.record.as_ref()?;
        Some(DeadLetter::of_record(record, refusal, now_ms))
    }
}
