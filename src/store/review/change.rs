//! What people do to dead letters, each by compare-and-set on what they saw.

use std::collections::HashMap;

use infinite_scheduler_entity::dead_letter::{Column, Entity};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use uuid::Uuid;

use super::LetterSummary;
use crate::store::{LetterState, Result, Store};

/// Letters that one statement changes.
const STEP: usize = 200;

/// What became of a change to one letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as was asked for.
    Made,
    /// It was not touched, since it reads like this now: it is not dead, or was changed by
    /// somebody else since it was read.
    Refused(Box<LetterSummary>),
    /// There is no such letter any more.
    Gone,
}

impl Store {
    /// Puts a value beside the record's, for a replay to use; or takes it away. Only a dead
    /// letter that still is as it was `seen` is changed.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is away; ask what is there.
    pub async fn correct_letter(
        &self,
        seen: &LetterSummary,
        correction: Option<Vec<u8>>,
        now_ms: i64,
    ) -> Result<Change> {
        // It must differ: whoever read the letter before must not replay the value of then.
        let changed_ms = Ord::max(now_ms, seen.changed_ms.saturating_add(1));
        let changed = {
            let _turn = self.turn().await;
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

    /// Discards those letters that are dead and still as they were `seen`; says of each what
    /// became of it, in the same order.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is away; the same call can be
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
            let _turn = self.turn().await;
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
            // By whom does not matter.
            Some(now) if now.state() == LetterState::Discarded => Change::Made,
            Some(now) => Change::Refused(Box::new(now)),
        };
        Ok(seen.iter().map(change).collect())
    }
}
