//! Idempotency keys, and forgetting those whose window is over, in steps that nobody notices.

use std::collections::HashSet;

use infinite_scheduler_entity::{idempotency_key, job};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};
use uuid::Uuid;

use super::columns::TOMBSTONE;
use super::{Hot, Result, Store};
use crate::model::ids::KeyId;

/// Keys that one step looks at.
const STEP: u64 = 500;
/// How long after its window a key is kept: clocks differ, and batches take their time.
const GRACE_MS: i64 = 3_600_000;

/// An idempotency key and its window.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// Derived from app and key.
    pub id: KeyId,
    /// The key as it was sent.
    pub name: String,
    /// The end of its window, epoch milliseconds.
    pub expires_ms: i64,
}

/// Where the next step begins; the default is the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCursor {
    expires_ms: i64,
    id: Uuid,
}

impl Store {
    /// Looks at some keys in the order in which the table has them, and removes those whose
    /// window ended an hour ago and whose job is not live any more. Gives back how many, and
    /// where to go on; `None` at the end.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away; the same step can be repeated.
    pub async fn forget_keys(
        &self,
        from: KeyCursor,
        now_ms: i64,
    ) -> Result<(u64, Option<KeyCursor>)> {
        let over_ms = now_ms - GRACE_MS;
        let beyond = match self.inner.hot {
            Hot::MySql(_) => by_time(from, over_ms),
            Hot::Postgres(_) | Hot::Sqlite(_) => by_id(from),
        };
        let seen = beyond.limit(STEP).all(&self.inner.pool).await?;
        let last = seen.last().filter(|_| seen.len() as u64 == STEP);
        let next = last.map(|key| KeyCursor { expires_ms: key.expires_ms, id: key.id });
        let over: Vec<_> = seen.into_iter().filter(|key| key.expires_ms <= over_ms).collect();
        if over.is_empty() {
            return Ok((0, next));
        }
        let live: Vec<Uuid> = job::Entity::find()
            .select_only()
            .column(job::Column::Id)
            .filter(job::Column::Id.is_in(over.iter().map(|key| key.job)))
            .filter(job::Column::Priority.ne(TOMBSTONE))
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        let live: HashSet<Uuid> = live.into_iter().collect();
        let ended = over.iter().filter(|key| !live.contains(&key.job)).map(|key| key.id);
        let _turn = self.turn().await;
        // A key that was replaced meanwhile has another window and stays.
        let gone = idempotency_key::Entity::delete_many()
            .filter(idempotency_key::Column::Id.is_in(ended))
            .filter(idempotency_key::Column::ExpiresMs.lte(over_ms))
            .exec(&self.inner.pool)
            .await?;
        Ok((gone.rows_affected, next))
    }
}

/// Where keys are kept by the end of their window, those that are over are at the start.
fn by_time(from: KeyCursor, over_ms: i64) -> Select<idempotency_key::Entity> {
    use idempotency_key::Column::{ExpiresMs, Id};
    let same = Condition::all().add(ExpiresMs.eq(from.expires_ms)).add(Id.gt(from.id));
    idempotency_key::Entity::find()
        .filter(ExpiresMs.between(from.expires_ms, over_ms))
        .filter(Condition::any().add(ExpiresMs.gt(from.expires_ms)).add(same))
        .order_by_asc(ExpiresMs)
        .order_by_asc(Id)
}

fn by_id(from: KeyCursor) -> Select<idempotency_key::Entity> {
    use idempotency_key::Column::Id;
    idempotency_key::Entity::find().filter(Id.gt(from.id)).order_by_asc(Id)
}
