//! Changes of one job: the row as it is, and the transaction that changes it together with what
//! is told of the change. Only who owns the job's shard writes, or who finds that nobody does.

use infinite_scheduler_entity::{idempotency_key, job};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use sqlx::{MySqlTransaction, PgTransaction};
use uuid::Uuid;

use super::claims::Claim;
use super::columns::{job_of, signed_ms};
use super::commands::{self, ChangeAnswer};
use super::letters::{LONGEST_NAME, truncated};
use super::outbox::{self, OrderingKey};
use super::steps::{Step, Value, run_mysql, run_postgres, run_sqlite};
use super::tombstones::TOMBSTONE;
use super::{AppRules, Driver, Result, Store, audit, bulk, history};
use crate::model::audit::AuditEntry;
use crate::model::ids::{AppId, Epoch, JobId, KeyId};
use crate::model::job::{Cancellation, Job};
use crate::model::verdict::{Event, pack};

/// A job's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredJob {
    /// The job; of a tombstone what is left of it.
    pub job: Job,
    /// It was cancelled, and its row is kept so that its request is recognized.
    pub is_tombstone: bool,
}

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
    /// Its row becomes a tombstone, to be kept until then, epoch milliseconds.
    pub tombstone_until: Option<i64>,
    /// What the audit says of it; `None` if that was written before.
    pub audit: Option<AuditEntry>,
    /// The verdict for its producer.
    pub verdict: Option<Event>,
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
    /// [`Unavailable`](super::Error::Unavailable) if the database does not answer.
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
    /// [`Unavailable`](super::Error::Unavailable) if the database does not answer, or the rules of the app cannot be
    /// read.
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
    /// [`Unavailable`](super::Error::Unavailable) if the database does not answer.
    pub async fn job_of_key(&self, key: KeyId) -> Result<Option<JobId>> {
        let id = Uuid::from_bytes(key.into_bytes());
        let found = idempotency_key::Entity::find().filter(idempotency_key::Column::Id.eq(id));
        let row = found.one(&self.inner.pool).await?;
        Ok(row.map(|row| JobId::from_uuid(row.job)))
    }

    /// Changes a job, all of it or nothing.
    ///
    /// # Errors
    /// [`Refused`](super::Error::Refused) if the database does not take the new values; else it is unknown
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
        let packed = self.verdict.as_ref().map(|event| pack(std::slice::from_ref(event)));
        let verdict = packed.map(|packed| outbox::insert_verdicts(key, packed));
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
                .chain(self.bulk.map(bulk::count))
                .collect(),
        }
    }

    /// The row of the history of a job that is cancelled while it waits.
    pub(super) fn history(&self) -> Option<Step> {
        let Self { before, after, .. } = self;
        let first = self.tombstone_until.and(after.changes.cancelled.as_deref())?;
        Some(history::cancelled(before, first))
    }

    pub(super) fn update(&self) -> Step {
        let Self { before, after, tombstone_until, .. } = self;
        if let Some(until_ms) = tombstone_until {
            return bury(before, after, *until_ms);
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
        values.extend(version(before));
        Step::one(format!("update scheduler_job set {columns} where {IS_VERSION}"), values)
    }
}

/// What makes a row the one that was read.
const IS_VERSION: &str =
    "id = ? and created_ms = ? and revision = ? and attempts = ? and priority <> 3";

fn version(job: &Job) -> [Value; 4] {
    [
        job.id.uuid().into(),
        job.created_ms.into(),
        i64::from(job.changes.revision).into(),
        i64::from(job.attempts).into(),
    ]
}

fn bury(before: &Job, after: &Job, until_ms: i64) -> Step {
    let first = after.changes.cancelled.as_deref();
    let [at_ms, by] = tombstone_values(first);
    let values = [until_ms.into(), i64::from(after.changes.revision).into(), at_ms, by];
    let values = values.into_iter().chain(version(before)).collect();
    Step::one(format!("update scheduler_job set {TOMBSTONE_COLUMNS} where {IS_VERSION}"), values)
}

/// A tombstone keeps names and times, and nothing else that takes room.
pub(super) const TOMBSTONE_COLUMNS: &str = "priority = 3, due_ms = ?, revision = ?, cancelled_ms = ?, \
     cancelled_by = ?, data = '{}', traceparent = null, tracestate = null, last_error = null, \
     started_ms = null, started_by = null";

fn tombstone_values(first: Option<&Cancellation>) -> [Value; 2] {
    let at_ms = first.map(|first| first.at_ms);
    [at_ms.into(), first.map(|first| truncated(&first.by, LONGEST_NAME)).into()]
}

/// Makes a tombstone of a job whose last attempt has ended, if its row is still the one that was
/// fired. Writing it twice does no harm.
pub(super) fn bury_fired(job: &Job, first: &Cancellation, until_ms: i64) -> Step {
    let [at_ms, by] = tombstone_values(Some(first));
    let revision = i64::from(job.changes.revision) + 1;
    let values = vec![
        until_ms.into(),
        revision.into(),
        at_ms,
        by,
        job.id.uuid().into(),
        job.created_ms.into(),
        i64::from(job.attempts).into(),
    ];
    let update = format!(
        "update scheduler_job set {TOMBSTONE_COLUMNS} \
         where id = ? and created_ms = ? and attempts = ? and priority <> 3"
    );
    Step::any(update, values)
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
