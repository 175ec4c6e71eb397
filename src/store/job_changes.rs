//! Changes of one job: the row as it is, and the transaction that changes it together with what
//! is told of the change. Only who owns the job's shard writes, or who finds that nobody does.

use infinite_scheduler_entity::{idempotency_key, job};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use sqlx::{MySqlTransaction, PgTransaction};
use uuid::Uuid;

use super::claims::Claim;
use super::columns::{job_of, memory_values, signed_ms};
use super::commands::{self, ChangeAnswer};
use super::job_rows::{
    IS_KEPT, IS_VERSION, StoredJob, bury, memory_columns, of_schedule, remember, version,
};
use super::letters::{LONGEST_NAME, truncated};
use super::outbox::{self, OrderingKey};
use super::steps::{Step, Value, run_mysql, run_postgres, run_sqlite};
use super::tombstones::TOMBSTONE;
use super::{AppRules, Driver, Result, Store, audit, bulk, history};
use crate::model::audit::AuditEntry;
use crate::model::ids::{AppId, Epoch, JobId, KeyId};
use crate::model::job::Job;
use crate::model::verdict::{Event, pack};

/// A job's row, with the app that it is of and the owner of its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedJob {
    /// The row.
    pub stored: StoredJob,
    /// The app.
    pub app: AppId,
    /// Its name.
    pub app_name: String,
    /// What it demands of `jobData`, and its policy.
    pub rules: AppRules,
    /// Whether it is paused.
    pub is_paused: bool,
    /// No instance that is alive owns its shard, which is at this epoch.
    pub free_at: Option<Epoch>,
}

/// What one transaction writes of a change.
#[derive(Clone, Debug)]
pub struct JobWrite {
    /// The job as it was read: the row must be in that state still.
    pub before: Job,
    /// The job as it is from now on.
    pub after: Job,
    /// Its row is kept as a tombstone, or as what is remembered of a name: until then, epoch
    /// milliseconds.
    pub tombstone_until: Option<i64>,
    /// That is what its row was before.
    pub was_tombstone: bool,
    /// What the audit says of it; `None` if that was written before.
    pub audit: Option<AuditEntry>,
    /// The verdicts for the producers of the job and of the operation.
    pub verdicts: Vec<Event>,
    /// The command that asked for it, with the answer.
    pub command: Option<(i64, ChangeAnswer)>,
    /// The bulk action that counts it.
    pub bulk: Option<i64>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobWritten {
    /// It is committed.
    Done,
    /// The claim does not hold any more: nothing was written.
    NotOurs,
    /// The row is not as it was read: nothing was written.
    Changed,
    /// The command does not wait any more: nothing was written.
    Withdrawn,
}

impl Store {
    /// The row of a job, if there is one.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer.
    pub async fn stored_job(&self, id: JobId) -> Result<Option<StoredJob>> {
        let found = job::Entity::find().filter(job::Column::Id.eq(id.uuid()));
        let row = found.one(&self.inner.pool).await?;
        Ok(row.map(|row| StoredJob { is_tombstone: row.priority == TOMBSTONE, job: job_of(row) }))
    }

    /// The rows of those of these jobs that have one, in no order.
    ///
    /// # Errors
    /// [`Unavailable`](super::Error::Unavailable) if the database does not answer.
    pub async fn stored_jobs(&self, ids: &[JobId]) -> Result<Vec<StoredJob>> {
        let ids = ids.iter().map(|id| id.uuid());
        let rows = job::Entity::find().filter(job::Column::Id.is_in(ids));
        let rows = rows.all(&self.inner.pool).await?.into_iter();
        let stored = |row: job::Model| StoredJob {
            is_tombstone: row.priority == TOMBSTONE,
            job: job_of(row),
        };
        Ok(rows.map(stored).collect())
    }

    /// The row of a job with its app and its owner, if there is one.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer, or the rules of the app cannot
    /// be read.
    pub async fn locate_job(&self, id: JobId) -> Result<Option<LocatedJob>> {
        let Some(stored) = self.stored_job(id).await? else { return Ok(None) };
        let located = self.locate_shards(&[stored.job.shard]).await?.pop();
        Ok(located.map(|shard| LocatedJob {
            stored,
            app: shard.app,
            app_name: shard.app_name,
            rules: shard.rules,
            is_paused: shard.is_paused,
            free_at: shard.free_at,
        }))
    }

    /// The job that an app's idempotency key refers to.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer.
    pub async fn job_of_key(&self, key: KeyId) -> Result<Option<JobId>> {
        let id = Uuid::from_bytes(key.into_bytes());
        let found = idempotency_key::Entity::find().filter(idempotency_key::Column::Id.eq(id));
        let row = found.one(&self.inner.pool).await?;
        // One that operations wait for has no job.
        Ok(row.filter(|row| !row.job.is_nil()).map(|row| JobId::from_uuid(row.job)))
    }

    /// Changes a job, all of it or nothing.
    ///
    /// # Errors
    /// [`super::Error::Refused`] if the database does not take the new values; else it is unknown
    /// whether it was committed: the revision of the row shows it.
    pub async fn change_job(&self, claim: &Claim, write: &JobWrite) -> Result<JobWritten> {
        let parts = write.parts(claim);
        match &self.inner.driver {
            Driver::Postgres(pool) => {
                let mut transaction = pool.begin().await?;
                let written = postgres_parts(&mut transaction, claim, parts).await?;
                match written {
                    JobWritten::Done => transaction.commit().await?,
                    _ => transaction.rollback().await?,
                }
                Ok(written)
            }
            Driver::MySql(pool) => {
                let mut transaction = pool.begin().await?;
                let written = mysql_parts(&mut transaction, claim, parts).await?;
                match written {
                    JobWritten::Done => transaction.commit().await?,
                    _ => transaction.rollback().await?,
                }
                Ok(written)
            }
            Driver::Sqlite(file) => {
                let claim = *claim;
                let is_done = |written: &JobWritten| *written == JobWritten::Done;
                let run = move |connection: &_| sqlite_parts(connection, &claim, parts.clone());
                file.write_if(is_done, run).await
            }
        }
    }
}

/// What is written after the claim was proved, by what it means when a row is not found.
#[derive(Clone)]
struct Parts {
    job: Vec<Step>,
    command: Vec<Step>,
    told: Vec<Step>,
}

impl JobWrite {
    fn parts(&self, claim: &Claim) -> Parts {
        let key = OrderingKey::Shard(claim.shard());
        let packed = Some(&self.verdicts).filter(|events| !events.is_empty());
        let verdict = packed.map(|events| outbox::insert_verdicts(key, pack(events)));
        let command = self.command.as_ref();
        Parts {
            job: vec![self.update()],
            command: command
                .map(|(id, answer)| commands::answer(*id, answer))
                .into_iter()
                .collect(),
            told: self
                .audit
                .as_ref()
                .map(audit::step)
                .into_iter()
                .chain(verdict)
                .chain(self.history())
                // Its row is the same for many changes: the lock on it is taken last.
                .chain(self.bulk.map(|id| bulk::count(id, 1)))
                .collect(),
        }
    }

    /// The row of the history of a job that is cancelled while it waits.
    pub(super) fn history(&self) -> Option<Step> {
        let Self { before, after, .. } = self;
        let until_ms = self.tombstone_until.filter(|_| !self.was_tombstone);
        let first = until_ms.and(after.changes.cancelled.as_deref())?;
        Some(history::cancelled(before, first))
    }

    pub(super) fn update(&self) -> Step {
        let Self { before, after, tombstone_until, was_tombstone, .. } = self;
        match tombstone_until {
            Some(until_ms) if *was_tombstone => return remember(before, after, *until_ms),
            Some(until_ms) => return bury(before, after, *until_ms),
            None => {}
        }
        let changes = &after.changes;
        let mut columns = String::from(
            "priority = ?, due_ms = ?, scheduled_ms = ?, expires_ms = ?, flexible_ms = ?, \
             max_attempts = ?, timeout_ms = ?, revision = ?, moved_ms = ?, original = ?, cancelled_ms = ?, \
             cancelled_by = ?",
        );
        let signed = |number: u32| i64::from(number.min(i32::MAX.unsigned_abs()));
        let cancelled = changes.cancelled.as_ref();
        let mut values: Vec<Value> = vec![
            after.priority.rank().into(),
            after.due_ms.into(),
            after.scheduled_ms.into(),
            after.expires_ms.into(),
            after.flexible_ms.map(signed_ms).into(),
            after.max_attempts.map(signed).into(),
            after.timeout_ms.map(signed_ms).into(),
            signed(changes.revision).into(),
            changes.moved_ms.into(),
            changes.original.map(|hash| Uuid::from_bytes(hash.into_bytes())).into(),
            cancelled.map(|first| first.at_ms).into(),
            cancelled.map(|first| truncated(&first.by, LONGEST_NAME)).into(),
        ];
        // It may be as large as a record.
        if after.data != before.data {
            columns.push_str(", data = ?");
            values.push(after.data.as_str().into());
        }
        columns.push_str(&memory_columns());
        values.extend(memory_values(&after.memory()));
        if after.version != before.version {
            let (more, its) = of_schedule(after);
            columns.push_str(more);
            values.extend(its);
        }
        values.extend(version(before));
        let is_version = if *was_tombstone { IS_KEPT } else { IS_VERSION };
        Step::one(format!("update scheduler_job set {columns} where {is_version}"), values)
    }
}

async fn postgres_parts(
    transaction: &mut PgTransaction<'_>,
    claim: &Claim,
    parts: Parts,
) -> Result<JobWritten> {
    if !claim.holds_on_postgres(transaction).await? {
        return Ok(JobWritten::NotOurs);
    }
    if !run_postgres(transaction, parts.job).await? {
        return Ok(JobWritten::Changed);
    }
    if !run_postgres(transaction, parts.command).await? {
        return Ok(JobWritten::Withdrawn);
    }
    run_postgres(transaction, parts.told).await?;
    Ok(JobWritten::Done)
}

async fn mysql_parts(
    transaction: &mut MySqlTransaction<'_>,
    claim: &Claim,
    parts: Parts,
) -> Result<JobWritten> {
    if !claim.holds_on_mysql(transaction).await? {
        return Ok(JobWritten::NotOurs);
    }
    if !run_mysql(transaction, parts.job).await? {
        return Ok(JobWritten::Changed);
    }
    if !run_mysql(transaction, parts.command).await? {
        return Ok(JobWritten::Withdrawn);
    }
    run_mysql(transaction, parts.told).await?;
    Ok(JobWritten::Done)
}

fn sqlite_parts(
    connection: &rusqlite::Connection,
    claim: &Claim,
    parts: Parts,
) -> Result<JobWritten> {
    if !claim.holds_on_sqlite(connection)? {
        return Ok(JobWritten::NotOurs);
    }
    if !run_sqlite(connection, parts.job)? {
        return Ok(JobWritten::Changed);
    }
    if !run_sqlite(connection, parts.command)? {
        return Ok(JobWritten::Withdrawn);
    }
    run_sqlite(connection, parts.told)?;
    Ok(JobWritten::Done)
}
