//! Writes the outcomes of attempts in batches, only in shards that the instance still owns: jobs
//! that have ended are deleted, those that failed for good become dead letters, and those that are
//! retried get a new due time.

mod mysql;
mod postgres;
mod sqlite;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use infinite_scheduler_entity::{dead_letter, ingest_offset, job};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use uuid::Uuid;

use super::columns::signed_ms;
use super::history_row::{AttemptState, HistoryRow, KeptAttempt};
use super::job_rows::bury_fired;
use super::letters;
use super::steps::Step;
use super::{Driver, OrderingKey, Result, ShardFence, Store, bulk, outbox};
use crate::model::ids::{JobId, Partition, ShardId};
use crate::model::job::{Cancellation, Job};
use crate::model::letter::{DeadLetter, ErrorKind, Source};
use crate::model::verdict::{Event, pack};

/// Outcomes that are written in one transaction.
#[derive(Clone, Debug, Default)]
pub struct OutcomeBatch {
    /// The expected owner and epoch of each shard of the jobs, ascending by shard.
    pub fences: Vec<ShardFence>,
    /// The outcome of each job.
    pub outcomes: Vec<Ended>,
}

/// A job whose attempt has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The job as it was fired.
    pub job: Arc<Job>,
    /// Its outcome.
    pub outcome: Outcome,
    /// The events about it for its producer, in order.
    pub verdicts: Vec<Event>,
    /// What the history says of the attempt; `None` if nothing is kept of it.
    pub kept: Option<KeptAttempt>,
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job is done.
    Succeeded,
    /// The job is retried.
    Retry {
        /// When, epoch milliseconds; unchanged of an attempt that was marked and handed back.
        due_ms: i64,
        /// The number of attempts that have ended, including this one if it counts.
        attempts: u32,
        /// The error of this attempt.
        error: Option<String>,
    },
    /// The job failed for good and becomes this dead letter.
    Buried(Arc<DeadLetter>),
    /// It was cancelled while the attempt ran, or before it would have started.
    Cancelled(Arc<Tombstone>),
}

/// What is kept of a job that was cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Its first cancellation.
    pub first: Cancellation,
    /// Until when its row is kept, epoch milliseconds.
    pub until_ms: i64,
    /// Whether an attempt had started.
    pub fired: bool,
}

impl Outcome {
    /// The approximate size of its dead letter in bytes, 0 without one.
    pub fn size(&self) -> usize {
        match self {
            Self::Buried(letter) => letter.size(),
            Self::Succeeded | Self::Retry { .. } | Self::Cancelled(_) => 0,
        }
    }
}

/// The result of writing a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Shards that the instance no longer owns. No outcome of their jobs was written.
    pub lost: Vec<ShardId>,
    /// How many outcomes of the other shards found no row at the version that was fired. Usually an
    /// earlier try was committed and its answer was lost; [`Store::outcomes_left`] checks that.
    pub unmatched: usize,
}

/// The most ids of one query.
const IDS_AT_ONCE: usize = 500;

impl Store {
    /// Writes the outcomes of jobs in shards that the instance still owns.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if it is unknown whether the batch was committed. Writing it
    /// again is harmless: it affects only the version of a row that was fired.
    pub async fn write_outcomes(&self, batch: &Arc<OutcomeBatch>) -> Result<Written> {
        let letters = Arc::new(self.letters_of(batch).await?);
        match &self.inner.driver {
            Driver::Postgres(pool) => postgres::write(pool, batch, &letters).await,
            Driver::MySql(pool) => mysql::write(pool, batch, &letters).await,
            Driver::Sqlite(file) => {
                let batch = batch.clone();
                file.write(move |connection| sqlite::write(connection, &batch, &letters)).await
            }
        }
    }

    /// The outcomes of a committed batch that must be written again: those whose rows still exist at
    /// the version that was fired. A statement that did not find such a row ran on a server that
    /// did not have it yet. A row that was deleted, or has another version, needs nothing more.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn outcomes_left(
        &self,
        batch: &OutcomeBatch,
        lost: &[ShardId],
    ) -> Result<Option<OutcomeBatch>> {
        let ids: Vec<Uuid> = batch.kept(lost).map(|ended| ended.job.id.uuid()).collect();
        let mut existing: HashSet<Version> = HashSet::new();
        for some in ids.chunks(IDS_AT_ONCE) {
            let rows: Vec<(Uuid, i64, i64, i32)> = job::Entity::find()
                .select_only()
                .columns([job::Column::Id, job::Column::DueMs])
                .columns([job::Column::CreatedMs, job::Column::Attempts])
                .filter(job::Column::Id.is_in(some.iter().copied()))
                .into_tuple()
                .all(&self.inner.pool)
                .await?;
            let version = |(id, due_ms, created_ms, attempts)| {
                (JobId::from_uuid(id), due_ms, created_ms, attempts)
            };
            existing.extend(rows.into_iter().map(version));
        }
        // The events were committed with the outcomes that found their rows.
        let again = |ended: &Ended| Ended { verdicts: Vec::new(), ..ended.clone() };
        let left = batch.kept(lost).filter(|ended| existing.contains(&version_of(&ended.job)));
        let outcomes: Vec<Ended> = left.map(again).collect();
        let fences = batch.fences.clone();
        Ok((!outcomes.is_empty()).then_some(OutcomeBatch { fences, outcomes }))
    }

    /// The rows of the dead letters, with the topic and partition of their records and the dead
    /// letters whose replays they are.
    async fn letters_of(&self, batch: &OutcomeBatch) -> Result<Letters> {
        let buried: Vec<_> = batch
            .outcomes
            .iter()
            .filter_map(|ended| match &ended.outcome {
                Outcome::Buried(letter) => Some((&ended.job, &**letter)),
                _ => None,
            })
            .collect();
        let origins: BTreeSet<i32> =
            buried.iter().filter_map(|(job, _)| Some(job.origin.as_ref()?.ledger.0)).collect();
        let ledgers = match origins.is_empty() {
            true => Vec::new(),
            false => {
                let named = ingest_offset::Column::Id.is_in(origins);
                ingest_offset::Entity::find().filter(named).all(&self.inner.pool).await?
            }
        };
        let replays = self.replays_of(buried.iter().filter_map(|(job, _)| job.letter)).await?;
        let source = |job: &Job| {
            let origin = job.origin.as_ref()?;
            let ledger = ledgers.iter().find(|row| row.id == origin.ledger.0)?;
            Some(Source {
                topic: ledger.topic.clone(),
                partition: Partition(ledger.number),
                offset: origin.offset,
                timestamp_ms: origin.timestamp_ms,
            })
        };
        let row = |(job, letter): &(&Arc<Job>, &DeadLetter)| {
            let letter = DeadLetter { source: source(job), ..(*letter).clone() };
            let before = job.letter.and_then(|letter| replays.get(&letter)).copied();
            let (before, bulk) = before.unzip();
            let row = dead_letter::Model {
                ledger: job.origin.as_ref().map(|origin| origin.ledger.0),
                replay_of: job.letter,
                replays: before.map_or(0, |replays: i32| replays.saturating_add(1)),
                max_attempts: job.max_attempts.map(|n| i32::try_from(n).unwrap_or(i32::MAX)),
                timeout_ms: job.timeout_ms.map(signed_ms),
                // Who replays a letter that died of it wants it to fire all the same.
                expires_ms: job.expires_ms.filter(|_| letter.kind != ErrorKind::Expired),
                flexible_ms: job.flexible_ms.map(signed_ms),
                concurrency_key: job.concurrency_key.clone(),
                ..letters::encode(&letter)
            };
            (job.shard, row, bulk.flatten())
        };
        Ok(buried.iter().map(row).collect())
    }

    /// The number of replays that led to each of these dead letters, and the bulk action that
    /// replayed it.
    async fn replays_of(
        &self,
        letters: impl Iterator<Item = Uuid>,
    ) -> Result<HashMap<Uuid, (i32, Option<i64>)>> {
        let letters: BTreeSet<Uuid> = letters.collect();
        if letters.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(Uuid, i32, Option<i64>)> = dead_letter::Entity::find()
            .select_only()
            .column(dead_letter::Column::Id)
            .column(dead_letter::Column::Replays)
            .column(dead_letter::Column::Bulk)
            .filter(dead_letter::Column::Id.is_in(letters))
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        Ok(rows.into_iter().map(|(id, replays, bulk)| (id, (replays, bulk))).collect())
    }
}

impl Ended {
    fn history(&self) -> Option<HistoryRow<'_>> {
        let Self { job, outcome, kept, .. } = self;
        let row = HistoryRow {
            job,
            kept: kept.as_ref()?,
            attempt: job.attempts.saturating_add(1),
            state: AttemptState::Succeeded,
            kind: None,
            error: None,
            cancelled_by: None,
        };
        Some(match outcome {
            Outcome::Succeeded => row,
            Outcome::Retry { error, .. } => {
                HistoryRow { state: AttemptState::Retried, error: error.as_deref(), ..row }
            }
            Outcome::Buried(letter) => HistoryRow {
                state: AttemptState::Dead,
                attempt: letter.attempts,
                kind: Some(letter.kind.as_str()),
                error: Some(&letter.message),
                ..row
            },
            Outcome::Cancelled(stone) => HistoryRow {
                state: AttemptState::Cancelled,
                attempt: job.attempts.saturating_add(stone.fired.into()),
                cancelled_by: Some(&stone.first.by),
                ..row
            },
        })
    }
}

impl OutcomeBatch {
    /// Splits the batch into two; `None` if it has only one outcome.
    pub fn halves(&self) -> Option<[Self; 2]> {
        let (first, second) = self.outcomes.split_at(self.outcomes.len() / 2);
        let half =
            |outcomes: &[_]| Self { fences: self.fences.clone(), outcomes: outcomes.to_vec() };
        (!first.is_empty()).then(|| [half(first), half(second)])
    }

    fn lost(&self, held: impl Fn(ShardId) -> bool) -> Vec<ShardId> {
        self.fences.iter().map(|fence| fence.shard).filter(|shard| !held(*shard)).collect()
    }

    /// Inserts the dead letters, events and tombstones of jobs in shards that are not lost.
    fn published(&self, lost: &[ShardId], letters: &Letters) -> Vec<Step> {
        let letters = letters.iter().filter(|(shard, ..)| !lost.contains(shard));
        let mut steps: Vec<Step> = letters
            .map(|(shard, row, bulk)| {
                let again = bulk.map(bulk::count_again);
                letters::insert(row.clone(), OrderingKey::Shard(*shard), again)
            })
            .collect();
        let mut events: BTreeMap<ShardId, Vec<Event>> = BTreeMap::new();
        for Ended { job, verdicts, .. } in self.kept(lost) {
            if !verdicts.is_empty() {
                events.entry(job.shard).or_default().extend(verdicts.iter().cloned());
            }
        }
        let events = events.into_iter();
        steps.extend(events.map(|(shard, events)| {
            outbox::insert_verdicts(OrderingKey::Shard(shard), pack(&events))
        }));
        steps.extend(self.kept(lost).filter_map(|ended| match &ended.outcome {
            Outcome::Cancelled(stone) => Some(bury_fired(&ended.job, &stone.first, stone.until_ms)),
            _ => None,
        }));
        steps
    }

    /// The outcomes in shards that are not lost.
    fn kept<'a>(&'a self, lost: &'a [ShardId]) -> impl Iterator<Item = &'a Ended> {
        self.outcomes.iter().filter(|ended| !lost.contains(&ended.job.shard))
    }

    /// The jobs to delete, in shards that are not lost.
    fn ended<'a>(&'a self, lost: &'a [ShardId]) -> Vec<&'a Job> {
        let has_ended =
            |ended: &&Ended| matches!(ended.outcome, Outcome::Succeeded | Outcome::Buried(_));
        self.kept(lost).filter(has_ended).map(|ended| &*ended.job).collect()
    }

    /// The jobs to delete in the order of their ids, so that two batches lock rows in one order.
    fn ended_by_id<'a>(&'a self, lost: &'a [ShardId]) -> Vec<&'a Job> {
        let mut jobs = self.ended(lost);
        jobs.sort_unstable_by_key(|job| job.id);
        jobs
    }

    /// The jobs to delete in firing order, in which some databases keep them.
    fn ended_in_firing_order<'a>(&'a self, lost: &'a [ShardId]) -> Vec<&'a Job> {
        let mut jobs = self.ended(lost);
        jobs.sort_unstable_by_key(|job| (job.shard, job.priority.rank(), job.key()));
        jobs
    }

    /// What the history keeps of the attempts in shards that are not lost, in the order of its
    /// rows.
    fn history<'a>(&'a self, lost: &'a [ShardId]) -> Vec<HistoryRow<'a>> {
        let mut rows: Vec<_> = self.kept(lost).filter_map(Ended::history).collect();
        rows.sort_unstable_by_key(|row| (row.kept.app, row.kept.ended_ms, row.job.id));
        rows
    }

    /// Whether jobs are only deleted, without dead letters or events.
    fn only_deletes(&self) -> bool {
        let is_silent =
            |ended: &Ended| ended.outcome == Outcome::Succeeded && ended.verdicts.is_empty();
        self.outcomes.iter().all(is_silent)
    }

    /// The jobs to retry, in shards that are not lost, with their new due time, attempts and error;
    /// sorted by id.
    fn retried<'a>(&'a self, lost: &'a [ShardId]) -> Vec<(&'a Job, i64, i32, Option<&'a str>)> {
        let mut retried: Vec<_> = self
            .kept(lost)
            .filter_map(|Ended { job, outcome, .. }| match outcome {
                Outcome::Retry { due_ms, attempts, error } => {
                    let attempts = i32::try_from(*attempts).unwrap_or(i32::MAX);
                    Some((&**job, *due_ms, attempts, error.as_deref()))
                }
                _ => None,
            })
            .collect();
        retried.sort_unstable_by_key(|(job, ..)| job.id);
        retried
    }
}

/// The attempts of a row, which with the time of admission identify the version that was fired. As
/// soon as a job has ended, the same request can become a new job with the same id; an outcome that
/// is written twice must not affect that one.
fn attempts_of(job: &Job) -> i32 {
    i32::try_from(job.attempts).unwrap_or(i32::MAX)
}

/// The id of a row, its due time, the time of its admission and its attempts.
type Version = (JobId, i64, i64, i32);

fn version_of(job: &Job) -> Version {
    (job.id, job.due_ms, job.created_ms, attempts_of(job))
}

/// The rows of dead letters, with the bulk actions that replayed the letters of their jobs.
type Letters = Vec<(ShardId, dead_letter::Model, Option<i64>)>;
