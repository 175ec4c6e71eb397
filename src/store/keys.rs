//! Idempotency keys, and the removal of expired ones in small steps.

use std::collections::HashMap;

use infinite_scheduler_entity::{idempotency_key, job};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};
use uuid::Uuid;

use super::tombstones::TOMBSTONE;
use super::{Driver, Result, Store};
use crate::model::ids::KeyId;

/// The most keys that one step reads.
const STEP: u64 = 500;
/// How long a key is kept after the end of its window, because clocks differ and a batch may be
/// written late.
const GRACE_MS: i64 = 3_600_000;

/// An idempotency key and its window.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// Derived from app and key.
    pub id: KeyId,
    /// The key as in the request.
    pub name: String,
    /// The end of its window, epoch milliseconds.
    pub expires_ms: i64,
}

/// A position in the table, where the next step begins; the default is the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCursor {
    expires_ms: i64,
    id: Uuid,
}

impl Store {
    /// Reads some keys in the order of the table, and removes those whose window ended an hour ago
    /// and whose job is neither live nor cancelled with operations remembered. Returns how many were removed, and where the next step
    /// begins; `None` at the end of the table.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable; the same step can be repeated.
    pub async fn forget_keys(
        &self,
        from: KeyCursor,
        now_ms: i64,
    ) -> Result<(u64, Option<KeyCursor>)> {
        let expired_ms = now_ms - GRACE_MS;
        let beyond = match self.inner.driver {
            Driver::MySql(_) => by_time(from, expired_ms),
            Driver::Postgres(_) | Driver::Sqlite(_) => by_id(from),
        };
        let seen = beyond.limit(STEP).all(&self.inner.pool).await?;
        let last = seen.last().filter(|_| seen.len() as u64 == STEP);
        let next = last.map(|key| KeyCursor { expires_ms: key.expires_ms, id: key.id });
        let expired: Vec<_> = seen.into_iter().filter(|key| key.expires_ms <= expired_ms).collect();
        if expired.is_empty() {
            return Ok((0, next));
        }
        let jobs: Vec<(Uuid, i16)> = job::Entity::find()
            .select_only()
            .column(job::Column::Id)
            .column(job::Column::Priority)
            .filter(job::Column::Id.is_in(expired.iter().map(|key| key.job)))
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        let priorities: HashMap<Uuid, i16> = jobs.into_iter().collect();
        let is_ended = |key: &&idempotency_key::Model| match priorities.get(&key.job) {
            // What is remembered of the key is kept for as long as its cancelled job.
            Some(&TOMBSTONE) => key.cancel_version.is_none() && key.move_ms.is_none(),
            Some(_) => false,
            None => true,
        };
        let ended = expired.iter().filter(is_ended).map(|key| key.id);
        let _permit = self.write_permit().await;
        // A key that was replaced in the meantime has a later window and is kept.
        let gone = idempotency_key::Entity::delete_many()
            .filter(idempotency_key::Column::Id.is_in(ended))
            .filter(idempotency_key::Column::ExpiresMs.lte(expired_ms))
            .exec(&self.inner.pool)
            .await?;
        Ok((gone.rows_affected, next))
    }
}

/// For a table that is clustered by the end of the window: expired keys are at its start.
fn by_time(from: KeyCursor, expired_ms: i64) -> Select<idempotency_key::Entity> {
    use idempotency_key::Column::{ExpiresMs, Id};
    let same = Condition::all().add(ExpiresMs.eq(from.expires_ms)).add(Id.gt(from.id));
    idempotency_key::Entity::find()
        .filter(ExpiresMs.between(from.expires_ms, expired_ms))
        .filter(Condition::any().add(ExpiresMs.gt(from.expires_ms)).add(same))
        .order_by_asc(ExpiresMs)
        .order_by_asc(Id)
}

fn by_id(from: KeyCursor) -> Select<idempotency_key::Entity> {
    use idempotency_key::Column::Id;
    idempotency_key::Entity::find().filter(Id.gt(from.id)).order_by_asc(Id)
}
