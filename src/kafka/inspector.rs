//! Inspects a cluster without reading from it: which partitions exist, where each log begins and
//! ends, and which offset corresponds to a time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::connectivity::Connectivity;
use super::listener::Listener;
use super::rebalance::list_of;
use super::uncommitted::Uncommitted;
use super::{Error, KafkaIngestConfig, TopicPartition};
use crate::model::ids::{Offset, Partition};

/// The longest wait for one answer; short, because a person waits at a terminal.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// After a failure the client is polled for the errors that explain it: how long for each, and
/// how many at most.
const EXPLAIN: Duration = Duration::from_millis(100);
const THINGS: usize = 10;

/// Offsets by partition.
pub type Offsets = BTreeMap<TopicPartition, Offset>;

/// The range of offsets of a partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// The first offset that the log has.
    pub begin: Offset,
    /// The one after the last record.
    pub end: Offset,
    /// The last stable offset. Less than `end` while a transaction is open, and then the offset
    /// of its first record.
    pub stable: Offset,
}

/// A client that joins no group, so that it takes no partition from a member.
pub struct ClusterInspector {
    client: Arc<Client>,
    uncommitted: Arc<Uncommitted>,
}

type Client = BaseConsumer<Listener>;

impl ClusterInspector {
    /// A client for the cluster of `config`. An unavailable broker is no error.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that librdkafka refuses.
    pub fn start(config: &KafkaIngestConfig) -> Result<Self, Error> {
        let listener = Listener { connectivity: Connectivity::unreported() };
        let client: Client = config.to_client_config().create_with_context(listener)?;
        let uncommitted = Arc::new(Uncommitted::start(config)?);
        Ok(Self { client: Arc::new(client), uncommitted })
    }

    /// The cluster's id.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no broker answers.
    pub async fn cluster_id(&self) -> Result<String, Error> {
        self.ask(|client| {
            let id = client.client().fetch_cluster_id(ANSWER_PATIENCE);
            id.ok_or_else(|| Error::Unavailable("no broker returned the cluster's id".to_owned()))
        })
        .await
    }

    /// The partitions of `topics`, in order; a topic that does not exist has none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not answer.
    pub async fn partitions(&self, topics: Vec<String>) -> Result<Vec<TopicPartition>, Error> {
        self.ask(move |client| {
            // All topics are listed: a query for one by its name could create it.
            let metadata = client.fetch_metadata(None, ANSWER_PATIENCE)?;
            let wanted = metadata.topics().iter().filter(|topic| {
                topic.error().is_none() && topics.iter().any(|name| name == topic.name())
            });
            let mut all: Vec<TopicPartition> = wanted
                .flat_map(|topic| {
                    let name: Arc<str> = topic.name().into();
                    let numbers = topic.partitions().iter().map(|partition| partition.id());
                    numbers.map(move |number| TopicPartition::new(name.clone(), Partition(number)))
                })
                .collect();
            all.sort();
            Ok(all)
        })
        .await
    }

    /// The begin and end of the log of each partition.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not answer for one of them.
    pub async fn logs(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, LogRange>, Error> {
        let uncommitted = self.uncommitted.clone();
        self.ask(move |client| {
            let range = |partition: TopicPartition| {
                let (topic, number) = (&partition.topic, partition.partition.0);
                // Read before the end, which may grow meanwhile.
                let (begin, stable) = client.fetch_watermarks(topic, number, ANSWER_PATIENCE)?;
                let (begin, stable) = (Offset(begin), Offset(stable));
                let end = uncommitted.end(&partition, ANSWER_PATIENCE)?;
                Ok((partition, LogRange { begin, end, stable }))
            };
            partitions.into_iter().map(range).collect()
        })
        .await
    }

    /// The time of the record at `offset` of `partition`, epoch milliseconds, committed or not.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not answer.
    pub async fn time_at(
        &self,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<Option<i64>, Error> {
        let (uncommitted, partition) = (self.uncommitted.clone(), partition.clone());
        self.ask(move |_| uncommitted.time_at(&partition, offset)).await
    }

    /// The first record of each partition that is not older than `time_ms`; a partition without
    /// such a record is not in the result.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not answer for one of them.
    pub async fn offsets_at(
        &self,
        partitions: Vec<TopicPartition>,
        time_ms: i64,
    ) -> Result<Offsets, Error> {
        self.ask(move |client| {
            // librdkafka expects each time in the field for the offset.
            let times: Vec<_> = partitions.into_iter().map(|one| (one, Offset(time_ms))).collect();
            offsets_in(&client.offsets_for_times(list_of(&times)?, ANSWER_PATIENCE)?)
        })
        .await
    }

    /// The offsets that the group has committed to Kafka; a partition without a commit is not in
    /// the result.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not answer for one of them.
    pub async fn committed(&self, partitions: Vec<TopicPartition>) -> Result<Offsets, Error> {
        self.ask(move |client| {
            let places: Vec<_> = partitions.into_iter().map(|one| (one, Offset(0))).collect();
            offsets_in(&client.committed_offsets(list_of(&places)?, ANSWER_PATIENCE)?)
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let client = self.client.clone();
        let answer = tokio::task::spawn_blocking(move || {
            question(&client).map_err(|error| {
                // Nothing is assigned, so that no poll returns a record.
                let more = |_: &usize| client.poll(EXPLAIN).is_some();
                (0..THINGS).take_while(more).for_each(drop);
                client.context().connectivity.explain(error)
            })
        });
        answer.await.map_err(|error| Error::Unavailable(error.to_string()))?
    }
}

impl fmt::Debug for ClusterInspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterInspector").finish_non_exhaustive()
    }
}

fn offsets_in(list: &TopicPartitionList) -> Result<Offsets, Error> {
    let mut offsets = Offsets::new();
    for element in list.elements() {
        element.error()?;
        if let rdkafka::Offset::Offset(offset) = element.offset() {
            let partition = Partition(element.partition());
            offsets.insert(TopicPartition::new(element.topic(), partition), Offset(offset));
        }
    }
    Ok(offsets)
}
