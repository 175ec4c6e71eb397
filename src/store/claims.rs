//! By what right a job is changed: its shard is ours, or nobody's.

use sqlx::{MySqlTransaction, PgTransaction};

use super::admit::{mysql, postgres, sqlite};
use super::shards::IS_FREE;
use super::steps::{Step, run_mysql, run_postgres, run_sqlite};
use super::{AppRules, Driver, Result, ShardFence, Store};
use crate::model::ids::{AppId, Epoch, ShardId};

/// A shard with its app, and whether somebody owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedShard {
    /// The shard.
    pub id: ShardId,
    /// The app of its jobs.
    pub app: AppId,
    /// Its name.
    pub app_name: String,
    /// What it demands of `jobData`, and its policy.
    pub rules: AppRules,
    /// Whether it is paused.
    pub is_paused: bool,
    /// No instance that is alive owns the shard, which is at this epoch.
    pub free_at: Option<Epoch>,
}

/// By what right a job is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Its shard is ours.
    Owned(ShardFence),
    /// Nobody owns its shard, which is at this epoch. Its last owner can write nothing
    /// any more once this is committed.
    Free(ShardId, Epoch),
}

impl Claim {
    /// The shard.
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Owned(fence) => fence.shard,
            Self::Free(shard, _) => *shard,
        }
    }

    /// Proves it, and locks the shard against who else might claim it.
    pub(super) async fn holds_on_postgres(
        &self,
        transaction: &mut PgTransaction<'_>,
    ) -> Result<bool> {
        match self {
            Self::Owned(fence) => postgres::lock_fences(transaction, &[*fence]).await,
            Self::Free(shard, epoch) => {
                run_postgres(transaction, vec![take_free(*shard, *epoch)]).await
            }
        }
    }

    /// As [`holds_on_postgres`](Self::holds_on_postgres).
    pub(super) async fn holds_on_mysql(
        &self,
        transaction: &mut MySqlTransaction<'_>,
    ) -> Result<bool> {
        match self {
            Self::Owned(fence) => {
                let (held, _) = mysql::run(transaction, mysql::fence_reads(&[*fence])).await?;
                Ok(held == [fence.shard.0])
            }
            Self::Free(shard, epoch) => {
                run_mysql(transaction, vec![take_free(*shard, *epoch)]).await
            }
        }
    }

    /// As [`holds_on_postgres`](Self::holds_on_postgres).
    pub(super) fn holds_on_sqlite(&self, connection: &rusqlite::Connection) -> Result<bool> {
        match self {
            Self::Owned(fence) => sqlite::holds(connection, fence),
            Self::Free(shard, epoch) => run_sqlite(connection, vec![take_free(*shard, *epoch)]),
        }
    }
}

impl Store {
    /// The shards with their apps and owners, in no order.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer, or the rules of an app cannot be
    /// read.
    pub async fn locate_shards(&self, shards: &[ShardId]) -> Result<Vec<LocatedShard>> {
        if shards.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> = shards.iter().map(ShardId::to_string).collect();
        let select = format!(
            "select a.id, a.name, a.rules, s.epoch, \
             case when {IS_FREE} then 1 else 0 end, a.paused_ms, s.id, a.overrides from scheduler_shard as s \
             join scheduler_app as a on a.id = s.app where s.id in ({})",
            ids.join(", ")
        );
        let mut located = Vec::with_capacity(shards.len());
        for row in self.query(&select).await? {
            let app_name: String = row.try_get_by_index(1)?;
            let rules: String = row.try_get_by_index(2)?;
            let overrides: Option<String> = row.try_get_by_index(7)?;
            let rules = AppRules::read(&app_name, &rules, overrides.as_deref())?;
            let epoch = Epoch(row.try_get_by_index(3)?);
            let is_free = match self.inner.driver {
                Driver::Postgres(_) => row.try_get_by_index::<i32>(4)? == 1,
                Driver::MySql(_) | Driver::Sqlite(_) => row.try_get_by_index::<i64>(4)? == 1,
            };
            located.push(LocatedShard {
                id: ShardId(row.try_get_by_index(6)?),
                app: AppId(row.try_get_by_index(0)?),
                app_name,
                rules,
                is_paused: row.try_get_by_index::<Option<i64>>(5)?.is_some(),
                free_at: is_free.then_some(epoch),
            });
        }
        Ok(located)
    }
}

/// Takes the shard from who is not alive any more, so that nothing of theirs is written later.
fn take_free(shard: ShardId, epoch: Epoch) -> Step {
    let update = format!(
        "update scheduler_shard set owner = null, epoch = epoch + 1 \
         where id = ? and epoch = ? and {IS_FREE}"
    );
    Step::one(update, vec![shard.0.into(), epoch.0.into()])
}
