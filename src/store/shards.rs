//! Who owns which shard, and the proof of it that every write carries.

use infinite_scheduler_entity::shard;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, IsolationLevel, QueryFilter,
    QueryOrder, TransactionTrait,
};

use super::{Error, Result, Store};
use crate::model::ids::{AppId, Epoch, InstanceId, ShardId};

/// A shard as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// The shard.
    pub id: ShardId,
    /// Whose jobs it holds.
    pub app: AppId,
    /// Who fires them.
    pub owner: Option<InstanceId>,
    /// How often it changed hands.
    pub epoch: Epoch,
}

/// What a writer believes of a shard. A transaction that finds another owner or epoch
/// writes nothing into that shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardFence {
    /// The shard.
    pub shard: ShardId,
    /// Its owner.
    pub owner: InstanceId,
    /// Its epoch.
    pub epoch: Epoch,
}

impl Store {
    /// Takes a shard that nobody owns, or whose owner was declared dead before.
    ///
    /// Gives back the new epoch, or `None` if it changed hands meanwhile or a
    /// transaction holds its row just now: look again at the next heartbeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was taken; the next observation tells.
    pub async fn take_shard(&self, seen: &ShardRow, me: InstanceId) -> Result<Option<Epoch>> {
        let _turn = self.turn().await;
        let update = format!(
            "update scheduler_shard set owner = {me}, epoch = epoch + 1 where id = {} and epoch = {} \
             and (owner is null or owner not in (select id from scheduler_instance where not dead))",
            seen.id, seen.epoch
        );
        let taken = if self.is_embedded() {
            self.inner.pool.execute_unprepared(&update).await?.rows_affected()
        } else {
            // Waiting would queue us, and behind us every admission, for one that is stuck.
            let transaction = self.begin().await?;
            let lock =
                format!("select id from scheduler_shard where id = {} for update nowait", seen.id);
            if transaction.execute_unprepared(&lock).await.is_err() {
                return Ok(None);
            }
            let taken = transaction.execute_unprepared(&update).await?.rows_affected();
            transaction.commit().await?;
            taken
        };
        Ok((taken == 1).then_some(Epoch(seen.epoch.0 + 1)))
    }

    /// Gives a shard up, if it still is ours at that epoch.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was released; it can be said again.
    pub async fn release_shard(&self, fence: &ShardFence) -> Result<()> {
        let _turn = self.turn().await;
        let update = format!(
            "update scheduler_shard set owner = null where id = {} and owner = {} and epoch = {}",
            fence.shard, fence.owner, fence.epoch
        );
        self.inner.pool.execute_unprepared(&update).await?;
        Ok(())
    }

    /// Some shard of whatever app, one that has an owner if there is any; `None` if no app was
    /// ever registered.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn any_shard(&self) -> Result<Option<ShardId>> {
        let owned = shard::Entity::find().filter(shard::Column::Owner.is_not_null());
        let any = shard::Entity::find().order_by_asc(shard::Column::Id);
        let row = match owned.one(&self.inner.pool).await? {
            Some(row) => Some(row),
            None => any.one(&self.inner.pool).await?,
        };
        Ok(row.map(|row| ShardId(row.id)))
    }

    /// Shows that a shared row lock of one connection stops another from updating the
    /// row: fencing rests on it.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a server where it does not (some clustered ones).
    pub async fn probe_row_locks(&self) -> Result<()> {
        if self.is_embedded() {
            return Ok(());
        }
        let share = match self.inner.hot {
            super::Hot::MySql(_) => "lock in share mode",
            _ => "for share",
        };
        let holder = self.begin().await?;
        let lock = format!("select id from scheduler_schema_lease where id = 1 {share}");
        holder.execute_unprepared(&lock).await?;
        // From the other pool: this one may have one connection only.
        let isolation = Some(IsolationLevel::ReadCommitted);
        let other = self.heartbeat().begin_with_config(isolation, None).await?;
        let update = "select id from scheduler_schema_lease where id = 1 for update nowait";
        let stopped = other.execute_unprepared(update).await.is_err();
        drop(other);
        holder.rollback().await?;
        if stopped {
            return Ok(());
        }
        Err(Error::Unusable(
            "this database server does not let a shared row lock stop an update from another \
             connection, so a dead instance could not be told from a slow one: use MariaDB, MySQL \
             or PostgreSQL with their own row locks"
                .into(),
        ))
    }

    pub(super) async fn begin(&self) -> Result<DatabaseTransaction> {
        let isolation = (!self.is_embedded()).then_some(IsolationLevel::ReadCommitted);
        Ok(self.inner.pool.begin_with_config(isolation, None).await?)
    }
}
