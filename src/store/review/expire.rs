//! Removes dead letters that have not changed for a long time, in small steps.

use std::collections::HashSet;

use infinite_scheduler_entity::dead_letter::{Column, Entity};
use infinite_scheduler_entity::{job, outbox};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::LetterCursor;
use crate::store::tombstones::TOMBSTONE;
use crate::store::{LetterState, Result, Store};

/// The most dead letters that one step reads.
const STEP: u64 = 500;

/// What a step reads of a dead letter: its id, when it was created and last changed, its state, its
/// job, and the ledger row of its record.
type Seen = (Uuid, i64, i64, i16, Option<Uuid>, Option<i32>);

impl Store {
    /// Reads some dead letters, oldest first, and removes those that were last changed by `until_ms`.
    /// Returns how many were removed, and where the next step begins; `None` at the end.
    ///
    /// A letter is kept if it is parked, or if the job of its replay is live: should that job fail,
    /// its dead letter counts the replays by this one. A letter that is still to be published is
    /// kept too, unless it does not come from Kafka and there is `no_kafka` to publish it to.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable; the same step can be
    /// repeated.
    pub async fn expire_letters(
        &self,
        after: Option<LetterCursor>,
        until_ms: i64,
        no_kafka: bool,
    ) -> Result<(u64, Option<LetterCursor>)> {
        let seen: Vec<Seen> = Entity::find()
            .select_only()
            .columns([Column::Id, Column::CreatedMs, Column::ChangedMs])
            .columns([Column::State, Column::Job, Column::Ledger])
            // A change is never older than its letter, except that early versions did not store it.
            .filter(Column::CreatedMs.lte(until_ms))
            .filter(Condition::all().add_option(after.map(newer)))
            .order_by_asc(Column::CreatedMs)
            .order_by_asc(Column::Id)
            .limit(STEP)
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        let next = seen
            .last()
            .filter(|_| seen.len() as u64 == STEP)
            .map(|&(id, created_ms, ..)| LetterCursor { created_ms, id });
        let expired = self.removable(&seen, until_ms, no_kafka).await?;
        if expired.is_empty() {
            return Ok((0, next));
        }
        let _permit = self.write_permit().await;
        // One that was changed in the meantime is kept.
        let gone = Entity::delete_many()
            .filter(Column::Id.is_in(expired.iter().copied()))
            .filter(Column::State.ne(LetterState::Parked.code()))
            .filter(Column::ChangedMs.lte(until_ms))
            .exec(&self.inner.pool)
            .await?;
        if no_kafka {
            self.remove_from_outbox(&expired).await?;
        }
        Ok((gone.rows_affected, next))
    }

    /// Removes the outbox rows of those letters that were removed. With Kafka, the outbox relay does
    /// this.
    async fn remove_from_outbox(&self, letters: &[Uuid]) -> Result<()> {
        let left: Vec<Uuid> = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::Id.is_in(letters.iter().copied()))
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        let gone = letters.iter().filter(|letter| !left.contains(letter)).copied();
        outbox::Entity::delete_many()
            .filter(outbox::Column::Letter.is_in(gone))
            .exec(&self.inner.pool)
            .await?;
        Ok(())
    }

    async fn removable(&self, seen: &[Seen], until_ms: i64, no_kafka: bool) -> Result<Vec<Uuid>> {
        let parked = LetterState::Parked.code();
        let over: Vec<&Seen> = seen
            .iter()
            .filter(|(_, _, changed_ms, state, ..)| *changed_ms <= until_ms && *state != parked)
            .collect();
        if over.is_empty() {
            return Ok(Vec::new());
        }
        let waiting = over.iter().filter(|seen| seen.5.is_some() || !no_kafka);
        let unpublished: Vec<Uuid> = outbox::Entity::find()
            .select_only()
            .column(outbox::Column::Letter)
            .filter(outbox::Column::Letter.is_in(waiting.map(|seen| seen.0)))
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        let replayed = over.iter().filter(|seen| seen.3 == LetterState::Replayed.code());
        let live: Vec<Uuid> = job::Entity::find()
            .select_only()
            .column(job::Column::Id)
            .filter(job::Column::Id.is_in(replayed.filter_map(|seen| seen.4)))
            .filter(job::Column::Priority.ne(TOMBSTONE))
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        let unpublished: HashSet<Uuid> = unpublished.into_iter().collect();
        let live: HashSet<Uuid> = live.into_iter().collect();
        let replayed = LetterState::Replayed.code();
        let is_kept = |(id, _, _, state, job, _): &Seen| {
            let lives = *state == replayed && job.is_some_and(|job| live.contains(&job));
            lives || unpublished.contains(id)
        };
        Ok(over.into_iter().filter(|seen| !is_kept(seen)).map(|seen| seen.0).collect())
    }
}

fn newer(than: LetterCursor) -> Condition {
    Condition::all().add(Column::CreatedMs.gte(than.created_ms)).add(
        Condition::any().add(Column::CreatedMs.gt(than.created_ms)).add(Column::Id.gt(than.id)),
    )
}
