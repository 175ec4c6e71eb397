//! The ownership of shards, and the fence that every write checks.

use std::collections::{BTreeMap, HashMap};

use infinite_scheduler_entity::shard;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, IsolationLevel, QueryFilter,
    QueryOrder, QueryResult, Statement, TransactionTrait,
};

use super::sqlite::Sqlite;
use super::{Driver, Error, Result, Store};
use crate::model::ids::{AppId, Epoch, InstanceId, ShardId};

/// A shard as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// The shard.
    pub id: ShardId,
    /// The app of its jobs.
    pub app: AppId,
    /// The instance that fires them, if there is one.
    pub owner: Option<InstanceId>,
    /// Grows each time that the owner changes.
    pub epoch: Epoch,
}

/// The expected owner and epoch of a shard. A transaction that finds another owner or epoch writes
/// nothing into that shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardFence {
    /// The shard.
    pub shard: ShardId,
    /// Its owner.
    pub owner: InstanceId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// The most shards of one statement.
const BATCH: usize = 500;
/// How far the instance's clock may be ahead of the database's and still be used for an epoch,
/// in seconds.
const MOST_AHEAD_S: i64 = 60;
/// A condition: the shard has no owner, or one that was declared dead.
pub(super) const IS_FREE: &str =
    "(owner is null or owner not in (select id from scheduler_instance where not dead))";

impl Store {
    /// Takes shards without an owner, or whose owner was declared dead, and returns those that were
    /// taken. A shard whose owner has changed since it was `seen`, or whose row another transaction
    /// has locked, is skipped; the caller tries again at the next heartbeat.
    ///
    /// A new epoch is greater than the last one and than the current time in epoch seconds, by the
    /// database's clock and by the instance's, if that is ahead by at most a minute. So it is also
    /// greater than epochs that a failover of the database has lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is unknown which were taken; the next observation shows it.
    pub async fn take_shards(
        &self,
        seen: &[ShardRow],
        me: InstanceId,
        now_ms: i64,
    ) -> Result<Vec<ShardFence>> {
        let own_s = now_ms.div_euclid(1000);
        let mut taken = Vec::with_capacity(seen.len());
        for batch in seen.chunks(BATCH) {
            taken.extend(match &self.inner.driver {
                Driver::Sqlite(sqlite) => take_from_file(sqlite, batch, me, own_s).await?,
                Driver::Postgres(_) | Driver::MySql(_) => {
                    self.take_from_server(batch, me, own_s).await?
                }
            });
        }
        Ok(taken)
    }

    async fn take_from_server(
        &self,
        seen: &[ShardRow],
        me: InstanceId,
        own_s: i64,
    ) -> Result<Vec<ShardFence>> {
        let expected: HashMap<ShardId, Epoch> =
            seen.iter().map(|row| (row.id, row.epoch)).collect();
        let transaction = self.begin().await?;
        // Waiting for a lock would also block every admission that comes later.
        let ids = list(seen.iter().map(|row| row.id));
        let lock = format!(
            "select id, epoch from scheduler_shard where id in ({ids}) order by id for update skip locked"
        );
        let locked = pairs(&transaction, &lock).await?;
        let unchanged = locked.iter().filter(|(id, epoch)| expected.get(id) == Some(epoch));
        let unchanged: Vec<ShardId> = unchanged.map(|(id, _)| *id).collect();
        if unchanged.is_empty() {
            // A transaction that is dropped holds its locks until its session is used again.
            transaction.rollback().await?;
            return Ok(Vec::new());
        }
        let ids = list(unchanged);
        let now_s = match self.inner.driver {
            Driver::MySql(_) => format!("({} div 1000000)", self.now_us()),
            _ => format!("({} / 1000000)", self.now_us()),
        };
        let update = format!(
            "update scheduler_shard set owner = {me}, epoch = greatest(epoch, {now_s}, \
             least({own_s}, {now_s} + {MOST_AHEAD_S})) + 1 where id in ({ids}) and {IS_FREE}"
        );
        transaction.execute_unprepared(&update).await?;
        let select =
            format!("select id, epoch from scheduler_shard where id in ({ids}) and owner = {me}");
        let taken = pairs(&transaction, &select).await?;
        transaction.commit().await?;
        let fence = |(shard, epoch)| ShardFence { shard, owner: me, epoch };
        Ok(taken.into_iter().map(fence).collect())
    }

    /// Releases shards, each if its owner and epoch are as expected.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is unknown which were released; the call can be repeated.
    pub async fn release_shards(&self, fences: &[ShardFence]) -> Result<()> {
        let mut together: BTreeMap<(InstanceId, Epoch), Vec<ShardId>> = BTreeMap::new();
        for fence in fences {
            together.entry((fence.owner, fence.epoch)).or_default().push(fence.shard);
        }
        for ((owner, epoch), shards) in together {
            for batch in shards.chunks(BATCH) {
                let ids = list(batch.iter().copied());
                let update = format!(
                    "update scheduler_shard set owner = null \
                     where id in ({ids}) and owner = {owner} and epoch = {epoch}"
                );
                let _permit = self.write_permit().await;
                self.inner.pool.execute_unprepared(&update).await?;
            }
        }
        Ok(())
    }

    /// A shard of any app, preferably one that has an owner; `None` if no app was ever registered.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn any_shard(&self) -> Result<Option<ShardId>> {
        let owned = shard::Entity::find().filter(shard::Column::Owner.is_not_null());
        let any = shard::Entity::find().order_by_asc(shard::Column::Id);
        let row = match owned.one(&self.inner.pool).await? {
            Some(row) => Some(row),
            None => any.one(&self.inner.pool).await?,
        };
        Ok(row.map(|row| ShardId(row.id)))
    }

    /// Verifies that a shared row lock of one connection prevents another from updating the row.
    /// Fencing depends on it.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a server where it does not, such as some clusters.
    pub async fn probe_row_locks(&self) -> Result<()> {
        if self.is_embedded() {
            return Ok(());
        }
        let share = match self.inner.driver {
            super::Driver::MySql(_) => "lock in share mode",
            _ => "for share",
        };
        let holder = self.begin().await?;
        let lock = format!("select id from scheduler_schema_lease where id = 1 {share}");
        holder.execute_unprepared(&lock).await?;
        // From the other pool, because this one may have only one connection.
        let isolation = Some(IsolationLevel::ReadCommitted);
        let other = self.heartbeat().begin_with_config(isolation, None).await?;
        let update = "select id from scheduler_schema_lease where id = 1 for update nowait";
        let prevented = other.execute_unprepared(update).await.is_err();
        drop(other);
        holder.rollback().await?;
        if prevented {
            return Ok(());
        }
        Err(Error::Unusable(
            "this database server does not let a shared row lock prevent an update from another \
             connection, so a slow instance could write after it was declared dead: use MariaDB, \
             MySQL or PostgreSQL with their own row locks"
                .into(),
        ))
    }

    pub(super) async fn begin(&self) -> Result<DatabaseTransaction> {
        let isolation = (!self.is_embedded()).then_some(IsolationLevel::ReadCommitted);
        Ok(self.inner.pool.begin_with_config(isolation, None).await?)
    }
}

/// SQLite has one writer, so no row is locked: each shard is compared and taken in one statement.
async fn take_from_file(
    sqlite: &Sqlite,
    seen: &[ShardRow],
    me: InstanceId,
    own_s: i64,
) -> Result<Vec<ShardFence>> {
    let seen = seen.to_vec();
    let take = move |connection: &rusqlite::Connection| {
        let now_s = "cast(unixepoch('subsec') as integer)";
        let mut update = connection.prepare_cached(&format!(
            "update scheduler_shard set owner = ?1, epoch = max(epoch, {now_s}, \
             min(?2, {now_s} + {MOST_AHEAD_S})) + 1 where id = ?3 and epoch = ?4 and {IS_FREE} \
             returning epoch"
        ))?;
        let mut taken = Vec::new();
        for row in &seen {
            let mut epochs = update.query((me.0, own_s, row.id.0, row.epoch.0))?;
            if let Some(epoch) = epochs.next()? {
                let epoch = Epoch(epoch.get(0)?);
                taken.push(ShardFence { shard: row.id, owner: me, epoch });
            }
        }
        Ok(taken)
    };
    sqlite.write(take).await
}

async fn pairs(transaction: &DatabaseTransaction, sql: &str) -> Result<Vec<(ShardId, Epoch)>> {
    let statement = Statement::from_string(transaction.get_database_backend(), sql);
    let rows = transaction.query_all_raw(statement).await?;
    let pair = |row: &QueryResult| {
        Ok((ShardId(row.try_get_by_index(0)?), Epoch(row.try_get_by_index(1)?)))
    };
    rows.iter().map(pair).collect()
}

fn list(shards: impl IntoIterator<Item = ShardId>) -> String {
    let ids: Vec<String> = shards.into_iter().map(|shard| shard.to_string()).collect();
    ids.join(", ")
}
