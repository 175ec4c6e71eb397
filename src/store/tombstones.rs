//! Tombstones: what is kept of a cancelled job, so that its request is recognized when it comes
//! again. They are rows of the job table in a class of their own.

use infinite_scheduler_entity::job;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{Result, Store};
use crate::model::ids::ShardId;

/// The `priority` of a tombstone: no list has it, so nothing that fires reads it.
pub(super) const TOMBSTONE: i16 = 3;
/// Tombstones that one step removes.
const STEP: u64 = 500;
/// Shards of one statement.
const SHARDS: usize = 500;

impl Store {
    /// Removes some tombstones of these shards that were kept for long enough; true if there may
    /// be more.
    ///
    /// # Errors
    /// [`Error::Unavailable`](super::Error::Unavailable) if the database does not answer; the step
    /// can be repeated.
    pub async fn forget_tombstones(&self, shards: &[ShardId], now_ms: i64) -> Result<bool> {
        let mut has_more = false;
        for some in shards.chunks(SHARDS) {
            let over = job::Entity::find()
                .select_only()
                .column(job::Column::Id)
                .filter(job::Column::Shard.is_in(some.iter().map(|shard| shard.0)))
                .filter(job::Column::Priority.eq(TOMBSTONE))
                .filter(job::Column::DueMs.lte(now_ms))
                .order_by_asc(job::Column::DueMs)
                .limit(STEP);
            let over: Vec<Uuid> = over.into_tuple().all(&self.inner.pool).await?;
            if over.is_empty() {
                continue;
            }
            has_more |= over.len() as u64 == STEP;
            let _permit = self.write_permit().await;
            job::Entity::delete_many()
                .filter(job::Column::Id.is_in(over))
                .filter(job::Column::Priority.eq(TOMBSTONE))
                .filter(job::Column::DueMs.lte(now_ms))
                .exec(&self.inner.pool)
                .await?;
        }
        Ok(has_more)
    }
}
