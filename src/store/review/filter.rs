//! Lists and counts dead letters by a filter, newest first, a page at a time.

use infinite_scheduler_entity::dead_letter::{Column, Entity};
use sea_orm::sea_query::{BinOper, Expr, ExprTrait, Func};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::LetterSummary;
use crate::model::filter::TopicPartition;
use crate::store::page;
use crate::store::{LetterState, Result, Store};

/// A filter of dead letters; the default matches every letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// The letter has one of these states; any state, if there is none.
    pub states: Vec<LetterState>,
    /// The letter is of this app.
    pub app: Option<String>,
    /// The letter is of this error kind, such as `unknown-app`.
    pub kind: Option<String>,
    /// The letter was created or parked at this time or later, epoch milliseconds.
    pub from_ms: Option<i64>,
    /// The letter was created or parked before this time, epoch milliseconds.
    pub to_ms: Option<i64>,
    /// The error message contains this text, regardless of case.
    pub contains: Option<String>,
    /// The letter's record is in this partition.
    pub partition: Option<TopicPartition>,
}

/// A position in the order of all dead letters, by time and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterCursor {
    /// When it was created or parked, epoch milliseconds.
    pub created_ms: i64,
    /// Its id.
    pub id: Uuid,
}

/// A page of dead letters, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterPage {
    /// The letters.
    pub letters: Vec<LetterSummary>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<LetterCursor>,
}

/// The number of dead letters of an error kind and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterCount {
    /// The state.
    pub state: LetterState,
    /// The kind.
    pub kind: String,
    /// The number.
    pub count: u64,
}

impl Store {
    /// The dead letters that match `filter`, newest first, at most `limit`, after the end of the
    /// previous page. Letters that are created in the meantime do not shift the pages.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn letters(
        &self,
        filter: &LetterFilter,
        after: Option<LetterCursor>,
        limit: u64,
    ) -> Result<LetterPage> {
        let mut letters: Vec<LetterSummary> = Entity::find()
            .filter(filter.condition())
            .filter(Condition::all().add_option(after.map(older)))
            .order_by_desc(Column::CreatedMs)
            .order_by_desc(Column::Id)
            .limit(page::one_more(limit))
            .into_partial_model()
            .all(&self.inner.pool)
            .await?;
        let more = page::cut_to(&mut letters, limit);
        let next = letters.last().filter(|_| more).map(LetterCursor::of);
        Ok(LetterPage { letters, next })
    }

    /// Whether at least `limit` dead letters match `filter`, or how many do.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn count_some_letters(&self, filter: &LetterFilter, limit: u64) -> Result<u64> {
        let found: Vec<Uuid> = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(filter.condition())
            .limit(limit)
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        Ok(found.len() as u64)
    }

    /// Counts the dead letters that match `filter`, by state and kind. Combinations without a letter
    /// are not in the result.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn count_letters(&self, filter: &LetterFilter) -> Result<Vec<LetterCount>> {
        let counts: Vec<(i16, String, i64)> = Entity::find()
            .select_only()
            .column(Column::State)
            .column(Column::Kind)
            .column_as(Column::Id.count(), "letters")
            .filter(filter.condition())
            .group_by(Column::State)
            .group_by(Column::Kind)
            .order_by_asc(Column::State)
            .order_by_asc(Column::Kind)
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        let counted = |(state, kind, count): (i16, String, i64)| LetterCount {
            state: LetterState::of(state),
            kind,
            count: count.try_into().unwrap_or(0),
        };
        Ok(counts.into_iter().map(counted).collect())
    }
}

impl LetterFilter {
    fn condition(&self) -> Condition {
        let states = self.states.iter().map(|state| state.code());
        Condition::all()
            .add_option((!self.states.is_empty()).then(|| Column::State.is_in(states)))
            .add_option(self.app.as_ref().map(|app| Column::App.eq(app)))
            .add_option(self.kind.as_ref().map(|kind| Column::Kind.eq(kind)))
            .add_option(self.from_ms.map(|from| Column::CreatedMs.gte(from)))
            .add_option(self.to_ms.map(|to| Column::CreatedMs.lt(to)))
            .add_option(self.contains.as_deref().map(message_contains))
            .add_option(self.partition.as_ref().map(in_partition))
    }
}

impl LetterCursor {
    pub(super) fn of(letter: &LetterSummary) -> Self {
        Self { created_ms: letter.created_ms, id: letter.id }
    }
}

fn older(than: LetterCursor) -> Condition {
    // The redundant first condition lets the index scan begin at the cursor; an `or` alone would not.
    Condition::all().add(Column::CreatedMs.lte(than.created_ms)).add(
        Condition::any().add(Column::CreatedMs.lt(than.created_ms)).add(Column::Id.lt(than.id)),
    )
}

fn in_partition(of: &TopicPartition) -> Condition {
    Condition::all().add(Column::Topic.eq(&*of.topic)).add(Column::Number.eq(of.partition.0))
}

/// Both sides are converted to lower case by the database, since databases differ beyond ASCII.
fn message_contains(text: &str) -> Expr {
    let pattern = Func::lower(Expr::val(pattern(text)));
    let pattern = Expr::expr(pattern).binary(BinOper::Escape, Expr::val("!"));
    Expr::expr(Func::lower(Expr::col(Column::Message))).binary(BinOper::Like, pattern)
}

/// A LIKE pattern for what has `text` in it, with `!` before what would be a wildcard.
fn pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '!' | '%' | '_') {
            pattern.push('!');
        }
        // Stored messages have U+FFFD in place of NUL, which PostgreSQL cannot store.
        pattern.push(if c == '\0' { '\u{fffd}' } else { c });
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_a_text_are_text() {
        for (text, meant) in
            [("a", "%a%"), ("50%_!", "%50!%!_!!%"), ("\\", "%\\%"), ("a\0b", "%a\u{fffd}b%")]
        {
            assert_eq!(pattern(text), meant);
        }
    }
}
