//! Which letters are meant, newest first, a page at a time.

use infinite_scheduler_entity::dead_letter::{Column, Entity};
use sea_orm::sea_query::{BinOper, Expr, ExprTrait, Func};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::LetterSummary;
use crate::store::{LetterState, Result, Store};

/// What letters must have in common; the default is every letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// In one of these states; any, if there is none.
    pub states: Vec<LetterState>,
    /// Of this app.
    pub app: Option<String>,
    /// Of this kind, by its name on the wire.
    pub kind: Option<String>,
    /// Died or parked at this moment or later, epoch milliseconds.
    pub from_ms: Option<i64>,
    /// Died or parked before this moment, epoch milliseconds.
    pub to_ms: Option<i64>,
    /// With this in the message, whatever the case of its letters.
    pub contains: Option<String>,
}

/// A letter's place among all, by time and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterCursor {
    /// When it died or was parked, epoch milliseconds.
    pub created_ms: i64,
    /// Its id.
    pub id: Uuid,
}

/// Some letters, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterPage {
    /// The letters.
    pub letters: Vec<LetterSummary>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<LetterCursor>,
}

/// How many letters there are of a kind in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterCount {
    /// The state.
    pub state: LetterState,
    /// The kind.
    pub kind: String,
    /// How many.
    pub count: u64,
}

impl Store {
    /// The letters that `filter` means, newest first, `limit` at the most, after the place
    /// where the page before ended. A letter that comes meanwhile moves none to another page.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is away.
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
            // One more than was asked for tells whether there are more.
            .limit(limit.saturating_add(1))
            .into_partial_model()
            .all(&self.inner.pool)
            .await?;
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = letters.len() > most;
        letters.truncate(most);
        let next = letters.last().filter(|_| more).map(LetterCursor::of);
        Ok(LetterPage { letters, next })
    }

    /// How many letters `filter` means, by state and kind; of those that there are.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is away.
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
    }
}

impl LetterCursor {
    pub(super) fn of(letter: &LetterSummary) -> Self {
        Self { created_ms: letter.created_ms, id: letter.id }
    }
}

fn older(than: LetterCursor) -> Condition {
    // The first part alone lets the index begin at the place; an `or` on top would not.
    Condition::all().add(Column::CreatedMs.lte(than.created_ms)).add(
        Condition::any().add(Column::CreatedMs.lt(than.created_ms)).add(Column::Id.lt(than.id)),
    )
}

/// Both sides are lowered by the database: each has its own idea of letters beyond ASCII.
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
        // As messages have it: PostgreSQL cannot keep a NUL.
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
