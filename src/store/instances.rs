//! Instances: heartbeats and leases, by the database's clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use infinite_scheduler_entity::instance;
use sea_orm::ActiveValue::Set;
use sea_orm::{ConnectionTrait, EntityTrait, QueryResult, Statement};

use super::apps::read_overrides;
use super::batch_commands::{BatchCommand, decode_batch};
use super::commands::{
    BATCH, ChangeCommand, KINDS, LOOK, Look, UnknownCommands, decode_change, decode_ids,
};
use super::{Result, ShardRow, Store, bulk};
use crate::model::ids::{AppId, Epoch, InstanceId, LedgerId, Partition, ReaderToken, ShardId};
use crate::model::lateness::Pace;
use crate::model::limits::LimitValues;
use crate::model::pause::{AppPause, Pause};
use crate::model::process::ProcessIdentity;

/// An instance that joins.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Its name, to be shown.
    pub name: String,
    /// The apps that it can fire.
    pub apps: Vec<AppId>,
    /// The version of its IANA time zone database.
    pub time_zones: String,
    /// The length of its lease, from each heartbeat.
    pub lease: Duration,
    /// Its process, where the kernel provides its identity.
    pub process: Option<ProcessIdentity>,
    /// It was drained under an earlier id, and takes nothing.
    pub is_drained: bool,
}

/// An instance that was not declared dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRow {
    /// The instance.
    pub id: InstanceId,
    /// The number of its heartbeats.
    pub beat: i64,
    /// The end of its lease by the database's clock, epoch microseconds.
    pub lease_until_us: i64,
    /// The apps that it can fire, ascending.
    pub apps: Vec<AppId>,
    /// Its process, where it is known.
    pub process: Option<ProcessIdentity>,
}

/// A partition whose ledger row names this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPartition {
    /// The row.
    pub ledger: LedgerId,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The token in the row. It differs from the reader's own after a seek.
    pub reader: ReaderToken,
}

/// What an instance reads with each heartbeat, in one statement.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// The database's clock, epoch microseconds.
    pub now_us: i64,
    /// Every instance that was not declared dead.
    pub instances: Vec<InstanceRow>,
    /// The version of the IANA time zone database of each of them.
    pub time_zones: BTreeMap<InstanceId, String>,
    /// Every shard.
    pub shards: Vec<ShardRow>,
    /// Jobs that other processes inserted into shards of this instance.
    pub looks: Vec<Look>,
    /// Changes of jobs in shards of ours that others ask for.
    pub changes: Vec<ChangeCommand>,
    /// Parts of bulk actions in shards of ours that others ask for.
    pub batches: Vec<BatchCommand>,
    /// Commands to shards of this instance that its version does not support.
    pub unknown_commands: Vec<UnknownCommands>,
    /// The partitions that readers of this instance have claimed.
    pub partitions: Vec<HeldPartition>,
    /// The apps that are paused.
    pub paused_apps: BTreeMap<AppId, AppPause>,
    /// What wins over the configured limits of apps.
    pub overrides: BTreeMap<AppId, LimitValues>,
    /// The consumer groups whose ingest is paused.
    pub paused_groups: BTreeSet<String>,
    /// The instances that are to own nothing.
    pub draining: BTreeSet<InstanceId>,
    /// The bulk actions that have not ended, and who carries each out.
    pub bulks: Vec<(i64, Option<InstanceId>)>,
}

/// The most commands of one observation.
pub const COMMANDS: usize = 500;

impl Store {
    /// Inserts a row for a new start of an instance, whose lease begins now.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable; the instance has not joined then.
    pub async fn join(&self, membership: &Membership, now_ms: i64) -> Result<InstanceId> {
        let id = InstanceId::random();
        let apps: Vec<i32> = membership.apps.iter().map(|app| app.0).collect();
        let process = membership
            .process
            .as_ref()
            .map(|process| serde_json::to_string(process).unwrap_or_default());
        let row = instance::ActiveModel {
            id: Set(id.0),
            name: Set(membership.name.chars().take(255).collect()),
            version: Set(env!("CARGO_PKG_VERSION").into()),
            time_zones: Set(membership.time_zones.chars().take(16).collect()),
            apps: Set(serde_json::to_string(&apps).unwrap_or_default()),
            process: Set(process),
            started_ms: Set(now_ms),
            beat: Set(0),
            lease_until_us: Set(0),
            dead: Set(false),
            drain_ms: Set(membership.is_drained.then_some(now_ms)),
            pace: Set(None),
        };
        let _permit = self.write_permit().await;
        instance::Entity::insert(row).exec_without_returning(&self.heartbeat()).await?;
        drop(_permit);
        self.beat(id, membership.lease, None).await?;
        self.forget_long_dead().await?;
        Ok(id)
    }

    /// Renews the lease, and publishes the pace of apps if it has changed. Returns false if the
    /// instance was declared dead: it must drop its jobs and join again.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if it is unknown whether the lease was renewed; assume the old one.
    pub async fn beat(
        &self,
        me: InstanceId,
        lease: Duration,
        pace: Option<&BTreeMap<AppId, Pace>>,
    ) -> Result<bool> {
        let now = self.now_us();
        // Numbers only, which need no quoting.
        let pace = pace.and_then(|pace| serde_json::to_string(pace).ok());
        let pace = pace.map(|json| format!(", pace = '{json}'")).unwrap_or_default();
        let update = format!(
            "update scheduler_instance set beat = beat + 1, lease_until_us = {now} + {}{pace} \
             where id = {me} and not dead",
            lease.as_micros()
        );
        let _permit = self.write_permit().await;
        Ok(self.heartbeat().execute_unprepared(&update).await?.rows_affected() == 1)
    }

    /// Reads the state of the other instances, and what concerns this one.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn observe(&self, me: InstanceId) -> Result<Observation> {
        let now = self.now_us();
        let kinds = KINDS.map(|kind| format!("'{kind}'")).join(", ");
        let waiting = format!(
            "from scheduler_command where state = 0 \
             and shard in (select id from scheduler_shard where owner = {me})"
        );
        let unfinished = bulk::unfinished();
        let select = format!(
            "select 'i' as kind, id, beat as a, lease_until_us as b, {now} as c, apps as t, \
             process as p \
             from scheduler_instance where not dead \
             union all select 'z', id, 0, 0, 0, time_zones, null from scheduler_instance \
             where not dead \
             union all select 's', id, app, owner, epoch, null, null from scheduler_shard \
             union all select 'p', id, reader, number, 0, topic, null from scheduler_ingest_offset \
             where instance = {me} \
             union all select 'a', id, case when refuse_requests then 1 else 0 end, paused_ms, 0, \
             pause_reason, paused_by from scheduler_app where paused_ms is not null \
             union all select 'o', id, 0, 0, 0, overrides, null from scheduler_app \
             where overrides is not null \
             union all select 'g', 0, 0, 0, 0, consumer_group, null from scheduler_ingest_group \
             where paused_ms is not null \
             union all select 'd', id, 0, 0, 0, null, null from scheduler_instance \
             where drain_ms is not null and not dead \
             union all select 'b', id, runner, 0, 0, null, null from scheduler_bulk \
             where state in ({unfinished}) \
             union all select 'u', count(*), 0, 0, 0, kind, null {waiting} \
             and kind not in ({kinds}) group by kind \
             union all select * from (select 'c' as kind, id, shard, deadline_ms as b, 0 as c, args, \
             kind as p {waiting} and kind in ({kinds}) order by id limit {COMMANDS}) as known"
        );
        let backend = self.heartbeat().get_database_backend();
        let statement = Statement::from_string(backend, select);
        let rows = self.heartbeat().query_all_raw(statement).await?;
        let mut seen = Observation::default();
        for row in &rows {
            seen.add(row)?;
        }
        Ok(seen)
    }

    /// Declares an instance dead whose lease has expired by the database's clock, unless it has sent
    /// a heartbeat since it was observed.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn declare_dead(&self, instance: &InstanceRow) -> Result<bool> {
        let now = self.now_us();
        let update = format!(
            "update scheduler_instance set dead = true \
             where id = {} and beat = {} and not dead and lease_until_us < {now}",
            instance.id, instance.beat
        );
        let _permit = self.write_permit().await;
        Ok(self.inner.pool.execute_unprepared(&update).await?.rows_affected() == 1)
    }

    /// Declares an instance dead whose process is known to have ended, unless it has sent a heartbeat
    /// since it was observed.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn declare_ended(&self, instance: &InstanceRow) -> Result<bool> {
        let update = format!(
            "update scheduler_instance set dead = true where id = {} and beat = {} and not dead",
            instance.id, instance.beat
        );
        let _permit = self.write_permit().await;
        Ok(self.heartbeat().execute_unprepared(&update).await?.rows_affected() == 1)
    }

    /// Declares every instance dead, for a process that has locked the database file.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub(super) async fn declare_all_ended(&self) -> Result<u64> {
        let _permit = self.write_permit().await;
        let update = "update scheduler_instance set dead = true where not dead";
        Ok(self.heartbeat().execute_unprepared(update).await?.rows_affected())
    }

    /// Removes the instance. Without its row it owns nothing: its shards are free, and are then
    /// released explicitly.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable; the lease then expires.
    pub async fn leave(&self, me: InstanceId) -> Result<()> {
        let _permit = self.write_permit().await;
        instance::Entity::delete_by_id(me.0).exec(&self.heartbeat()).await?;
        let release = format!("update scheduler_shard set owner = null where owner = {me}");
        self.heartbeat().execute_unprepared(&release).await?;
        Ok(())
    }

    /// Removes dead instances after a day, during which they can still be inspected.
    async fn forget_long_dead(&self) -> Result<()> {
        let now = self.now_us();
        let day = Duration::from_secs(24 * 3600).as_micros();
        let delete = format!(
            "delete from scheduler_instance where dead and lease_until_us < {now} - {day} \
             and id not in (select owner from scheduler_shard where owner is not null)"
        );
        let _permit = self.write_permit().await;
        self.heartbeat().execute_unprepared(&delete).await?;
        Ok(())
    }
}

impl Observation {
    fn add(&mut self, row: &QueryResult) -> Result<()> {
        let kind: String = row.try_get_by_index(0)?;
        let id: i64 = row.try_get_by_index(1)?;
        match kind.as_str() {
            "i" => {
                self.now_us = row.try_get_by_index(4)?;
                let apps: String = row.try_get_by_index(5)?;
                let mut apps: Vec<AppId> = serde_json::from_str(&apps).unwrap_or_default();
                apps.sort_unstable();
                let process: Option<String> = row.try_get_by_index(6)?;
                self.instances.push(InstanceRow {
                    id: InstanceId(id),
                    beat: row.try_get_by_index(2)?,
                    lease_until_us: row.try_get_by_index(3)?,
                    apps,
                    process: process.and_then(|text| serde_json::from_str(&text).ok()),
                });
            }
            "z" => {
                self.time_zones.insert(InstanceId(id), row.try_get_by_index(5)?);
            }
            "s" => {
                let app: i64 = row.try_get_by_index(2)?;
                let owner: Option<i64> = row.try_get_by_index(3)?;
                self.shards.push(ShardRow {
                    id: shard_id(id),
                    app: AppId(i32::try_from(app).unwrap_or_default()),
                    owner: owner.map(InstanceId),
                    epoch: Epoch(row.try_get_by_index(4)?),
                });
            }
            "p" => {
                let number: i64 = row.try_get_by_index(3)?;
                self.partitions.push(HeldPartition {
                    ledger: LedgerId(i32::try_from(id).unwrap_or_default()),
                    topic: row.try_get_by_index(5)?,
                    partition: Partition(i32::try_from(number).unwrap_or_default()),
                    reader: ReaderToken(row.try_get_by_index(2)?),
                });
            }
            "a" => {
                let app = AppId(i32::try_from(id).unwrap_or_default());
                let by: Option<String> = row.try_get_by_index(6)?;
                let pause = Pause {
                    since_ms: row.try_get_by_index(3)?,
                    by: by.unwrap_or_default(),
                    reason: row.try_get_by_index(5)?,
                };
                let refuses: i64 = row.try_get_by_index(2)?;
                let pause = AppPause { pause, refuses_requests: refuses != 0 };
                self.paused_apps.insert(app, pause);
            }
            "o" => {
                let app = AppId(i32::try_from(id).unwrap_or_default());
                let json: String = row.try_get_by_index(5)?;
                self.overrides.insert(app, read_overrides(&json));
            }
            "g" => {
                self.paused_groups.insert(row.try_get_by_index(5)?);
            }
            "d" => {
                self.draining.insert(InstanceId(id));
            }
            "b" => {
                let runner: Option<i64> = row.try_get_by_index(2)?;
                self.bulks.push((id, runner.map(InstanceId)));
            }
            "u" => {
                let count = u64::try_from(id).unwrap_or_default();
                self.unknown_commands
                    .push(UnknownCommands { kind: row.try_get_by_index(5)?, count });
            }
            // The remaining kind of the statement, "c".
            _ => {
                let shard: i64 = row.try_get_by_index(2)?;
                let (args, kind): (String, String) =
                    (row.try_get_by_index(5)?, row.try_get_by_index(6)?);
                let deadline_ms = row.try_get_by_index(3)?;
                self.add_command(id, shard_id(shard), kind, &args, deadline_ms);
            }
        }
        Ok(())
    }

    /// A command that cannot be decoded is counted as unknown, so that it is not deleted.
    fn add_command(
        &mut self,
        command: i64,
        shard: ShardId,
        kind: String,
        args: &str,
        deadline_ms: Option<i64>,
    ) {
        let jobs = if kind == LOOK { decode_ids(args) } else { None };
        let batch = if kind == BATCH { decode_batch(args) } else { None };
        if let Some(request) = batch {
            self.batches.push(BatchCommand { command, shard, request, deadline_ms });
            return;
        }
        match (jobs, decode_change(args)) {
            (Some(jobs), _) => self.looks.push(Look { command, shard, jobs }),
            (None, Some(request)) if request.change.kind() == kind => {
                self.changes.push(ChangeCommand { command, shard, request, deadline_ms });
            }
            (None, _) => match self.unknown_commands.iter_mut().find(|known| known.kind == kind) {
                Some(known) => known.count += 1,
                None => self.unknown_commands.push(UnknownCommands { kind, count: 1 }),
            },
        }
    }
}

fn shard_id(id: i64) -> ShardId {
    ShardId(i32::try_from(id).unwrap_or_default())
}
