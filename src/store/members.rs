//! What people are shown of the instances, and how one is drained.

use std::collections::{BTreeMap, HashMap};

use infinite_scheduler_entity::{app, instance, shard};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use super::steps::Step;
use super::{Result, Store, audit};
use crate::model::audit::AuditEntry;
use crate::model::ids::InstanceId;

/// The state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceState {
    /// It has a lease.
    Alive,
    /// It has a lease, and was asked to give up its shards and partitions and to take none.
    Draining,
    /// Its lease is over, or it was declared dead.
    Dead,
}

/// One start of an instance, alive or dead for less than a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownInstance {
    /// The instance.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// The version of its IANA time zone database.
    pub time_zones: String,
    /// When it started by its own clock, epoch milliseconds.
    pub started_ms: i64,
    /// The end of its lease by the database's clock, epoch milliseconds.
    pub lease_until_ms: i64,
    /// Its state by the database's clock.
    pub state: InstanceState,
    /// The apps that it has, by name.
    pub apps: Vec<String>,
    /// The shards that it owns, by the names of their apps and by their numbers.
    pub shards: BTreeMap<String, Vec<i32>>,
}

impl Store {
    /// Every instance that is alive or died less than a day ago, the youngest first.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer.
    pub async fn known_instances(&self) -> Result<Vec<KnownInstance>> {
        let rows = instance::Entity::find()
            .order_by_desc(instance::Column::StartedMs)
            .order_by_desc(instance::Column::Id)
            .all(&self.inner.pool)
            .await?;
        let now = self.query(&format!("select {}", self.now_us())).await?;
        let now_us: i64 = now.first().map_or(Ok(0), |row| row.try_get_by_index(0))?;
        let apps = app::Entity::find().all(&self.inner.pool).await?;
        let names: HashMap<i32, String> = apps.into_iter().map(|row| (row.id, row.name)).collect();
        let owned = shard::Entity::find().filter(shard::Column::Owner.is_not_null());
        let owned = owned.order_by_asc(shard::Column::Number).all(&self.inner.pool).await?;
        let mut shards: HashMap<i64, BTreeMap<String, Vec<i32>>> = HashMap::new();
        for row in owned {
            let (Some(owner), Some(app)) = (row.owner, names.get(&row.app)) else { continue };
            shards.entry(owner).or_default().entry(app.clone()).or_default().push(row.number);
        }
        let known = |row: instance::Model| {
            let fired: Vec<i32> = serde_json::from_str(&row.apps).unwrap_or_default();
            let mut apps: Vec<String> =
                fired.iter().filter_map(|app| names.get(app).cloned()).collect();
            apps.sort_unstable();
            KnownInstance {
                id: InstanceId(row.id),
                state: state_of(&row, now_us),
                name: row.name,
                version: row.version,
                time_zones: row.time_zones,
                started_ms: row.started_ms,
                lease_until_ms: row.lease_until_us / 1000,
                apps,
                shards: shards.remove(&row.id).unwrap_or_default(),
            }
        };
        Ok(rows.into_iter().map(known).collect())
    }

    /// Asks an instance to give up its shards and partitions and to take none until it is
    /// restarted. False if there is no such instance, it is dead or was asked before.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: unknown whether it was asked; read what is there.
    pub async fn drain_instance(&self, id: InstanceId, entry: &AuditEntry) -> Result<bool> {
        let update = "update scheduler_instance set drain_ms = ? \
                      where id = ? and not dead and drain_ms is null";
        let values = vec![entry.at_ms.into(), id.0.into()];
        self.transact(vec![Step::one(update, values), audit::step(entry)]).await
    }
}

fn state_of(row: &instance::Model, now_us: i64) -> InstanceState {
    match row.drain_ms {
        _ if row.dead || row.lease_until_us <= now_us => InstanceState::Dead,
        Some(_) => InstanceState::Draining,
        None => InstanceState::Alive,
    }
}
