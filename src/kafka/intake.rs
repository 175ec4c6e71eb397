//! The consumer as readers use it: seeking, committing, and what the log has.
//!
//! Behind it is a member of the group on a thread of its own ([`member`](super::member)).
//! Records never come that way: each partition has its [`PartitionQueue`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::watch;
use tracing::error;

use super::member::{Current, Member};
use super::rebalance::{Assignments, Consumer, commit, list_of};
use super::uncommitted::Uncommitted;
use super::{BrokerState, Error, KafkaIngestConfig, PartitionQueue, TopicPartition, TroubleKind};

/// The longest wait for an answer to a question of ours.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// A partition's fetcher starts this soon after its assignment, or it has ended.
const FETCHER_PATIENCE: Duration = Duration::from_millis(250);

/// A handle on the consumer; clones share it, and it leaves the group with the last of them.
#[derive(Clone, Debug)]
pub struct Intake {
    shared: Arc<Shared>,
}

struct Shared {
    current: Arc<Current>,
    /// For what the member itself may not see; made when it is first asked.
    uncommitted: OnceLock<Arc<Uncommitted>>,
    config: KafkaIngestConfig,
    stop: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

impl Intake {
    /// Joins the group; `assignments` is told of partitions from now on. The group waits for a
    /// member that does not answer about as long as for an instance whose lease is `lease`. The
    /// memory for what is fetched ahead is divided among `partitions`, as many as the topics have.
    ///
    /// A broker that is away is no error: librdkafka goes on trying, and
    /// [`state`](Self::state) says so.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that librdkafka refuses.
    pub fn start(
        config: &KafkaIngestConfig,
        lease: Duration,
        partitions: usize,
        assignments: Arc<dyn Assignments>,
    ) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let (member, current) = Member::join(config, lease, partitions, assignments, stop.clone())?;
        let (end, ended) = watch::channel(false);
        let uncommitted = OnceLock::new();
        let shared = Shared { current, uncommitted, config: config.clone(), stop, ended };
        thread::Builder::new()
            .name("kafka-intake".to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| member.run())).is_err() {
                    error!("the kafka poll thread panicked: nothing is read any more");
                }
                end.send_replace(true);
            })
            .map_err(|error| Error::Unavailable(format!("no thread to poll on: {error}")))?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The name that the cluster gave itself: offsets mean something only together with it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no broker answers.
    pub async fn cluster_id(&self) -> Result<String, Error> {
        self.ask(|consumer| {
            let id = consumer.client().fetch_cluster_id(ANSWER_PATIENCE);
            id.ok_or_else(|| Error::Unavailable("no broker told the cluster's id".to_owned()))
        })
        .await
    }

    /// Makes `offset` the next one that `partition` yields, and forgets what was fetched.
    ///
    /// An offset that the log does not have shows later, as [`Error::OffsetLost`] from the queue.
    ///
    /// # Errors
    /// [`Error::Revoked`] if the partition is not ours, [`Error::Unavailable`] if the
    /// client could not do it just now.
    pub async fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<(), Error> {
        let partition = partition.clone();
        self.ask(move |consumer| seek(consumer, &partition, offset)).await
    }

    /// A new queue for a partition that we have, for a reader that takes the place of
    /// another: seek first. The queues split off before end with [`Error::Revoked`].
    ///
    /// # Errors
    /// [`Error::Revoked`] if the partition is not ours.
    pub fn split(&self, partition: &TopicPartition) -> Result<PartitionQueue, Error> {
        let consumer = self.consumer()?;
        let slot = consumer.context().slot(partition)?;
        PartitionQueue::split(&consumer, slot, consumer.context().memory.clone())
    }

    /// The offset that the group has committed to Kafka for `partition`, if any.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say.
    pub async fn committed(&self, partition: &TopicPartition) -> Result<Option<i64>, Error> {
        let partition = partition.clone();
        self.ask(move |consumer| {
            let list = list_of(&[(partition, 0)])?;
            let answers = consumer.committed_offsets(list, ANSWER_PATIENCE)?;
            let elements = answers.elements();
            let Some(answer) = elements.first() else { return Ok(None) };
            answer.error()?;
            Ok(match answer.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
        })
        .await
    }

    /// The first offset that the log of `partition` still has, and the one after its last
    /// record that readers may see.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say.
    pub async fn watermarks(&self, partition: &TopicPartition) -> Result<(i64, i64), Error> {
        let partition = partition.clone();
        self.ask(move |consumer| {
            let (topic, number) = (&partition.topic, partition.partition);
            Ok(consumer.fetch_watermarks(topic, number, ANSWER_PATIENCE)?)
        })
        .await
    }

    /// The offset after the last record of `partition`, whether or not readers may see it yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say.
    pub async fn end(&self, partition: &TopicPartition) -> Result<i64, Error> {
        let partition = partition.clone();
        self.ask_beyond(move |uncommitted| uncommitted.end(&partition, ANSWER_PATIENCE)).await
    }

    /// The time of the record at `offset` of `partition`, epoch milliseconds, whether or not
    /// readers may see it yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not say.
    pub async fn time_at(
        &self,
        partition: &TopicPartition,
        offset: i64,
    ) -> Result<Option<i64>, Error> {
        let partition = partition.clone();
        self.ask_beyond(move |uncommitted| uncommitted.time_at(&partition, offset)).await
    }

    /// Tells Kafka how far we are, for lag tools; does not wait, and may be lost.
    pub fn commit(&self, offsets: &[(TopicPartition, i64)]) {
        if let Ok(consumer) = self.consumer() {
            // Without a broker they would pile up in the client.
            if !consumer.context().reach.is_in_doubt() {
                commit(&consumer, offsets);
            }
        }
    }

    /// Whether the group has given `partition` to us.
    pub fn is_assigned(&self, partition: &TopicPartition) -> bool {
        self.consumer().is_ok_and(|consumer| consumer.context().slot(partition).is_ok())
    }

    /// How the consumer stands with its broker, for health checks.
    pub fn state(&self) -> BrokerState {
        if *self.shared.ended.borrow() {
            let (trouble, kind) = (Some(stopped().to_string()), Some(TroubleKind::Group));
            return BrokerState { reachable: false, trouble, kind };
        }
        self.shared.current.reach.state()
    }

    /// Ends the waits of the client's threads, and of ours that polls it. They wait until a
    /// moment of the wall clock, so that after it was set back they would sleep for as long as
    /// it was set back by, and send no heartbeat to the group meanwhile.
    pub fn wake(&self) {
        if let Ok(consumer) = self.consumer() {
            // There is nothing to commit, and an answer that says so wakes them.
            drop(consumer.commit_consumer_state(CommitMode::Async));
        }
    }

    /// Leaves the group: partitions are revoked as in any rebalance, then the client closes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that is not done within `patience`; it then goes on by itself.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), Error> {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        let mut ended = self.shared.ended.clone();
        match tokio::time::timeout(patience, ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Unavailable("the consumer is slow to close".to_owned())),
        }
    }

    fn consumer(&self) -> Result<Arc<Consumer>, Error> {
        self.shared.current.consumer().ok_or_else(stopped)
    }

    /// As [`ask`](Self::ask), of a client that sees what is not committed.
    async fn ask_beyond<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Uncommitted) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = self.shared.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let client = match shared.uncommitted.get() {
                Some(client) => client.clone(),
                None => {
                    let client = Arc::new(Uncommitted::start(&shared.config)?);
                    shared.uncommitted.get_or_init(|| client).clone()
                }
            };
            // Asking may outlive the last handle, and must not keep the member in its group.
            drop(shared);
            question(&client)
        });
        answer.await.map_err(|error| Error::Unavailable(error.to_string()))?
    }

    /// Runs a question that blocks where blocking is allowed.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Consumer) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let consumer = self.consumer()?;
        let answer = tokio::task::spawn_blocking(move || {
            question(&consumer).map_err(|error| consumer.context().reach.explain(error))
        });
        answer.await.map_err(|error| Error::Unavailable(error.to_string()))?
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("ended", &*self.ended.borrow()).finish_non_exhaustive()
    }
}

fn stopped() -> Error {
    Error::Unavailable("the consumer has stopped".to_owned())
}

fn seek(consumer: &Consumer, partition: &TopicPartition, offset: i64) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let slot = consumer.context().slot(partition)?;
        let list = list_of(&[(partition.clone(), offset)])?;
        let answers = consumer.seek_partitions(list, ANSWER_PATIENCE)?;
        let failure = answers.elements().first().and_then(|answer| answer.error().err());
        let Some(failure) = failure else {
            slot.sought();
            return Ok(());
        };
        let not_started =
            matches!(failure.rdkafka_error_code(), Some(Code::State | Code::PreviousInProgress));
        if !not_started {
            return Err(failure.into());
        }
        if began.elapsed() > FETCHER_PATIENCE {
            consumer.context().restart(consumer, partition, offset)?;
            slot.sought();
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
}
