//! Corrects and discards dead letters, by compare-and-set on the row as it was read.

use std::collections::HashMap;

use infinite_scheduler_entity::dead_letter::{Column, Entity};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use uuid::Uuid;

use super::LetterSummary;
use crate::store::{LetterState, Result, Store};

/// The most dead letters that one statement changes.
const STEP: usize = 200;

/// The result of changing one dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was changed, or was discarded already.
    Made,
    /// It was not changed, because it is not in the state `Dead` or was changed since it was read.
    /// Contains the current version.
    Refused(Box<LetterSummary>),
    /// It no longer exists.
    Gone,
}

impl Store {
    /// Sets the corrected value of a dead letter, which a replay uses instead of the record's value;
    /// `None` removes it. The letter is changed only if it still is as `seen`.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if it is unknown whether it was changed; read it again.
    pub async fn correct_letter(
        &self,
        seen: &LetterSummary,
        correction: Option<Vec<u8>>,
        now_ms: i64,
    ) -> Result<Change> {
        // It must differ from the last one, so that a replay that read the old value is refused.
        let changed_ms = Ord::max(now_ms, seen.changed_ms.saturating_add(1));
        let changed = {
            let _permit = self.write_permit().await;
            Entity::update_many()
                .col_expr(Column::Correction, Expr::value(correction))
                .col_expr(Column::ChangedMs, Expr::value(changed_ms))
                .filter(Column::Id.eq(seen.id))
                .filter(Column::State.eq(LetterState::Dead.code()))
                .filter(Column::ChangedMs.eq(seen.changed_ms))
                .exec(&self.inner.pool)
                .await?
                .rows_affected
        };
        if changed > 0 {
            return Ok(Change::Made);
        }
        let now = self.letters_by_id([seen.id]).await?.pop();
        Ok(now.map_or(Change::Gone, |now| Change::Refused(Box::new(now))))
    }

    /// Discards those dead letters that still are as `seen`. Returns the result for each of them, in
    /// the same order.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable; the same call can be
    /// repeated.
    pub async fn discard_letters(
        &self,
        seen: &[LetterSummary],
        now_ms: i64,
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::with_capacity(seen.len());
        for some in seen.chunks(STEP) {
            changes.extend(self.discard_some(some, now_ms).await?);
        }
        Ok(changes)
    }

    async fn discard_some(&self, seen: &[LetterSummary], now_ms: i64) -> Result<Vec<Change>> {
        let as_seen = Expr::tuple([Expr::col(Column::Id), Expr::col(Column::ChangedMs)])
            .in_tuples(seen.iter().map(|letter| (letter.id, letter.changed_ms)));
        let discarded = {
            let _permit = self.write_permit().await;
            Entity::update_many()
                .col_expr(Column::State, Expr::value(LetterState::Discarded.code()))
                .col_expr(Column::ChangedMs, Expr::value(now_ms))
                .filter(Column::State.eq(LetterState::Dead.code()))
                .filter(as_seen)
                .exec(&self.inner.pool)
                .await?
                .rows_affected
        };
        if discarded == seen.len() as u64 {
            return Ok(vec![Change::Made; seen.len()]);
        }
        let now = self.letters_by_id(seen.iter().map(|letter| letter.id)).await?;
        let mut now: HashMap<Uuid, LetterSummary> =
            now.into_iter().map(|letter| (letter.id, letter)).collect();
        let change = |letter: &LetterSummary| match now.remove(&letter.id) {
            None => Change::Gone,
            // It does not matter who discarded it.
            Some(now) if now.state() == LetterState::Discarded => Change::Made,
            Some(now) => Change::Refused(Box::new(now)),
        };
        Ok(seen.iter().map(change).collect())
    }
}
