//! The audit: what was changed on request, written in the transaction of the change.

use infinite_scheduler_entity::audit::{Column, Entity, Model};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::letters::{LONGEST_MESSAGE, LONGEST_NAME, truncated};
use super::steps::Step;
use super::{Result, Store, page};
use crate::model::audit::{AuditAction, AuditEntry, AuditSource};

/// Rows that one step of the clean-up removes at most.
const STEP: u64 = 500;

/// Which entries are meant; the default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// By this person or program.
    pub who: Option<String>,
    /// Asked for in this way.
    pub source: Option<AuditSource>,
    /// Of this kind.
    pub action: Option<AuditAction>,
    /// About this app.
    pub app: Option<String>,
    /// Of what was done to this: the id of a job or letter, an app, an instance, a partition.
    pub subject: Option<String>,
    /// Of this moment or later, epoch milliseconds.
    pub from_ms: Option<i64>,
    /// Of before this moment, epoch milliseconds.
    pub to_ms: Option<i64>,
}

/// An entry's place among all, by time and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditCursor {
    /// When it was written, epoch milliseconds.
    pub at_ms: i64,
    /// Its id.
    pub id: i64,
}

/// An entry as it is in the table. A newer version may have written actions and sources that this
/// one does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its id.
    pub id: i64,
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// Who asked for it.
    pub who: String,
    /// In which way.
    pub source: String,
    /// What was done.
    pub action: String,
    /// The app that it concerns, if it is one.
    pub app: Option<String>,
    /// What it was done to.
    pub subject: String,
    /// Why.
    pub reason: Option<String>,
    /// The particulars, as JSON.
    pub details: String,
    /// How many rows it changed.
    pub count: i64,
}

/// Some entries, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditRow>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<AuditCursor>,
}

/// Writes `entry`, for the transaction of the change that it is about.
pub(super) fn step(entry: &AuditEntry) -> Step {
    let AuditEntry { at_ms, by, action, app, subject, details, count } = entry;
    let insert = "insert into scheduler_audit \
                  (at_ms, who, source, action, app, subject, reason, details, count) \
                  values (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let values = vec![
        (*at_ms).into(),
        truncated(by.who(), LONGEST_NAME).into(),
        by.source().as_str().into(),
        action.as_str().into(),
        app.as_deref().map(|app| truncated(app, 64)).into(),
        truncated(subject, LONGEST_NAME).into(),
        by.reason().map(|reason| truncated(reason, LONGEST_MESSAGE)).into(),
        details.to_string().into(),
        i64::try_from(*count).unwrap_or(i64::MAX).into(),
    ];
    Step::any(insert, values)
}

impl Store {
    /// The entries that `filter` means, newest first, at most `limit` of them, after the place
    /// where the page before ended.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u64,
    ) -> Result<AuditPage> {
        let mut rows: Vec<Model> = Entity::find()
            .filter(filter.condition())
            .filter(Condition::all().add_option(after.map(older)))
            .order_by_desc(Column::AtMs)
            .order_by_desc(Column::Id)
            .limit(page::one_more(limit))
            .all(&self.inner.pool)
            .await?;
        let more = page::cut_to(&mut rows, limit);
        let next =
            rows.last().filter(|_| more).map(|row| AuditCursor { at_ms: row.at_ms, id: row.id });
        Ok(AuditPage { entries: rows.into_iter().map(AuditRow::from).collect(), next })
    }

    /// Removes the oldest entries of up to `until_ms`, in one small step. True if there may be
    /// more of them.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer; the step can be repeated.
    pub async fn expire_audit(&self, until_ms: i64) -> Result<bool> {
        let expired: Vec<i64> = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::AtMs.lte(until_ms))
            .order_by_asc(Column::AtMs)
            .order_by_asc(Column::Id)
            .limit(STEP)
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        if expired.is_empty() {
            return Ok(false);
        }
        let more = expired.len() as u64 == STEP;
        let _permit = self.write_permit().await;
        Entity::delete_many().filter(Column::Id.is_in(expired)).exec(&self.inner.pool).await?;
        Ok(more)
    }
}

impl AuditFilter {
    fn condition(&self) -> Condition {
        Condition::all()
            .add_option(self.who.as_ref().map(|who| Column::Who.eq(who)))
            .add_option(self.source.map(|source| Column::Source.eq(source.as_str())))
            .add_option(self.action.map(|action| Column::Action.eq(action.as_str())))
            .add_option(self.app.as_ref().map(|app| Column::App.eq(app)))
            .add_option(self.subject.as_ref().map(|subject| Column::Subject.eq(subject)))
            .add_option(self.from_ms.map(|from| Column::AtMs.gte(from)))
            .add_option(self.to_ms.map(|to| Column::AtMs.lt(to)))
    }
}

fn older(than: AuditCursor) -> Condition {
    Condition::all()
        .add(Column::AtMs.lte(than.at_ms))
        .add(Condition::any().add(Column::AtMs.lt(than.at_ms)).add(Column::Id.lt(than.id)))
}

impl From<Model> for AuditRow {
    fn from(row: Model) -> Self {
        let Model { id, at_ms, who, source, action, app, subject, reason, details, count } = row;
        Self { id, at_ms, who, source, action, app, subject, reason, details, count }
    }
}
