//! How far each partition has been read, by which instance, and the results for its records.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Context, Ingest, pause};
use crate::kafka::{
    ClusterInspector, Error as KafkaError, KafkaIngestConfig, LogRange, TopicPartition,
};
use crate::model::ids::{Offset, Partition};
use crate::operations::{Paused, Result, rfc3339_s};
use crate::store::{PartitionRow, Totals};

/// How far a consumer group has read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Positions {
    /// The consumer group.
    pub group: String,
    /// The partitions, by topic and number.
    pub partitions: Vec<PartitionPosition>,
    /// What could not be determined, as a sentence.
    pub missing: Option<String>,
    /// Since when its readers take nothing, if the ingest is paused.
    pub pause: Option<Paused>,
}

/// How far one partition has been read. Unknown values are `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PartitionPosition {
    /// The id of the Kafka cluster.
    pub cluster: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The name of the instance that reads it.
    pub owner: Option<String>,
    /// The offset of the first record that was not processed.
    pub next_offset: Option<Offset>,
    /// The offset of the first record that the log has.
    pub begin_offset: Option<Offset>,
    /// The offset after the log's last record.
    pub end_offset: Option<Offset>,
    /// The first offset of an open transaction that holds the partition back.
    pub held_back_from: Option<Offset>,
    /// When that transaction began, RFC 3339.
    pub held_back_since: Option<String>,
    /// The largest number of records in the log that were not read yet.
    pub lag: Option<i64>,
    /// The results for its records.
    #[serde(flatten)]
    pub totals: Totals,
}

impl Ingest<'_> {
    /// How far each partition has been read. When Kafka does not answer, the values that come from
    /// it are `None`, and `missing` contains the reason.
    ///
    /// # Errors
    /// [`Error::Invalid`](super::super::Error::Invalid) if no Kafka is configured, or for settings
    /// that its client refuses; [`Error::Unavailable`](super::super::Error::Unavailable) when the
    /// database does not answer.
    pub async fn positions(&self) -> Result<Positions> {
        self.context.run(|context| async move { positions(&context).await }).await
    }
}

impl PartitionPosition {
    /// A warning if the topic was recreated, has lost unread records, or is held back by a
    /// transaction.
    pub fn warning(&self) -> Option<String> {
        let (next, begin, end) = (self.next_offset?, self.begin_offset?, self.end_offset?);
        let Self { topic, partition, .. } = self;
        if next > end {
            return Some(format!(
                "{topic}/{partition} ends at {end}, and it was read up to {next}: it was recreated"
            ));
        }
        if next < begin {
            let lost = format!("records {next} to {} are gone, and were not read", begin - 1);
            return Some(format!("{topic}/{partition} begins at {begin}: {lost}"));
        }
        let from = self.held_back_from?;
        let since = self.held_back_since.as_deref().unwrap_or("an unknown time");
        Some(format!(
            "{topic}/{partition} is held back at {from} by a transaction open since {since}: end \
             it, or its producer"
        ))
    }

    fn of_row(row: PartitionRow, log: Option<LogRange>) -> Self {
        let PartitionRow { key, row, owner, totals } = row;
        // Records that retention has removed do not count.
        let lag = log.map(|log| (log.end - row.next_offset.max(log.begin)).max(0));
        Self {
            cluster: key.cluster,
            topic: key.topic,
            partition: key.partition,
            owner,
            next_offset: Some(row.next_offset),
            begin_offset: log.map(|log| log.begin),
            end_offset: log.map(|log| log.end),
            held_back_from: log.and_then(held_back_from),
            held_back_since: None,
            lag,
            totals,
        }
    }

    fn never_read(cluster: &str, partition: TopicPartition, log: LogRange) -> Self {
        Self {
            cluster: cluster.to_owned(),
            topic: partition.topic.to_string(),
            partition: partition.partition,
            owner: None,
            next_offset: None,
            begin_offset: Some(log.begin),
            end_offset: Some(log.end),
            held_back_from: held_back_from(log),
            held_back_since: None,
            lag: None,
            totals: Totals::default(),
        }
    }
}

fn held_back_from(log: LogRange) -> Option<Offset> {
    (log.stable < log.end).then_some(log.stable)
}

/// What Kafka reports about the partitions.
#[derive(Default)]
struct Cluster {
    id: String,
    logs: BTreeMap<TopicPartition, LogRange>,
    /// When the open transactions began, epoch milliseconds.
    held_since: BTreeMap<TopicPartition, i64>,
}

impl Cluster {
    /// A sentence about the first of these topics that does not exist.
    fn lacks(&self, topics: &[String]) -> Option<String> {
        let exists = |topic: &&String| self.logs.keys().any(|one| *one.topic == ***topic);
        let absent = topics.iter().find(|topic| !exists(topic))?;
        Some(format!("topic {absent} does not exist"))
    }
}

async fn positions(context: &Context) -> Result<Positions> {
    let kafka = context.kafka()?;
    let inspector = ClusterInspector::start(kafka)?;
    let id = inspector.cluster_id().await;
    // If the cluster's id is not known, the rows of all clusters.
    let rows = context.store().partitions(&kafka.group_id, id.as_deref().ok()).await;
    let rows = rows.map_err(|error| context.database_error(error))?;
    let cluster = match id {
        Ok(id) => ask(&inspector, id, kafka, &rows).await,
        Err(error) => Err(error),
    };
    let missing = match &cluster {
        Ok(cluster) => cluster.lacks(&kafka.topics),
        Err(error) => Some(format!("{error}: END and LAG are missing")),
    };
    let partitions = merged(rows, cluster.unwrap_or_default());
    let pause = pause::current(context, &kafka.group_id).await?.map(Paused::from);
    Ok(Positions { group: kafka.group_id.clone(), partitions, missing, pause })
}

/// Queries the topics that are read, and those that have ledger rows.
async fn ask(
    inspector: &ClusterInspector,
    id: String,
    kafka: &KafkaIngestConfig,
    rows: &[PartitionRow],
) -> Result<Cluster, KafkaError> {
    let mut topics = kafka.topics.clone();
    topics.extend(rows.iter().map(|row| row.key.topic.clone()));
    let partitions = inspector.partitions(topics).await?;
    let logs = inspector.logs(partitions).await?;
    let mut held_since = BTreeMap::new();
    for (partition, log) in logs.iter().filter(|(_, log)| log.stable < log.end) {
        if let Some(since_ms) = inspector.time_at(partition, log.stable).await? {
            held_since.insert(partition.clone(), since_ms);
        }
    }
    Ok(Cluster { id, logs, held_since })
}

/// One position for each row, and for each partition that was never read.
fn merged(rows: Vec<PartitionRow>, cluster: Cluster) -> Vec<PartitionPosition> {
    let Cluster { id, mut logs, held_since } = cluster;
    let mut positions: Vec<PartitionPosition> = rows
        .into_iter()
        .map(|row| {
            let partition = TopicPartition::new(row.key.topic.as_str(), row.key.partition);
            let log = logs.remove(&partition);
            PartitionPosition::of_row(row, log)
        })
        .collect();
    let never_read = |(partition, log)| PartitionPosition::never_read(&id, partition, log);
    positions.extend(logs.into_iter().map(never_read));
    for one in positions.iter_mut().filter(|one| one.held_back_from.is_some()) {
        let partition = TopicPartition::new(one.topic.as_str(), one.partition);
        one.held_back_since = held_since.get(&partition).map(|ms| rfc3339_s(*ms));
    }
    positions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{LedgerId, ReaderToken};
    use crate::store::{LedgerKey, LedgerRow, Totals};

    fn read_to(next: i64) -> PartitionPosition {
        let row = PartitionRow {
            key: LedgerKey {
                cluster: "c".into(),
                group: "g".into(),
                topic: "t".into(),
                partition: Partition(0),
            },
            row: LedgerRow {
                id: LedgerId(1),
                reader: ReaderToken(1),
                next_offset: Offset(next),
                last: None,
            },
            owner: None,
            totals: Totals::default(),
        };
        PartitionPosition::of_row(
            row,
            Some(LogRange { begin: Offset(10), end: Offset(30), stable: Offset(30) }),
        )
    }

    #[test]
    fn what_is_gone_does_not_count_as_lag() {
        for (next, lag) in [(0, 20), (10, 20), (12, 18), (30, 0), (99, 0)] {
            assert_eq!(read_to(next).lag, Some(lag), "{next}");
        }
    }

    #[test]
    fn a_log_that_is_not_the_one_that_was_read_is_remarked_on() {
        for (next, said) in [
            (4, Some("t/0 begins at 10: records 4 to 9 are gone, and were not read")),
            (10, None),
            (30, None),
            (31, Some("t/0 ends at 30, and it was read up to 31: it was recreated")),
        ] {
            assert_eq!(read_to(next).warning().as_deref(), said, "{next}");
        }
    }
}
