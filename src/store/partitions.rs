//! The list of partitions: each with its position, the instance that reads it, and how many of
//! its records had which result.

use std::collections::HashMap;

use infinite_scheduler_entity::{ingest_offset, instance};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use serde::Serialize;
use utoipa::ToSchema;

use super::ledger::decode;
use super::{LedgerKey, LedgerRow, Result, Store};
use crate::model::ids::Partition;

/// A partition within a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRow {
    /// Which partition, of which group.
    pub key: LedgerKey,
    /// Its position.
    pub row: LedgerRow,
    /// The name of the live instance that reads it, if there is one.
    pub owner: Option<String>,
    /// How many of its records had which result.
    pub totals: Totals,
}

/// How many records of a partition had which result since it was first read. A record that was
/// read again is counted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Records read: the sum of all below.
    pub records: i64,
    /// Those that became jobs.
    pub jobs: i64,
    /// Those that were duplicates of earlier requests.
    pub duplicates: i64,
    /// Those that were applied as operations.
    pub operations: i64,
    /// Those that are dead letters.
    pub dead_letters: i64,
    /// Those that are parked until they are retried.
    pub parked: i64,
}

impl Store {
    /// All partitions that `group` has read, of `cluster` or of any, by topic and number.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn partitions(
        &self,
        group: &str,
        cluster: Option<&str>,
    ) -> Result<Vec<PartitionRow>> {
        let mut query = ingest_offset::Entity::find()
            .filter(ingest_offset::Column::ConsumerGroup.eq(group))
            .order_by_asc(ingest_offset::Column::Topic)
            .order_by_asc(ingest_offset::Column::Number)
            .order_by_asc(ingest_offset::Column::Cluster);
        if let Some(cluster) = cluster {
            query = query.filter(ingest_offset::Column::Cluster.eq(cluster));
        }
        let rows = query.all(&self.inner.pool).await?;
        let living = self.living_instances().await?;
        let names: HashMap<i64, String> =
            living.into_iter().map(|row| (row.id, row.name)).collect();
        Ok(rows.into_iter().map(|row| partition_of(row, &names)).collect())
    }

    /// The rows of live instances. An instance whose lease has expired is not live, whether it was
    /// declared dead or not.
    pub(super) async fn living_instances(&self) -> Result<Vec<instance::Model>> {
        let living = instance::Entity::find()
            .filter(instance::Column::Dead.eq(false))
            .filter(Expr::cust(format!("lease_until_us > {}", self.now_us())));
        Ok(living.all(&self.inner.pool).await?)
    }
}

fn partition_of(row: ingest_offset::Model, names: &HashMap<i64, String>) -> PartitionRow {
    PartitionRow {
        key: LedgerKey {
            cluster: row.cluster.clone(),
            group: row.consumer_group.clone(),
            topic: row.topic.clone(),
            partition: Partition(row.number),
        },
        owner: row.instance.and_then(|instance| names.get(&instance).cloned()),
        totals: Totals {
            records: row.records,
            jobs: row.jobs,
            duplicates: row.duplicates,
            operations: row.operations,
            dead_letters: row.dead_letters,
            parked: row.parked,
        },
        row: decode(row),
    }
}
