//! A handle on the consumer: seeking, committing, and queries about the log.
//!
//! Behind it is a member of the group on a thread of its own ([`member`](super::member)). Records
//! are not read through it: each partition has its [`PartitionQueue`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::watch;
use tracing::error;

use super::member::{CurrentConsumer, Member};
use super::rebalance::{Assignments, Consumer, commit, list_of};
use super::slot::Slot;
use super::uncommitted::Uncommitted;
use super::{BrokerState, Error, KafkaIngestConfig, PartitionQueue, TopicPartition, TroubleKind};
use crate::model::ids::Offset;

/// The longest wait for an answer of the broker.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// librdkafka starts to fetch a partition within this time after its assignment, or not at all.
const FETCHER_PATIENCE: Duration = Duration::from_millis(250);

/// A handle on the consumer. Clones share it; when the last one is dropped it leaves the group.
#[derive(Clone, Debug)]
pub struct Intake {
    shared: Arc<Shared>,
}

struct Shared {
    current: Arc<CurrentConsumer>,
    /// Sees uncommitted records, unlike the consumer; created when it is first needed.
    uncommitted: OnceLock<Arc<Uncommitted>>,
    config: KafkaIngestConfig,
    stop: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

impl Intake {
    /// Joins the group; `assignments` is called for every rebalance from now on. The session
    /// timeout is `lease`, unless the settings have another. The prefetch memory is divided among
    /// `partitions`, the number of partitions of all topics.
    ///
    /// An unavailable broker is no error: librdkafka keeps trying, and [`state`](Self::state)
    /// reports it.
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
                    error!("the kafka poll thread panicked: no records are read any more");
                }
                end.send_replace(true);
            })
            .map_err(|error| Error::Unavailable(format!("no thread to poll on: {error}")))?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The cluster's id: offsets are meaningful only together with it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no broker answers.
    pub async fn cluster_id(&self) -> Result<String, Error> {
        self.ask(|consumer| {
            let id = consumer.client().fetch_cluster_id(ANSWER_PATIENCE);
            id.ok_or_else(|| Error::Unavailable("no broker returned the cluster's id".to_owned()))
        })
        .await
    }

    /// Makes `offset` the next one that `partition` yields, and discards what was prefetched.
    ///
    /// An offset that the log does not have is reported later, as [`Error::OffsetLost`] by the
    /// queue.
    ///
    /// # Errors
    /// [`Error::Revoked`] if the partition is not assigned, [`Error::Unavailable`] if the client
    /// cannot seek at the moment.
    pub async fn seek(&self, partition: &TopicPartition, offset: Offset) -> Result<(), Error> {
        let partition = partition.clone();
        self.ask(move |consumer| seek(consumer, &partition, offset)).await
    }

    /// A new queue for an assigned partition, for a reader that replaces another: seek before
    /// reading. Older queues of the partition return [`Error::Revoked`].
    ///
    /// # Errors
    /// [`Error::Revoked`] if the partition is not assigned.
    pub fn split(&self, partition: &TopicPartition) -> Result<PartitionQueue, Error> {
        let consumer = self.consumer()?;
        let slot = consumer.context().slot(partition)?;
        PartitionQueue::split(&consumer, slot, consumer.context().memory.clone())
    }

    /// The offset that the group has committed to Kafka for `partition`, if any.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not answer.
    pub async fn committed(&self, partition: &TopicPartition) -> Result<Option<Offset>, Error> {
        let partition = partition.clone();
        self.ask(move |consumer| {
            let list = list_of(&[(partition, Offset(0))])?;
            let answers = consumer.committed_offsets(list, ANSWER_PATIENCE)?;
            let elements = answers.elements();
            let Some(answer) = elements.first() else { return Ok(None) };
            answer.error()?;
            Ok(match answer.offset() {
                rdkafka::Offset::Offset(offset) => Some(Offset(offset)),
                _ => None,
            })
        })
        .await
    }

    /// The first offset that the log of `partition` has, and its last stable offset.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not answer.
    pub async fn watermarks(&self, partition: &TopicPartition) -> Result<(Offset, Offset), Error> {
        let partition = partition.clone();
        self.ask(move |consumer| {
            let (topic, number) = (&partition.topic, partition.partition.0);
            let (low, high) = consumer.fetch_watermarks(topic, number, ANSWER_PATIENCE)?;
            Ok((Offset(low), Offset(high)))
        })
        .await
    }

    /// The offset after the last record of `partition`, committed or not.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Denied`] if the broker does not answer.
    pub async fn end(&self, partition: &TopicPartition) -> Result<Offset, Error> {
        let partition = partition.clone();
        self.ask_uncommitted(move |uncommitted| uncommitted.end(&partition, ANSWER_PATIENCE)).await
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
        let partition = partition.clone();
        self.ask_uncommitted(move |uncommitted| uncommitted.time_at(&partition, offset)).await
    }

    /// Commits offsets to Kafka, for lag tools; does not wait, and may fail without notice.
    pub fn commit(&self, offsets: &[(TopicPartition, Offset)]) {
        if let Ok(consumer) = self.consumer() {
            // Without a broker the commits would pile up in the client.
            if !consumer.context().connectivity.should_probe() {
                commit(&consumer, offsets);
            }
        }
    }

    /// Whether `partition` is assigned to this member.
    pub fn is_assigned(&self, partition: &TopicPartition) -> bool {
        self.slot(partition).is_ok()
    }

    /// Whether the topic of `partition` was deleted and recreated under its reader, so that the
    /// offset of the reader is one of another log. Answers yes once, unless
    /// [`note_recreation`](Self::note_recreation) says so again; until it has been asked, the
    /// queue returns [`Error::OffsetLost`].
    pub fn take_recreation(&self, partition: &TopicPartition) -> bool {
        self.slot(partition).is_ok_and(|slot| slot.take_recreation())
    }

    /// Notes that the topic of `partition` was recreated.
    pub fn note_recreation(&self, partition: &TopicPartition) {
        if let Ok(slot) = self.slot(partition) {
            slot.note_recreation();
        }
    }

    /// The state of the connection to the broker, for health checks.
    pub fn state(&self) -> BrokerState {
        if *self.shared.ended.borrow() {
            let (trouble, kind) = (Some(stopped().to_string()), Some(TroubleKind::Group));
            return BrokerState { reachable: false, trouble, kind };
        }
        self.shared.current.connectivity.state()
    }

    /// Wakes librdkafka's threads and the poll thread. They wait until a moment of the wall
    /// clock: after the clock was set back they would sleep for as long as that, and send no
    /// heartbeat to the group meanwhile.
    pub fn wake(&self) {
        if let Ok(consumer) = self.consumer() {
            // There is nothing to commit, but the answer to this wakes the threads.
            drop(consumer.commit_consumer_state(CommitMode::Async));
        }
    }

    /// Leaves the group: partitions are revoked as in any rebalance, then the client is closed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that takes longer than `patience`; it then continues in the
    /// background.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), Error> {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        let mut ended = self.shared.ended.clone();
        match tokio::time::timeout(patience, ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Unavailable("the consumer is slow to close".to_owned())),
        }
    }

    fn slot(&self, partition: &TopicPartition) -> Result<Arc<Slot>, Error> {
        self.consumer()?.context().slot(partition)
    }

    fn consumer(&self) -> Result<Arc<Consumer>, Error> {
        self.shared.current.consumer().ok_or_else(stopped)
    }

    /// As [`ask`](Self::ask), with the client that reads uncommitted records.
    async fn ask_uncommitted<T: Send + 'static>(
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
            // The query may outlive the last handle, and must not keep the member in its group.
            drop(shared);
            question(&client)
        });
        answer.await.map_err(|error| Error::Unavailable(error.to_string()))?
    }

    /// Runs a blocking query on a thread for blocking work.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Consumer) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let consumer = self.consumer()?;
        let answer = tokio::task::spawn_blocking(move || {
            question(&consumer).map_err(|error| consumer.context().connectivity.explain(error))
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

fn seek(consumer: &Consumer, partition: &TopicPartition, offset: Offset) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let slot = consumer.context().slot(partition)?;
        let list = list_of(&[(partition.clone(), offset)])?;
        let answers = consumer.seek_partitions(list, ANSWER_PATIENCE)?;
        let failure = answers.elements().first().and_then(|answer| answer.error().err());
        let Some(failure) = failure else {
            slot.note_seek();
            return Ok(());
        };
        let not_started =
            matches!(failure.rdkafka_error_code(), Some(Code::State | Code::PreviousInProgress));
        if !not_started {
            return Err(failure.into());
        }
        if began.elapsed() > FETCHER_PATIENCE {
            consumer.context().restart(consumer, partition, offset)?;
            slot.note_seek();
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
}
