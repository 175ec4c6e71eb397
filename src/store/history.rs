//! The history of jobs: one row for each attempt that counts, and for a job that was cancelled
//! before one. It is written with the outcome, in its transaction, and removed oldest first.

use std::collections::HashSet;

use infinite_scheduler_entity::job_history::{Column, Entity, Model};
use infinite_scheduler_entity::{app, dead_letter};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::columns::{history, signed_ms};
use super::history_row::AttemptState;
use super::letters::{DEAD, truncated};
use super::steps::{Step, Value};
use super::{AppRules, Driver, Result, Store};
use crate::model::ids::JobId;
use crate::model::job::{Cancellation, Job, JobData, Priority};

/// Rows that one step of the clean-up removes at most, of each app.
const STEP: u64 = 500;
/// How long what failed or was cancelled is kept, of an app that keeps nothing of what succeeded,
/// in milliseconds.
const KEEP_FAILURES_MS: u64 = 24 * 3_600_000;
/// Characters of a name that a row keeps.
pub(super) const LONGEST_NAME: usize = 255;
/// The most ids of one query.
const AT_ONCE: usize = 500;
/// The most attempts of one job that are read.
const ATTEMPTS: u64 = 100;

/// Of a job that is cancelled while it waits, before its row becomes a tombstone.
pub(super) fn cancelled(job: &Job, first: &Cancellation) -> Step {
    let values: Vec<Value> = vec![
        job.id.uuid().into(),
        job.created_ms.into(),
        i64::from(job.attempts).into(),
        AttemptState::Cancelled.code().into(),
        job.request_id.as_str().into(),
        job.scheduled_ms.into(),
        job.due_ms.into(),
        first.at_ms.into(),
        truncated(&first.by, LONGEST_NAME).into(),
        job.priority.rank().into(),
        job.max_attempts.map(i64::from).into(),
        job.timeout_ms.map(signed_ms).into(),
        job.data.as_str().into(),
        job.origin.as_ref().map(|origin| origin.ledger.0).into(),
        job.origin.as_ref().map(|origin| origin.offset.0).into(),
        job.shard.0.into(),
    ];
    let insert = format!(
        "insert into scheduler_job_history ({}) \
         select ?, ?, ?, ?, app, ?, ?, ?, null, ?, null, null, null, null, ?, ?, ?, ?, ?, ?, ? \
         from scheduler_shard where id = ?",
        history::COLUMNS
    );
    Step::any(insert, values)
}

/// One row of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The number of the attempt; of a job that was cancelled or expired while it waited, how many
    /// had ended.
    pub attempt: u32,
    /// How it ended.
    pub state: AttemptState,
    /// When it was due, epoch milliseconds.
    pub due_ms: i64,
    /// When it started, epoch milliseconds, if it did.
    pub started_ms: Option<i64>,
    /// When it ended, epoch milliseconds.
    pub ended_ms: i64,
    /// How long after it could have started it did, milliseconds.
    pub lateness_ms: Option<i64>,
    /// Of a job that failed for good, the error kind.
    pub kind: Option<String>,
    /// The error.
    pub error: Option<String>,
    /// The name of the instance on which it ran.
    pub instance: Option<String>,
    /// Who cancelled the job.
    pub cancelled_by: Option<String>,
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedJob {
    /// The job.
    pub id: JobId,
    /// Its request's id.
    pub request_id: String,
    /// When it was admitted, epoch milliseconds.
    pub created_ms: i64,
    /// When it was scheduled to fire, epoch milliseconds.
    pub scheduled_ms: i64,
    /// Its priority.
    pub priority: Priority,
    /// Its own limit of attempts.
    pub max_attempts: Option<u32>,
    /// Its own time limit of an attempt, milliseconds.
    pub timeout_ms: Option<u64>,
    /// What its handler was given.
    pub data: Option<JobData>,
    /// Its app's name.
    pub app_name: String,
    /// Its app's rules.
    pub rules: AppRules,
    /// How it ended.
    pub end: HistoryEntry,
    /// Everything that the history has of it, oldest first, with its end.
    pub attempts: Vec<HistoryEntry>,
}

impl Store {
    /// The attempts that have ended of the job that was admitted then, oldest first.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer.
    pub async fn attempts_of(&self, job: JobId, created_ms: i64) -> Result<Vec<HistoryEntry>> {
        let mut rows = self.history_of(job).await?;
        rows.retain(|row| row.created_ms == created_ms);
        Ok(rows.into_iter().rev().map(HistoryEntry::of).collect())
    }

    /// The job as it ended, if it has and that is kept. Of several that had this id one after the
    /// other, the last one.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer, or the rules of the app cannot be
    /// read.
    pub async fn ended_job(&self, id: JobId) -> Result<Option<EndedJob>> {
        let mut rows = self.history_of(id).await?;
        let Some(last) = rows.iter().position(|row| row.state != AttemptState::Retried.code())
        else {
            return Ok(None);
        };
        let end = rows.remove(last);
        rows.retain(|row| row.created_ms == end.created_ms);
        let Some(app) = app::Entity::find_by_id(end.app).one(&self.inner.pool).await? else {
            return Ok(None);
        };
        let attempts = rows.into_iter().rev().map(HistoryEntry::of);
        let mut attempts: Vec<HistoryEntry> = attempts.collect();
        attempts.push(HistoryEntry::of(end.clone()));
        Ok(Some(EndedJob {
            id,
            created_ms: end.created_ms,
            scheduled_ms: end.scheduled_ms,
            priority: Priority::from_rank(end.priority),
            max_attempts: end.max_attempts.and_then(|n| n.try_into().ok()),
            timeout_ms: end.timeout_ms.and_then(|n| n.try_into().ok()),
            data: end.data.clone().map(JobData::from_trusted),
            rules: rules_of(&app)?,
            app_name: app.name,
            request_id: end.request_id.clone(),
            end: HistoryEntry::of(end),
            attempts,
        }))
    }

    /// How the job with this id ended last, with the time of its admission.
    pub(super) async fn end_of(&self, id: JobId) -> Result<Option<HistoryEntry>> {
        let row = Entity::find()
            .filter(Column::Id.eq(id.uuid()))
            .filter(Column::State.ne(AttemptState::Retried.code()))
            .order_by_desc(Column::CreatedMs)
            .order_by_desc(Column::EndedMs)
            .one(&self.inner.pool)
            .await?;
        Ok(row.map(HistoryEntry::of))
    }

    /// Those of these jobs, each with its request id, of which it is known that they have fired.
    pub(super) async fn fired(&self, jobs: &[(JobId, &str)]) -> Result<HashSet<JobId>> {
        let ends = [AttemptState::Succeeded, AttemptState::Dead].map(AttemptState::code);
        let mut fired = HashSet::new();
        for some in jobs.chunks(AT_ONCE) {
            let ids: HashSet<Uuid> = some.iter().map(|(id, _)| id.uuid()).collect();
            let ended: Vec<Uuid> = Entity::find()
                .select_only()
                .column(Column::Id)
                .filter(Column::Id.is_in(ids.iter().copied()))
                .filter(Column::State.is_in(ends))
                .into_tuple()
                .all(&self.inner.pool)
                .await?;
            fired.extend(ended.into_iter().map(JobId::from_uuid));
            // A letter says so as well, and may be kept for longer.
            let dead: Vec<Option<Uuid>> = dead_letter::Entity::find()
                .select_only()
                .column(dead_letter::Column::Job)
                .filter(dead_letter::Column::RequestId.is_in(some.iter().map(|(_, name)| *name)))
                .filter(dead_letter::Column::State.eq(DEAD))
                .into_tuple()
                .all(&self.inner.pool)
                .await?;
            let dead = dead.into_iter().flatten().filter(|job| ids.contains(job));
            fired.extend(dead.map(JobId::from_uuid));
        }
        Ok(fired)
    }

    /// Newest first.
    async fn history_of(&self, id: JobId) -> Result<Vec<Model>> {
        Ok(Entity::find()
            .filter(Column::Id.eq(id.uuid()))
            .order_by_desc(Column::CreatedMs)
            .order_by_desc(Column::EndedMs)
            .order_by_desc(Column::Attempt)
            .limit(ATTEMPTS)
            .all(&self.inner.pool)
            .await?)
    }

    /// Removes what every app has kept for long enough by `now_ms`, in one small step. True if
    /// there may be more.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer; the step can be repeated.
    pub async fn expire_history(&self, now_ms: i64) -> Result<bool> {
        let mut until = Vec::new();
        for app in app::Entity::find().all(&self.inner.pool).await? {
            let keep_ms = match rules_of(&app)?.policy.history_ms {
                0 => KEEP_FAILURES_MS,
                keep_ms => keep_ms,
            };
            until.push((app.id, now_ms.saturating_sub(signed_ms(keep_ms))));
        }
        let mut has_more = false;
        for (app, state, until_ms) in self.old_history(&until).await? {
            let _permit = self.write_permit().await;
            let sql = self.delete_of(app, state, until_ms);
            let gone = self.inner.pool.execute_unprepared(&sql).await?.rows_affected();
            has_more |= gone >= STEP;
        }
        Ok(has_more)
    }

    /// Those of the apps, with a state, that have rows of it which ended at that moment or before.
    async fn old_history(&self, until: &[(i32, i64)]) -> Result<Vec<(i32, i32, i64)>> {
        if until.is_empty() {
            return Ok(Vec::new());
        }
        let cases: Vec<String> =
            until.iter().map(|(app, until_ms)| format!("when {app} then {until_ms}")).collect();
        let states = AttemptState::ALL.map(|state| {
            let state = i32::from(state.code());
            let sql = format!(
                "select a.id from scheduler_app as a where exists (select 1 from \
                 scheduler_job_history as h where h.app = a.id and h.state = {state} \
                 and h.ended_ms <= case a.id {} end)",
                cases.join(" ")
            );
            (state, sql)
        });
        let mut found = Vec::new();
        for (state, sql) in states {
            for row in self.query(&sql).await? {
                let id: i32 = row.try_get_by_index(0)?;
                let until = until.iter().find(|(app, _)| *app == id);
                found.extend(until.map(|(app, until_ms)| (*app, state, *until_ms)));
            }
        }
        Ok(found)
    }

    /// Deletes the oldest rows of an app and state, by the index of their ends.
    fn delete_of(&self, app: i32, state: i32, until_ms: i64) -> String {
        let rows = format!(
            "where app = {app} and state = {state} and ended_ms <= {until_ms} order by ended_ms"
        );
        let from = "from scheduler_job_history";
        match self.inner.driver {
            Driver::Postgres(_) => format!(
                "delete {from} where ctid = any(array(select ctid {from} {rows} limit {STEP}))"
            ),
            Driver::MySql(_) => format!("delete {from} {rows} limit {STEP}"),
            Driver::Sqlite(_) => format!(
                "delete {from} where (app, state, ended_ms, id, created_ms, attempt) in (select \
                 app, state, ended_ms, id, created_ms, attempt {from} {rows} limit {STEP})"
            ),
        }
    }
}

impl HistoryEntry {
    /// How long it ran, milliseconds; `None` if it did not.
    pub fn duration_ms(&self) -> Option<i64> {
        Some(self.ended_ms.saturating_sub(self.started_ms?))
    }

    fn of(row: Model) -> Self {
        Self {
            attempt: row.attempt.try_into().unwrap_or(0),
            state: AttemptState::of_code(row.state),
            due_ms: row.due_ms,
            started_ms: row.started_ms,
            ended_ms: row.ended_ms,
            lateness_ms: row.lateness_ms,
            kind: row.kind,
            error: row.error,
            instance: row.instance,
            cancelled_by: row.cancelled_by,
        }
    }
}

fn rules_of(app: &app::Model) -> Result<AppRules> {
    AppRules::read(&app.name, &app.rules, app.overrides.as_deref())
}
