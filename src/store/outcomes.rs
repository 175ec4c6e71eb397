//! Outcomes: what ended is deleted, what is to be tried again is moved, what failed for
//! good is buried, in batches, and only in shards that still are ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use infinite_scheduler_entity::{dead_letter, ingest_offset};
use rusqlite::{Connection, params};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::admit::{mysql, postgres, sqlite};
use super::letters::{self, Lane};
use super::steps::{Step, run_mysql, run_postgres, run_sqlite};
use super::{Hot, Result, ShardFence, Store};
use crate::model::ids::ShardId;
use crate::model::job::Job;
use crate::model::letter::{DeadLetter, Source};
use crate::model::verdict::{Event, pack};

/// What is to be written together.
#[derive(Clone, Debug, Default)]
pub struct OutcomeBatch {
    /// Our belief of each shard that the jobs are in, ascending.
    pub fences: Vec<ShardFence>,
    /// What became of each job.
    pub outcomes: Vec<Ended>,
}

/// A job whose attempt has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The job as it was fired.
    pub job: Arc<Job>,
    /// What became of it.
    pub outcome: Outcome,
    /// What its producer is told of it, in order.
    pub verdicts: Vec<Event>,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job is done.
    Succeeded,
    /// It is to be tried again.
    Retry {
        /// When, epoch milliseconds.
        due_ms: i64,
        /// Attempts that have ended, this one included if it counts.
        attempts: u32,
        /// What this one said.
        error: Option<String>,
    },
    /// It failed for good.
    Buried(Arc<DeadLetter>),
}

impl Outcome {
    /// Roughly how many bytes it takes beside the job itself: those of a dead letter.
    pub fn size(&self) -> usize {
        match self {
            Self::Buried(letter) => letter.size(),
            Self::Succeeded | Self::Retry { .. } => 0,
        }
    }
}

/// What was committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Shards that are not ours any more: nothing of their jobs was written.
    pub lost: Vec<ShardId>,
}

/// Ids in one statement at most.
const CHUNK: usize = 500;

impl Store {
    /// Writes the outcomes of jobs in shards that still are ours.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: unknown whether it was committed. Writing it again
    /// is harmless: it finds only the version of a row that was fired.
    pub async fn write_outcomes(&self, batch: &Arc<OutcomeBatch>) -> Result<Written> {
        let letters = Arc::new(self.letters_of(batch).await?);
        match &self.inner.hot {
            Hot::Postgres(pool) => write_postgres(pool, batch, &letters).await,
            Hot::MySql(pool) => write_mysql(pool, batch, &letters).await,
            Hot::Sqlite(sqlite) => {
                let batch = batch.clone();
                sqlite.write(move |connection| write_sqlite(connection, &batch, &letters)).await
            }
        }
    }

    /// The rows of the letters, with the topic and partition that their jobs came from, and
    /// the letters that they are replays of.
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
                partition: ledger.number,
                offset: origin.offset,
                timestamp_ms: origin.timestamp_ms,
            })
        };
        let row = |(job, letter): &(&Arc<Job>, &DeadLetter)| {
            let letter = DeadLetter { source: source(job), ..(*letter).clone() };
            let before = job.letter.and_then(|letter| replays.get(&letter));
            let row = dead_letter::Model {
                ledger: job.origin.as_ref().map(|origin| origin.ledger.0),
                replay_of: job.letter,
                replays: before.map_or(0, |replays| replays.saturating_add(1)),
                max_attempts: job.max_attempts.map(|n| i32::try_from(n).unwrap_or(i32::MAX)),
                timeout_ms: job.timeout_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
                ..letters::encode(&letter)
            };
            (job.shard, row)
        };
        Ok(buried.iter().map(row).collect())
    }

    /// How many replays led to each of these letters.
    async fn replays_of(&self, letters: impl Iterator<Item = Uuid>) -> Result<HashMap<Uuid, i32>> {
        let letters: BTreeSet<Uuid> = letters.collect();
        if letters.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(Uuid, i32)> = dead_letter::Entity::find()
            .select_only()
            .column(dead_letter::Column::Id)
            .column(dead_letter::Column::Replays)
            .filter(dead_letter::Column::Id.is_in(letters))
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        Ok(rows.into_iter().collect())
    }
}

impl OutcomeBatch {
    /// The same in two parts; `None` if there is only one outcome.
    pub fn halves(&self) -> Option<[Self; 2]> {
        let (first, second) = self.outcomes.split_at(self.outcomes.len() / 2);
        let half =
            |outcomes: &[_]| Self { fences: self.fences.clone(), outcomes: outcomes.to_vec() };
        (!first.is_empty()).then(|| [half(first), half(second)])
    }

    fn lost(&self, held: impl Fn(ShardId) -> bool) -> Vec<ShardId> {
        self.fences.iter().map(|fence| fence.shard).filter(|shard| !held(*shard)).collect()
    }

    /// Letters and verdicts of shards that are not lost.
    fn published(&self, lost: &[ShardId], letters: &Letters) -> Vec<Step> {
        let lane = |shard: ShardId| Lane::Shard(shard).number();
        let letters = letters.iter().filter(|(shard, _)| !lost.contains(shard));
        let mut steps: Vec<Step> =
            letters.map(|(shard, row)| letters::insert(row.clone(), lane(*shard))).collect();
        let mut events: BTreeMap<ShardId, Vec<Event>> = BTreeMap::new();
        for Ended { job, verdicts, .. } in self.kept(lost) {
            if !verdicts.is_empty() {
                events.entry(job.shard).or_default().extend(verdicts.iter().cloned());
            }
        }
        let told = events.into_iter();
        steps.extend(told.map(|(shard, events)| letters::announce(lane(shard), pack(&events))));
        steps
    }

    fn kept<'a>(&'a self, lost: &'a [ShardId]) -> impl Iterator<Item = &'a Ended> {
        self.outcomes.iter().filter(|ended| !lost.contains(&ended.job.shard))
    }

    /// Jobs of shards that are not lost, whose rows go; sorted as every writer locks them.
    fn gone<'a>(&'a self, lost: &'a [ShardId]) -> Vec<&'a Job> {
        let ended = |ended: &&Ended| !matches!(ended.outcome, Outcome::Retry { .. });
        let mut jobs: Vec<&Job> = self.kept(lost).filter(ended).map(|ended| &*ended.job).collect();
        jobs.sort_unstable_by_key(|job| job.id);
        jobs
    }

    fn moved<'a>(&'a self, lost: &'a [ShardId]) -> Vec<(&'a Job, i64, i32, Option<&'a str>)> {
        let mut moved: Vec<_> = self
            .kept(lost)
            .filter_map(|Ended { job, outcome, .. }| match outcome {
                Outcome::Retry { due_ms, attempts, error } => {
                    let attempts = i32::try_from(*attempts).unwrap_or(i32::MAX);
                    Some((&**job, *due_ms, attempts, error.as_deref()))
                }
                _ => None,
            })
            .collect();
        moved.sort_unstable_by_key(|(job, ..)| job.id);
        moved
    }
}

/// With when it was admitted, this tells the version of a row that was fired. A request may
/// come back under its id as soon as its job has ended: an outcome that is written twice
/// must not meet that one.
fn attempts_of(job: &Job) -> i32 {
    i32::try_from(job.attempts).unwrap_or(i32::MAX)
}

type Letters = Vec<(ShardId, dead_letter::Model)>;

async fn write_postgres(
    pool: &sqlx::PgPool,
    batch: &OutcomeBatch,
    letters: &Letters,
) -> Result<Written> {
    let mut transaction = pool.begin().await?;
    let held = postgres::locked_fences(&mut transaction, &batch.fences).await?;
    let lost = batch.lost(|shard| held.contains(&shard.0));
    run_postgres(&mut transaction, batch.published(&lost, letters)).await?;
    let gone = batch.gone(&lost);
    if !gone.is_empty() {
        let delete = "delete from scheduler_job using unnest($1::uuid[], $2::bigint[], $3::integer[]) \
            as d(id, created, attempts) where scheduler_job.id = d.id and created_ms = d.created \
            and scheduler_job.attempts = d.attempts";
        sqlx::query(delete)
            .bind(gone.iter().map(|job| job.id.uuid()).collect::<Vec<Uuid>>())
            .bind(gone.iter().map(|job| job.created_ms).collect::<Vec<_>>())
            .bind(gone.iter().map(|job| attempts_of(job)).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?;
    }
    let moved = batch.moved(&lost);
    if !moved.is_empty() {
        let update = "update scheduler_job set due_ms = m.due, attempts = m.attempts, last_error = m.error \
            from unnest($1::uuid[], $2::bigint[], $3::integer[], $4::text[], $5::bigint[], \
            $6::integer[]) as m(id, due, attempts, error, created, before) \
            where scheduler_job.id = m.id and created_ms = m.created \
            and scheduler_job.attempts = m.before";
        sqlx::query(update)
            .bind(moved.iter().map(|(job, ..)| job.id.uuid()).collect::<Vec<_>>())
            .bind(moved.iter().map(|(_, due, ..)| *due).collect::<Vec<_>>())
            .bind(moved.iter().map(|(_, _, attempts, _)| *attempts).collect::<Vec<_>>())
            .bind(moved.iter().map(|(.., error)| error.map(str::to_owned)).collect::<Vec<_>>())
            .bind(moved.iter().map(|(job, ..)| job.created_ms).collect::<Vec<_>>())
            .bind(moved.iter().map(|(job, ..)| attempts_of(job)).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(Written { lost })
}

async fn write_mysql(
    pool: &sqlx::MySqlPool,
    batch: &OutcomeBatch,
    letters: &Letters,
) -> Result<Written> {
    let mut transaction = pool.begin().await?;
    let (held, _) = mysql::run(&mut transaction, mysql::fence_reads(&batch.fences)).await?;
    let lost = batch.lost(|shard| held.contains(&shard.0));
    run_mysql(&mut transaction, batch.published(&lost, letters)).await?;
    for some in batch.gone(&lost).chunks(CHUNK) {
        let version = |job: &&Job| {
            format!("(x'{:032x}',{},{})", job.id.as_u128(), job.created_ms, job.attempts)
        };
        let (ids, versions): (Vec<String>, Vec<String>) =
            some.iter().map(|job| (format!("x'{:032x}'", job.id.as_u128()), version(job))).unzip();
        let delete = format!(
            "delete from scheduler_job where id in ({}) and (id, created_ms, attempts) in ({})",
            ids.join(","),
            versions.join(",")
        );
        sqlx::raw_sql(AssertSqlSafe(delete)).execute(&mut *transaction).await?;
    }
    for (job, due_ms, attempts, error) in batch.moved(&lost) {
        let update = "update scheduler_job set due_ms = ?, attempts = ?, last_error = ? \
            where id = ? and created_ms = ? and attempts = ?";
        sqlx::query(update)
            .bind(due_ms)
            .bind(attempts)
            .bind(error)
            .bind(job.id.uuid())
            .bind(job.created_ms)
            .bind(attempts_of(job))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(Written { lost })
}

/// Rows are clustered in firing order there, so they are found by their place in it.
fn write_sqlite(
    connection: &Connection,
    batch: &OutcomeBatch,
    letters: &Letters,
) -> Result<Written> {
    let mut held = Vec::new();
    for fence in &batch.fences {
        if sqlite::holds(connection, fence)? {
            held.push(fence.shard);
        }
    }
    let lost = batch.lost(|shard| held.contains(&shard));
    run_sqlite(connection, batch.published(&lost, letters))?;
    let by_place = "where shard = ? and priority = ? and due_ms = ? and id = ? \
        and created_ms = ? and attempts = ?";
    let mut delete = connection.prepare_cached(&format!("delete from scheduler_job {by_place}"))?;
    for job in batch.gone(&lost) {
        let rank = job.priority.rank();
        let (id, created) = (job.id.into_bytes(), job.created_ms);
        let version = attempts_of(job);
        delete.execute(params![job.shard.0, rank, job.due_ms, id, created, version])?;
    }
    let mut update = connection.prepare_cached(&format!(
        "update scheduler_job set due_ms = ?, attempts = ?, last_error = ? {by_place}"
    ))?;
    for (job, due_ms, attempts, error) in batch.moved(&lost) {
        let (rank, id) = (job.priority.rank(), job.id.into_bytes());
        update.execute(params![
            due_ms,
            attempts,
            error,
            job.shard.0,
            rank,
            job.due_ms,
            id,
            job.created_ms,
            attempts_of(job),
        ])?;
    }
    Ok(Written { lost })
}
