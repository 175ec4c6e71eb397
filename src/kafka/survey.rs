//! What a cluster says of its topics to somebody who reads nothing: which partitions there
//! are, where each log begins and ends, and where in it a moment lies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::listener::Listener;
use super::reach::Reach;
use super::rebalance::list_of;
use super::uncommitted::Uncommitted;
use super::{Error, KafkaIngestConfig, TopicPartition};

/// The longest wait for one answer: somebody sits at a terminal.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// What the client still has to say of a failure comes by polling it, one thing at a time.
const EXPLAIN: Duration = Duration::from_millis(100);
const THINGS: usize = 10;

/// Offsets by partition.
pub type Offsets = BTreeMap<TopicPartition, i64>;

/// The records that a partition's log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// The first offset that is left.
    pub begin: i64,
    /// The one after the last record.
    pub end: i64,
    /// The one after the last record that readers may see. Less than `end` while a transaction
    /// is open, and then the offset of its first record.
    pub stable: i64,
}

/// A client that joins no group and takes no partition from anybody.
pub struct Survey {
    client: Arc<Client>,
    uncommitted: Arc<Uncommitted>,
}

type Client = BaseConsumer<Listener>;

impl Survey {
    /// A client for the cluster of `config`. A broker that is away is no error.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that librdkafka refuses.
    pub fn start(config: &KafkaIngestConfig) -> Result<Self, Error> {
        let listener = Listener { reach: Reach::untold() };
        let client: Client = config.to_client_config().create_with_context(listener)?;
        let uncommitted = Arc::new(Uncommitted::start(config)?);
        Ok(Self { client: Arc::new(client), uncommitted })
    }

    /// The name that the cluster gave itself.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no broker answers.
    pub async fn cluster_id(&self) -> Result<String, Error> {
        self.ask(|client| {
            let id = client.client().fetch_cluster_id(ANSWER_PATIENCE);
            id.ok_or_else(|| Error::Unavailable("no broker told the cluster's id".to_owned()))
        })
        .await
    }

    /// The partitions of `topics`, in order; a topic that does not exist has none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say.
    pub async fn partitions(&self, topics: Vec<String>) -> Result<Vec<TopicPartition>, Error> {
        self.ask(move |client| {
            // All topics are listed: asking for one by its name could make it.
            let metadata = client.fetch_metadata(None, ANSWER_PATIENCE)?;
            let wanted = metadata.topics().iter().filter(|topic| {
                topic.error().is_none() && topics.iter().any(|name| name == topic.name())
            });
            let mut all: Vec<TopicPartition> = wanted
                .flat_map(|topic| {
                    let name: Arc<str> = topic.name().into();
                    let numbers = topic.partitions().iter().map(|partition| partition.id());
                    numbers.map(move |number| TopicPartition::new(name.clone(), number))
                })
                .collect();
            all.sort();
            Ok(all)
        })
        .await
    }

    /// Where the log of each partition begins and ends.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say of one.
    pub async fn logs(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, LogRange>, Error> {
        let uncommitted = self.uncommitted.clone();
        self.ask(move |client| {
            let range = |partition: TopicPartition| {
                let (topic, number) = (&partition.topic, partition.partition);
                // Before the end, which may grow meanwhile.
                let (begin, stable) = client.fetch_watermarks(topic, number, ANSWER_PATIENCE)?;
                let end = uncommitted.end(&partition, ANSWER_PATIENCE)?;
                Ok((partition, LogRange { begin, end, stable }))
            };
            partitions.into_iter().map(range).collect()
        })
        .await
    }

    /// When the record at `offset` of `partition` was written, epoch milliseconds, whether or
    /// not readers may see it yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say.
    pub async fn time_at(
        &self,
        partition: &TopicPartition,
        offset: i64,
    ) -> Result<Option<i64>, Error> {
        let (uncommitted, partition) = (self.uncommitted.clone(), partition.clone());
        self.ask(move |_| uncommitted.time_at(&partition, offset)).await
    }

    /// The first record of each partition that is not older than `time_ms`; a partition
    /// without such a record is not in the answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say of one.
    pub async fn offsets_at(
        &self,
        partitions: Vec<TopicPartition>,
        time_ms: i64,
    ) -> Result<Offsets, Error> {
        self.ask(move |client| {
            let times: Vec<_> = partitions.into_iter().map(|one| (one, time_ms)).collect();
            offsets_in(&client.offsets_for_times(list_of(&times)?, ANSWER_PATIENCE)?)
        })
        .await
    }

    /// Where the group has committed to Kafka; a partition without a commit is not in the
    /// answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say of one.
    pub async fn committed(&self, partitions: Vec<TopicPartition>) -> Result<Offsets, Error> {
        self.ask(move |client| {
            let places: Vec<_> = partitions.into_iter().map(|one| (one, 0)).collect();
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
                // Nothing is assigned: no record can come by this.
                let more = |_: &usize| client.poll(EXPLAIN).is_some();
                (0..THINGS).take_while(more).for_each(drop);
                client.context().reach.explain(error)
            })
        });
        answer.await.map_err(|error| Error::Unavailable(error.to_string()))?
    }
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey").finish_non_exhaustive()
    }
}

fn offsets_in(list: &TopicPartitionList) -> Result<Offsets, Error> {
    let mut offsets = Offsets::new();
    for element in list.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert(TopicPartition::new(element.topic(), element.partition()), offset);
        }
    }
    Ok(offsets)
}
