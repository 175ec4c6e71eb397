//! Bulk actions: one row for each, which says how far it is.
//!
//! Its runner notes what it is about to change, changes it, and then notes the results. A change
//! counts itself in its own transaction, so that the numbers are right wherever a runner ends.

use infinite_scheduler_entity::bulk::{Column, Entity, Model};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::letters::{LONGEST_MESSAGE, LONGEST_NAME, truncated};
use super::steps::Step;
use super::{Error, Result, Store, audit, page};
use crate::model::audit::AuditEntry;
use crate::model::bulk::BulkState;
use crate::model::ids::InstanceId;

/// Rows that are removed at once.
const STEP: u64 = 500;

/// A bulk action as it is in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkRow {
    /// Its number.
    pub id: i64,
    /// What is done to each job.
    pub action: String,
    /// The particulars of that, as a JSON object.
    pub args: String,
    /// Which jobs, as a JSON object.
    pub filter: String,
    /// Who asked for it.
    pub who: String,
    /// In which way.
    pub source: String,
    /// Why.
    pub reason: Option<String>,
    /// Jobs per second at most.
    pub rate: Option<u32>,
    /// How far it is.
    pub state: BulkState,
    /// Jobs that were found so far.
    pub matched: u64,
    /// Jobs of them that are as was asked.
    pub done: u64,
    /// Jobs of them that could not be changed.
    pub failed: u64,
    /// Jobs of them whose result is known.
    pub treated: u64,
    /// Jobs of letters that it replayed which became letters again.
    pub failed_again: u64,
    /// What was counted before it began, up to a limit.
    pub expected: Option<u64>,
    /// Where its next step begins.
    pub place: Option<String>,
    /// The step that is being carried out.
    pub step: Option<String>,
    /// The instance that carries it out.
    pub runner: Option<InstanceId>,
    /// When it was asked for, epoch milliseconds.
    pub created_ms: i64,
    /// When its row last changed, other than by the change of a job, epoch milliseconds.
    pub changed_ms: i64,
}

/// A bulk action that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBulk {
    /// Its number.
    pub id: i64,
    /// What is done to each job.
    pub action: &'static str,
    /// The particulars of that, as a JSON object.
    pub args: String,
    /// Which jobs, as a JSON object.
    pub filter: String,
    /// Jobs per second at most.
    pub rate: Option<u32>,
    /// The same key does not start a second one.
    pub idempotency_key: Option<String>,
}

/// The results of a step, without the jobs whose changes counted themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepEnd {
    /// Jobs that had been treated before this step.
    pub treated_before: u64,
    /// Jobs that were as was asked already.
    pub done: u64,
    /// Jobs that could not be changed.
    pub failed: u64,
    /// Where the next step begins; none after the last one.
    pub place: Option<String>,
}

/// A bulk action's place among all, by time and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkCursor {
    /// When it was asked for, epoch milliseconds.
    pub created_ms: i64,
    /// Its number.
    pub id: i64,
}

impl Store {
    /// Adds a bulk action and its entry in the audit, which says by whom and when. False if there
    /// is one with its key that was asked for after `keys_since_ms`: nothing was added.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was added.
    pub async fn insert_bulk(
        &self,
        new: &NewBulk,
        entry: &AuditEntry,
        keys_since_ms: i64,
    ) -> Result<bool> {
        let NewBulk { id, action, args, filter, rate, idempotency_key } = new;
        let by = &entry.by;
        let counting = BulkState::Counting.rank();
        let insert = format!(
            "insert into scheduler_bulk (id, action, args, filter, who, source, reason, rate, \
             idempotency_key, state, matched, done, failed, treated, created_ms, changed_ms) \
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, {counting}, 0, 0, 0, 0, ?, ?)"
        );
        let values = vec![
            (*id).into(),
            (*action).into(),
            args.as_str().into(),
            filter.as_str().into(),
            truncated(by.who(), LONGEST_NAME).into(),
            by.source().as_str().into(),
            by.reason().map(|reason| truncated(reason, LONGEST_MESSAGE)).into(),
            rate.map(i64::from).into(),
            idempotency_key.clone().into(),
            entry.at_ms.into(),
            entry.at_ms.into(),
        ];
        let forget = "update scheduler_bulk set idempotency_key = null \
                      where idempotency_key = ? and created_ms < ?";
        let mut steps = Vec::new();
        if let Some(key) = idempotency_key {
            steps.push(Step::any(forget, vec![key.as_str().into(), keys_since_ms.into()]));
        }
        steps.push(Step::if_new(insert, values, audit::step(entry)));
        self.transact(steps).await?;
        Ok(self.bulk(*id).await?.is_some())
    }

    /// A bulk action by its number.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database does not answer.
    pub async fn bulk(&self, id: i64) -> Result<Option<BulkRow>> {
        let row = Entity::find_by_id(id).one(&self.inner.pool).await?;
        row.map(BulkRow::try_from).transpose()
    }

    /// A bulk action by its idempotency key.
    ///
    /// # Errors
    /// As [`bulk`](Self::bulk).
    pub async fn bulk_of_key(&self, key: &str) -> Result<Option<BulkRow>> {
        let found = Entity::find().filter(Column::IdempotencyKey.eq(key));
        found.one(&self.inner.pool).await?.map(BulkRow::try_from).transpose()
    }

    /// Some bulk actions, newest first, and where the next page begins.
    ///
    /// # Errors
    /// As [`bulk`](Self::bulk).
    pub async fn bulks(
        &self,
        after: Option<BulkCursor>,
        limit: u64,
    ) -> Result<(Vec<BulkRow>, Option<BulkCursor>)> {
        let older = |BulkCursor { created_ms, id }| {
            Condition::any()
                .add(Column::CreatedMs.lt(created_ms))
                .add(Condition::all().add(Column::CreatedMs.eq(created_ms)).add(Column::Id.lt(id)))
        };
        let mut rows = Entity::find()
            .filter(Condition::all().add_option(after.map(older)))
            .order_by_desc(Column::CreatedMs)
            .order_by_desc(Column::Id)
            .limit(page::one_more(limit))
            .all(&self.inner.pool)
            .await?;
        let more = page::cut_to(&mut rows, limit);
        let next = rows.last().filter(|_| more);
        let next = next.map(|row| BulkCursor { created_ms: row.created_ms, id: row.id });
        let rows = rows.into_iter().map(BulkRow::try_from).collect::<Result<_>>()?;
        Ok((rows, next))
    }

    /// Stops a bulk action; its runner lets end what it has begun. False if it does not run.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done.
    pub async fn stop_bulk(&self, id: i64, entry: &AuditEntry) -> Result<bool> {
        let [counting, running] = [BulkState::Counting, BulkState::Running].map(BulkState::rank);
        let update = format!(
            "update scheduler_bulk set state = {}, changed_ms = ? \
             where id = ? and state in ({counting}, {running})",
            BulkState::Stopping.rank()
        );
        let values = vec![entry.at_ms.into(), id.into()];
        self.transact(vec![Step::one(update, values), audit::step(entry)]).await
    }

    /// Makes `me` the runner of a bulk action that no other living instance runs. False if another
    /// one does, or it has ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done.
    pub async fn take_bulk(&self, id: i64, me: InstanceId, now_ms: i64) -> Result<bool> {
        let update = format!(
            "update scheduler_bulk set runner = ?, changed_ms = ? where id = ? and state in ({}) \
             and (runner is null or runner = ? \
             or runner not in (select id from scheduler_instance where not dead))",
            unfinished()
        );
        let values = vec![me.0.into(), now_ms.into(), id.into(), me.0.into()];
        self.transact(vec![Step::one(update, values)]).await
    }

    /// Notes how much matched when its runner `me` had counted it.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done.
    pub async fn bulk_counted(
        &self,
        id: i64,
        me: InstanceId,
        expected: u64,
        now_ms: i64,
    ) -> Result<()> {
        let (from, to) = (BulkState::Counting.rank(), BulkState::Running.rank());
        let update = format!(
            "update scheduler_bulk set state = {to}, expected = ?, changed_ms = ? \
             where id = ? and runner = ? and state = {from}"
        );
        let expected = i64::try_from(expected).unwrap_or(i64::MAX);
        let values = vec![expected.into(), now_ms.into(), id.into(), me.0.into()];
        self.transact(vec![Step::any(update, values)]).await.map(drop)
    }

    /// Notes that the runner `me` is about to change the `jobs` jobs of `step`. False if it is not
    /// the runner, or a step was begun.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done.
    pub async fn begin_bulk_step(
        &self,
        id: i64,
        me: InstanceId,
        step: &str,
        jobs: u64,
        now_ms: i64,
    ) -> Result<bool> {
        let update = format!(
            "update scheduler_bulk set step = ?, matched = matched + ?, changed_ms = ? \
             where id = ? and runner = ? and step is null and state in ({})",
            unfinished()
        );
        let jobs = i64::try_from(jobs).unwrap_or_default();
        let values = vec![step.into(), jobs.into(), now_ms.into(), id.into(), me.0.into()];
        self.transact(vec![Step::one(update, values)]).await
    }

    /// Notes the results of the step that was begun. False if the runner is another one, or that
    /// was noted before.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done.
    pub async fn end_bulk_step(
        &self,
        id: i64,
        me: InstanceId,
        end: &StepEnd,
        now_ms: i64,
    ) -> Result<bool> {
        let StepEnd { treated_before, done, failed, place } = end;
        let state = match place {
            Some(_) => "state".to_owned(),
            None => BulkState::Finished.rank().to_string(),
        };
        let update = format!(
            "update scheduler_bulk set step = null, place = ?, done = done + ?, \
             failed = failed + ?, treated = matched, state = {state}, changed_ms = ? \
             where id = ? and runner = ? and step is not null and treated = ?"
        );
        let signed = |number: u64| i64::try_from(number).unwrap_or_default();
        let values = vec![
            place.clone().into(),
            signed(*done).into(),
            signed(*failed).into(),
            now_ms.into(),
            id.into(),
            me.0.into(),
            signed(*treated_before).into(),
        ];
        self.transact(vec![Step::one(update, values)]).await
    }

    /// Notes that a bulk action which is being stopped has stopped: nothing of it is under way.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was done.
    pub async fn end_stopped_bulk(&self, id: i64, me: InstanceId, now_ms: i64) -> Result<bool> {
        let (from, to) = (BulkState::Stopping.rank(), BulkState::Stopped.rank());
        let update = format!(
            "update scheduler_bulk set state = {to}, changed_ms = ? \
             where id = ? and runner = ? and state = {from} and step is null"
        );
        let values = vec![now_ms.into(), id.into(), me.0.into()];
        self.transact(vec![Step::one(update, values)]).await
    }

    /// Removes bulk actions that have ended and were asked for by `until_ms`, in one small step.
    /// True if there may be more of them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database does not answer; the step can be repeated.
    pub async fn expire_bulks(&self, until_ms: i64) -> Result<bool> {
        let expired: Vec<i64> = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(
                Column::State.is_in([BulkState::Stopped, BulkState::Finished].map(BulkState::rank)),
            )
            .filter(Column::CreatedMs.lte(until_ms))
            .limit(STEP)
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        if expired.is_empty() {
            return Ok(false);
        }
        let has_more = expired.len() as u64 == STEP;
        let _permit = self.write_permit().await;
        Entity::delete_many().filter(Column::Id.is_in(expired)).exec(&self.inner.pool).await?;
        Ok(has_more)
    }
}

/// Counts jobs that a bulk action changes, in the transaction of that change.
pub(super) fn count(bulk: i64, jobs: usize) -> Step {
    let values = vec![i64::try_from(jobs).unwrap_or_default().into(), bulk.into()];
    Step::any("update scheduler_bulk set done = done + ? where id = ?", values)
}

/// Counts a job of a letter that a bulk action had replayed, and that is a letter again.
pub(super) fn count_again(bulk: i64) -> Step {
    let update = "update scheduler_bulk set failed_again = failed_again + 1 where id = ?";
    Step::any(update, vec![bulk.into()])
}

/// The states of those that are to be carried out.
pub(super) fn unfinished() -> String {
    let states = [BulkState::Counting, BulkState::Running, BulkState::Stopping];
    states.map(|state| state.rank().to_string()).join(", ")
}

impl TryFrom<Model> for BulkRow {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self> {
        let state = BulkState::of_rank(row.state).ok_or_else(|| {
            let (id, state) = (row.id, row.state);
            Error::Unusable(format!(
                "bulk action {id} is in the state {state}, which only a newer version knows"
            ))
        })?;
        Ok(Self {
            id: row.id,
            action: row.action,
            args: row.args,
            filter: row.filter,
            who: row.who,
            source: row.source,
            reason: row.reason,
            rate: row.rate.map(i32::unsigned_abs),
            state,
            matched: row.matched.unsigned_abs(),
            done: row.done.unsigned_abs(),
            failed: row.failed.unsigned_abs(),
            treated: row.treated.unsigned_abs(),
            failed_again: row.failed_again.unsigned_abs(),
            expected: row.expected.map(i64::unsigned_abs),
            place: row.place,
            step: row.step,
            runner: row.runner.map(InstanceId),
            created_ms: row.created_ms,
            changed_ms: row.changed_ms,
        })
    }
}
