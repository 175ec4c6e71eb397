//! Who owns which shard, and the proof of it that every write carries.

use std::collections::{BTreeMap, HashMap};

use infinite_scheduler_entity::shard;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, IsolationLevel, QueryFilter,
    QueryOrder, QueryResult, Statement, TransactionTrait,
};

use super::sqlite::Sqlite;
use super::{Error, Hot, Result, Store};
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
    /// Grows each time that it changes hands.
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

/// Shards of one statement.
const BATCH: usize = 500;
/// How far our own clock may be ahead of the database's and still count for an epoch, seconds.
const MOST_AHEAD_S: i64 = 60;
/// Whose owner is not alive.
pub(super) const IS_FREE: &str =
    "(owner is null or owner not in (select id from scheduler_instance where not dead))";

impl Store {
    /// Takes shards that nobody owns, or whose owner was declared dead before, and returns
    /// those that are ours now. One that changed hands since it was seen, or whose row some
    /// transaction holds just now, is left out: look again at the next heartbeat.
    ///
    /// A new epoch is later than the last one and than this moment, in seconds, by the
    /// database's clock, and by ours if that is ahead by no more than a minute. So it is also
    /// later than epochs that a failover of the database has lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown which were taken; the next observation tells.
    pub async fn take_shards(
        &self,
        seen: &[ShardRow],
        me: InstanceId,
        now_ms: i64,
    ) -> Result<Vec<ShardFence>> {
        let own_s = now_ms.div_euclid(1000);
        let mut taken = Vec::with_capacity(seen.len());
        for batch in seen.chunks(BATCH) {
            taken.extend(match &self.inner.hot {
                Hot::Sqlite(sqlite) => take_from_file(sqlite, batch, me, own_s).await?,
                Hot::Postgres(_) | Hot::MySql(_) => self.take_from_server(batch, me, own_s).await?,
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
        // Waiting would queue us, and behind us every admission, for one that is stuck.
        let ids = list(seen.iter().map(|row| row.id));
        let lock = format!(
            "select id, epoch from scheduler_shard where id in ({ids}) order by id for update skip locked"
        );
        let locked = pairs(&transaction, &lock).await?;
        let unchanged = locked.iter().filter(|(id, epoch)| expected.get(id) == Some(epoch));
        let unchanged: Vec<ShardId> = unchanged.map(|(id, _)| *id).collect();
        if unchanged.is_empty() {
            // A transaction that is only dropped holds its locks until its session is used again.
            transaction.rollback().await?;
            return Ok(Vec::new());
        }
        let ids = list(unchanged);
        let now_s = match self.inner.hot {
            Hot::MySql(_) => format!("({} div 1000000)", self.now_us()),
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

    /// Gives shards up, each if it still is ours at its epoch.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown which were released; it can be said again.
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
                let _turn = self.turn().await;
                self.inner.pool.execute_unprepared(&update).await?;
            }
        }
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

/// SQLite has one writer, so nothing is locked: each shard is compared and taken at once.
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
