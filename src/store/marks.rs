//! Marks attempts that run in the rows of their jobs: people see what runs, and the next owner of
//! the shard knows what was interrupted.
//!
//! A mark is written by the owner of the shard, and only to the version of the row that it fired.

use std::sync::Arc;

use futures::TryStreamExt;
use infinite_scheduler_entity::instance;
use rusqlite::{Connection, params};
use sea_orm::EntityTrait;
use sqlx::{AssertSqlSafe, Either, Row};
use uuid::Uuid;

use super::admit::mysql::{fence_reads, run};
use super::admit::postgres::locked_fences;
use super::admit::sqlite::holds;
use super::{Driver, Result, ShardFence, Store};
use crate::model::ids::{InstanceId, JobId, ShardId};
use crate::model::job::{Job, Mark};

/// Attempts that are marked in one transaction.
#[derive(Clone, Debug)]
pub struct MarkBatch {
    /// The expected owner and epoch of each shard of the jobs, ascending by shard.
    pub fences: Vec<ShardFence>,
    /// The jobs as they were fired, with all their interruptions, and their marks.
    pub marks: Vec<(Arc<Job>, Mark)>,
}

/// What became of a batch of marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// The jobs whose rows have their marks now. The others are not at the version that was fired,
    /// or in shards that the instance no longer owns.
    pub jobs: Vec<JobId>,
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceEnd {
    /// It was not declared dead.
    Alive,
    /// It left in order, or died more than a day ago.
    Left,
    /// It was declared dead. With its name.
    Died(String),
}

/// The most rows of one text of statements.
const CHUNK: usize = 500;

impl Store {
    /// Marks attempts in the rows of their jobs.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if it is unknown whether the marks were committed. Writing
    /// them again is harmless, and waits for the transaction that may still be open.
    pub async fn mark_attempts(&self, batch: &Arc<MarkBatch>) -> Result<Marked> {
        match &self.inner.driver {
            Driver::Postgres(pool) => postgres(pool, batch).await,
            Driver::MySql(pool) => mysql(pool, batch).await,
            Driver::Sqlite(file) => {
                let batch = batch.clone();
                file.write(move |connection| sqlite(connection, &batch)).await
            }
        }
    }

    /// How an instance ended, if it did.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn instance_end(&self, instance: InstanceId) -> Result<InstanceEnd> {
        let found = instance::Entity::find_by_id(instance.0).one(&self.inner.pool).await?;
        Ok(match found {
            None => InstanceEnd::Left,
            Some(row) if row.dead => InstanceEnd::Died(row.name),
            Some(_) => InstanceEnd::Alive,
        })
    }

    /// The living instances among the owners of these shards, with their names.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn living_owners(
        &self,
        shards: impl IntoIterator<Item = ShardId>,
    ) -> Result<Vec<(ShardId, InstanceId, String)>> {
        let shards: Vec<String> = shards.into_iter().map(|shard| shard.to_string()).collect();
        if shards.is_empty() {
            return Ok(Vec::new());
        }
        let select = format!(
            "select s.id, i.id, i.name from scheduler_shard as s \
             join scheduler_instance as i on i.id = s.owner where not i.dead and s.id in ({})",
            shards.join(", ")
        );
        let mut owners = Vec::new();
        for row in self.query(&select).await? {
            let (shard, owner) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            owners.push((ShardId(shard), InstanceId(owner), row.try_get_by_index(2)?));
        }
        Ok(owners)
    }
}

impl MarkBatch {
    /// The marks in shards whose fences hold, in the order of their ids: two transactions lock
    /// rows in one order.
    fn held(&self, held: impl Fn(ShardId) -> bool) -> Vec<(&Job, Mark)> {
        let marks = self.marks.iter().filter(|(job, _)| held(job.shard));
        let mut marks: Vec<_> = marks.map(|(job, mark)| (&**job, *mark)).collect();
        marks.sort_unstable_by_key(|(job, _)| job.id);
        marks
    }
}

/// Each row is locked before its place is read, since a cancellation may be changing it.
async fn postgres(pool: &sqlx::PgPool, batch: &MarkBatch) -> Result<Marked> {
    let mut transaction = pool.begin().await?;
    let held = locked_fences(&mut transaction, &batch.fences).await?;
    let marks = batch.held(|shard| held.contains(&shard.0));
    let update = "with found as materialized (\
        select place, started, started_by, interrupted from unnest($1::uuid[], $2::bigint[], $3::bigint[], \
        $4::integer[], $5::bigint[], $6::bigint[], $7::text[]) \
        as m(id, created, due, before, started, started_by, interrupted) cross join lateral (\
        select ctid as place from scheduler_job where id = m.id and created_ms = m.created \
        and due_ms = m.due and attempts = m.before offset 0 for update) as j) \
        update scheduler_job set started_ms = found.started, started_by = found.started_by, \
        interruptions = found.interrupted from found where scheduler_job.ctid = found.place returning scheduler_job.id";
    let rows = sqlx::query(update)
        .bind(marks.iter().map(|(job, _)| job.id.uuid()).collect::<Vec<_>>())
        .bind(marks.iter().map(|(job, _)| job.created_ms).collect::<Vec<_>>())
        .bind(marks.iter().map(|(job, _)| job.due_ms).collect::<Vec<_>>())
        .bind(marks.iter().map(|(job, _)| attempts_of(job)).collect::<Vec<_>>())
        .bind(marks.iter().map(|(_, mark)| mark.started_ms).collect::<Vec<_>>())
        .bind(marks.iter().map(|(_, mark)| mark.by.0).collect::<Vec<_>>())
        .bind(marks.iter().map(|(job, _)| interruptions_of(job)).collect::<Vec<_>>())
        .fetch_all(&mut *transaction)
        .await?;
    let ids: sqlx::Result<Vec<Uuid>> = rows.iter().map(|row| row.try_get(0)).collect();
    transaction.commit().await?;
    Ok(Marked { jobs: ids?.into_iter().map(JobId::from_uuid).collect() })
}

/// A statement for each row, since a list of rows would be found by a scan of the range that it is
/// in, and many of them in one text, so that they take one round trip.
async fn mysql(pool: &sqlx::MySqlPool, batch: &MarkBatch) -> Result<Marked> {
    let mut transaction = pool.begin().await?;
    let (held, _) = run(&mut transaction, fence_reads(&batch.fences)).await?;
    let marks = batch.held(|shard| held.contains(&shard.0));
    let mut jobs = Vec::with_capacity(marks.len());
    for marks in marks.chunks(CHUNK) {
        let sql: Vec<String> = marks.iter().map(|(job, mark)| update_of(job, mark)).collect();
        let sql = sql.join(";");
        let mut results = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(&mut *transaction);
        let mut rest = marks.iter();
        while let Some(result) = results.try_next().await? {
            if let (Either::Left(done), Some((job, _))) = (result, rest.next())
                && done.rows_affected() > 0
            {
                jobs.push(job.id);
            }
        }
    }
    transaction.commit().await?;
    Ok(Marked { jobs })
}

/// The names of instances in it are written as bytes, so that nothing in them ends the literal.
fn update_of(job: &Job, mark: &Mark) -> String {
    let interruptions = match interruptions_of(job) {
        Some(text) => {
            let bytes: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            format!("convert(x'{bytes}' using utf8mb4)")
        }
        None => "null".to_owned(),
    };
    format!(
        "update scheduler_job set started_ms = {}, started_by = {}, \
         interruptions = {interruptions} where shard = {} \
         and priority = {} and due_ms = {} and id = x'{:032x}' and created_ms = {} \
         and attempts = {}",
        mark.started_ms,
        mark.by,
        job.shard,
        job.priority.rank(),
        job.due_ms,
        job.id.as_u128(),
        job.created_ms,
        attempts_of(job)
    )
}

fn sqlite(connection: &Connection, batch: &MarkBatch) -> Result<Marked> {
    let mut held = Vec::new();
    for fence in &batch.fences {
        if holds(connection, fence)? {
            held.push(fence.shard);
        }
    }
    let mut update = connection.prepare_cached(
        "update scheduler_job set started_ms = ?, started_by = ?, interruptions = ? where shard = ? \
         and priority = ? and due_ms = ? and id = ? and created_ms = ? and attempts = ?",
    )?;
    let mut jobs = Vec::with_capacity(batch.marks.len());
    for (job, mark) in batch.held(|shard| held.contains(&shard)) {
        let changed = update.execute(params![
            mark.started_ms,
            mark.by.0,
            interruptions_of(job),
            job.shard.0,
            job.priority.rank(),
            job.due_ms,
            job.id.into_bytes(),
            job.created_ms,
            attempts_of(job),
        ])?;
        if changed > 0 {
            jobs.push(job.id);
        }
    }
    Ok(Marked { jobs })
}

/// Its interruptions as its row has them: null for nearly every job.
fn interruptions_of(job: &Job) -> Option<String> {
    let interruptions = &job.changes.interruptions;
    (!interruptions.is_empty()).then(|| serde_json::to_string(interruptions).unwrap_or_default())
}

fn attempts_of(job: &Job) -> i32 {
    i32::try_from(job.attempts).unwrap_or(i32::MAX)
}
