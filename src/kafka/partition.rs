//! The records of one partition, read in batches.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::base_consumer::PartitionQueue as NativeQueue;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};

use tokio::time::timeout;
use tracing::{debug, warn};

use super::error::{is_denial, is_passing};
use super::memory::{BatchMemory, RecordMemory};
use super::slot::Slot;
use super::{Error, TopicPartition};
use crate::model::ids::{Offset, Partition};
use crate::model::record::RawRecord;

/// A split queue can miss a wake-up (rust-rdkafka issue 840), so it is polled at least this
/// often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// librdkafka asks a broker that denied it a topic again after 5 s (ten times its default
/// `fetch.error.backoff.ms`): no error for longer than that means that reading is allowed.
const DENIED_AGAIN: Duration = Duration::from_secs(7);

/// How much [`PartitionQueue::next_batch`] returns at most, and how long it waits for a first
/// record.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// The maximum number of records; zero counts as one.
    pub max_records: usize,
    /// The maximum number of bytes by [`RawRecord::size`]; a single larger record is returned
    /// alone.
    pub max_bytes: usize,
    /// The longest wait for the first record.
    pub wait: Duration,
}

/// The end of a log, at the moment when everything before it had been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The last stable offset: the first one that a reader of committed records may not see yet.
    /// It can be beyond the last record read, because control records (transaction markers) have
    /// offsets too.
    pub stable: Offset,
    /// The high watermark: the offset after the last record, committed or not.
    pub high: Offset,
}

thread_local! {
    /// rdkafka reports the end of a partition without its offset. The error's text contains it;
    /// the client's context gets that text on the thread that polls the queue, before the poll
    /// returns.
    static END: Cell<Option<LogEnd>> = const { Cell::new(None) };
}

/// Keeps the log's end from librdkafka's text, for the poll that is about to return.
pub(super) fn keep_end(message: &str) {
    END.set(end_of(message));
}

/// Parses `.. reached end of partition at offset 3 (HighwaterMark 5)`.
fn end_of(message: &str) -> Option<LogEnd> {
    let (_, numbers) = message.split_once("end of partition at offset ")?;
    let (stable, high) = numbers.strip_suffix(')')?.split_once(" (HighwaterMark ")?;
    Some(LogEnd { stable: Offset(stable.parse().ok()?), high: Offset(high.parse().ok()?) })
}

/// The records of one partition, from its assignment or the latest seek until it is revoked.
///
/// For back-pressure, do not call [`next_batch`](Self::next_batch): librdkafka then stops
/// fetching when its own small queue is full.
pub struct PartitionQueue {
    queue: Box<dyn Queue>,
    slot: Arc<Slot>,
    /// The number of this queue among those of the same assignment.
    reader: u64,
    /// The number of seeks when `held` and `failed` were polled: a later seek makes them outdated.
    seek: u64,
    /// A record that was polled, but did not fit into the batch before.
    held: Option<RawRecord>,
    /// An error that followed records which had to be returned first.
    failed: Option<Error>,
    /// The last poll said that reading is denied.
    denied: bool,
    /// The last poll said that the log has no more records.
    end: Option<LogEnd>,
    memory: Arc<RecordMemory>,
    /// The memory of the batches that are not finished, oldest first.
    batches: VecDeque<Option<BatchMemory>>,
    /// Declared after `queue`, to be dropped after it: a queue must not outlive its client.
    _consumer: Arc<dyn Send + Sync>,
}

/// A queue of librdkafka, independent of the type of its client's callbacks.
trait Queue: Send {
    fn poll(&self) -> Option<KafkaResult<BorrowedMessage<'_>>>;

    fn set_nonempty_callback(&mut self, wake: Box<dyn Fn() + Send + Sync>);
}

impl<C: ConsumerContext + 'static> Queue for NativeQueue<C> {
    fn poll(&self) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        Self::poll(self, Duration::ZERO)
    }

    fn set_nonempty_callback(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        Self::set_nonempty_callback(self, wake);
    }
}

impl PartitionQueue {
    /// Splits the partition of `slot` off `consumer`; queues split off it before end here.
    pub(super) fn split<C: ConsumerContext + 'static>(
        consumer: &Arc<BaseConsumer<C>>,
        slot: Arc<Slot>,
        memory: Arc<RecordMemory>,
    ) -> Result<Self, Error> {
        let partition = &slot.partition;
        let queue = consumer
            .split_partition_queue(&partition.topic, partition.partition.0)
            .ok_or_else(|| Error::Config(format!("{partition} is not a partition")))?;
        let reader = slot.next_reader()?;
        let consumer = consumer.clone();
        Ok(Self {
            queue: Box::new(queue),
            slot,
            reader,
            seek: 0,
            held: None,
            failed: None,
            denied: false,
            end: None,
            memory,
            batches: VecDeque::new(),
            _consumer: consumer,
        })
    }

    /// The partition of this queue.
    pub fn partition(&self) -> &TopicPartition {
        &self.slot.partition
    }

    /// The end of the log, if everything before it has been read and no seek came since; returned
    /// once each time that the end is reached.
    pub fn take_end(&mut self) -> Option<LogEnd> {
        let is_current = self.seek == self.slot.seeks.load(Ordering::Acquire);
        self.end.take().filter(|_| is_current && self.held.is_none() && self.failed.is_none())
    }

    /// Waits for a record, then returns what is available, within `limits`, in the log's order.
    ///
    /// A batch reserves memory that all partitions share: it waits for that, and is smaller when
    /// memory is short. A single record always fits. The memory is released by
    /// [`finish_batch`](Self::finish_batch) or the next call of this method.
    ///
    /// The batch is empty if nothing came within `limits.wait`. After a denial it waits longer,
    /// because an empty batch would suggest that reading is allowed again. Cancel safe: no record
    /// is taken before the last await point.
    ///
    /// # Errors
    /// [`Error::OffsetLost`] when the log lacks the next offset, until the next
    /// [`Intake::seek`](super::Intake::seek); [`Error::Revoked`] when the partition was revoked;
    /// [`Error::NotSought`] before the first seek; [`Error::Denied`] and [`Error::Unavailable`]
    /// when the broker returns no records for a transient reason; [`Error::Unreadable`] when an
    /// operator has to look at the log.
    pub async fn next_batch(&mut self, limits: BatchLimits) -> Result<Vec<RawRecord>, Error> {
        self.finish_all();
        let wait = if self.denied { limits.wait.max(DENIED_AGAIN) } else { limits.wait };
        let deadline = Instant::now() + wait;
        loop {
            // The callback is set each time, because dropping an older queue of the same
            // partition removes it; and before polling, so that no wake-up is missed.
            self.arm();
            let mut place = self.memory.reserve().await;
            let batch = self.take(&limits, place.as_mut())?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !batch.is_empty() || left.is_zero() {
                self.denied = false;
                if !batch.is_empty() {
                    self.batches.push_back(place);
                }
                return Ok(batch);
            }
            drop(place);
            // Woken or timed out, the queue is polled next.
            timeout(left.min(LONGEST_SLEEP), self.slot.wake.notified()).await.ok();
        }
    }

    /// Returns what is available now, within `limits`, while the batch before is not finished.
    /// Returns nothing if there is no memory for a second batch, and keeps an error for the next
    /// call.
    pub fn next_batch_ahead(&mut self, limits: BatchLimits) -> Vec<RawRecord> {
        let Some(mut place) = self.memory.try_reserve() else { return Vec::new() };
        match self.take(&limits, Some(&mut place)) {
            Ok(batch) => {
                if !batch.is_empty() {
                    self.batches.push_back(Some(place));
                }
                batch
            }
            Err(error) => {
                self.failed.get_or_insert(error);
                Vec::new()
            }
        }
    }

    /// Releases the memory of the oldest batch.
    pub fn finish_batch(&mut self) {
        self.batches.pop_front();
    }

    /// Releases the memory of every batch.
    pub fn finish_all(&mut self) {
        self.batches.clear();
    }

    fn arm(&mut self) {
        let slot = self.slot.clone();
        self.queue.set_nonempty_callback(Box::new(move || slot.wake.notify_one()));
    }

    fn take(
        &mut self,
        limits: &BatchLimits,
        mut place: Option<&mut BatchMemory>,
    ) -> Result<Vec<RawRecord>, Error> {
        self.check()?;
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < limits.max_records.max(1) {
            let record = match self.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) if batch.is_empty() => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            };
            bytes += record.size();
            if bytes > limits.max_bytes && !batch.is_empty() {
                self.held = Some(record);
                break;
            }
            let fits = place.as_mut().is_none_or(|place| place.add(record.size()));
            batch.push(record);
            if !fits {
                break;
            }
        }
        if let Some(place) = place {
            place.trim();
        }
        Ok(batch)
    }

    /// Whether this queue may still be read; discards what was polled before the latest seek.
    fn check(&mut self) -> Result<(), Error> {
        let partition = || self.slot.partition.clone();
        if self.slot.reader.load(Ordering::Acquire) != self.reader {
            return Err(Error::Revoked { partition: partition() });
        }
        let seek = self.slot.seeks.load(Ordering::Acquire);
        if seek == 0 {
            return Err(Error::NotSought { partition: partition() });
        }
        if self.slot.is_recreated() {
            return Err(Error::OffsetLost { partition: partition() });
        }
        if seek != self.seek {
            self.seek = seek;
            self.held = None;
            self.failed = None;
            self.end = None;
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<Option<RawRecord>, Error> {
        if let Some(record) = self.held.take() {
            return Ok(Some(record));
        }
        loop {
            match self.queue.poll() {
                None => return Ok(None),
                Some(Ok(message)) => {
                    self.end = None;
                    return Ok(Some(self.record(&message)));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => self.end = END.take(),
                Some(Err(error)) => {
                    let classified = self.classify(error);
                    self.denied |= matches!(classified, Err(Error::Denied(_)));
                    classified?;
                }
            }
        }
    }

    fn record(&self, message: &BorrowedMessage<'_>) -> RawRecord {
        RawRecord {
            topic: self.slot.partition.topic.clone(),
            partition: Partition(message.partition()),
            offset: Offset(message.offset()),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers_of(message),
        }
    }

    /// Distinguishes errors that the reader must know of from those that librdkafka retries by
    /// itself.
    fn classify(&self, error: KafkaError) -> Result<(), Error> {
        let partition = &self.slot.partition;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
                return Err(Error::OffsetLost { partition: partition.clone() });
            }
            Some(Code::TopicAuthorizationFailed) => {
                let topic = &partition.topic;
                return Err(Error::Denied(format!(
                    "reading topic {topic} is not allowed: allow READ on it"
                )));
            }
            _ => {}
        }
        if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return Err(Error::Unavailable(error.to_string()));
        }
        match error.rdkafka_error_code() {
            Some(code) if is_passing(code) => {
                debug!(partition = %partition, "{partition}: {error}");
                Ok(())
            }
            Some(code) if !is_denial(code) => {
                let (partition, problem) = (partition.clone(), code.to_string());
                Err(Error::Unreadable { partition, problem })
            }
            _ => Err(error.into()),
        }
    }
}

impl fmt::Debug for PartitionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionQueue")
            .field("partition", &self.slot.partition)
            .finish_non_exhaustive()
    }
}

fn headers_of(message: &BorrowedMessage<'_>) -> Vec<(String, Option<Vec<u8>>)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    (0..headers.count())
        .map(|at| {
            // rdkafka panics on a header name that is not UTF-8. Any producer can send one, and
            // the panic would stop the partition for good.
            let header = catch_unwind(AssertUnwindSafe(|| {
                let header = headers.get(at);
                (header.key.to_owned(), header.value.map(<[u8]>::to_vec))
            }));
            header.unwrap_or_else(|_| {
                let offset = message.offset();
                warn!(offset, "record at offset {offset}: a header's name is not UTF-8");
                (char::REPLACEMENT_CHARACTER.to_string(), None)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_from_the_text_of_the_error() {
        let message =
            "Fetch from broker 1 reached end of partition at offset 502 (HighwaterMark 503)";
        assert_eq!(end_of(message), Some(LogEnd { stable: Offset(502), high: Offset(503) }));
        for other in ["", "end of partition at offset x (HighwaterMark 5)", "at offset 3"] {
            assert_eq!(end_of(other), None, "{other}");
        }
    }
}
