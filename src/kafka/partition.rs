//! One partition's records, taken in batches by whoever reads it.

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
use super::memory::{Place, RecordMemory};
use super::slot::Slot;
use super::{Error, TopicPartition};
use crate::model::record::RawRecord;

/// A split queue can miss a wake-up (rust-rdkafka issue 840), so it is looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// librdkafka asks a broker that denied it a topic again after 5 s (ten times its default
/// `fetch.error.backoff.ms`): nothing heard for longer than that means that it may read.
const DENIED_AGAIN: Duration = Duration::from_secs(7);

/// How much [`PartitionQueue::next_batch`] takes at once, and how long it waits for something.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// No more records than this; zero counts as one.
    pub max_records: usize,
    /// No more bytes than this by [`RawRecord::size`], unless one record alone is larger.
    pub max_bytes: usize,
    /// The longest wait for the first record.
    pub wait: Duration,
}

/// The end of a log, as it was when everything before it had been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Where a reader stands that has taken everything: the first offset that it may not see yet.
    /// Below it may lie, unseen, what the log has for its own use, such as the marks of
    /// transactions.
    pub stable: i64,
    /// The offset after the last record, whether or not readers may see it.
    pub high: i64,
}

thread_local! {
    /// rdkafka hands the end of a partition over without its offset. The words that come with
    /// it have it, and reach the client's context on the thread that polls the queue,
    /// before the poll returns.
    static END: Cell<Option<LogEnd>> = const { Cell::new(None) };
}

/// Keeps what librdkafka says of the end of a partition, for the poll that is about to return.
pub(super) fn keep_end(words: &str) {
    END.set(end_of(words));
}

/// From `.. reached end of partition at offset 3 (HighwaterMark 5)`.
fn end_of(words: &str) -> Option<LogEnd> {
    let (_, numbers) = words.split_once("end of partition at offset ")?;
    let (stable, high) = numbers.strip_suffix(')')?.split_once(" (HighwaterMark ")?;
    Some(LogEnd { stable: stable.parse().ok()?, high: high.parse().ok()? })
}

/// The records of one partition from when it was assigned to us, or sought, until it is revoked.
///
/// Back-pressure is not to call [`next_batch`](Self::next_batch): librdkafka then fetches no
/// more than its own small queue holds.
pub struct PartitionQueue {
    queue: Box<dyn Queue>,
    slot: Arc<Slot>,
    /// Which of the queues that were split off this slot we are.
    reader: u64,
    /// The seek that `held` and `failed` came after.
    seek: u64,
    floor: i64,
    /// Taken, but too large for the batch before.
    held: Option<RawRecord>,
    /// Met after records that were still to be handed out.
    failed: Option<Error>,
    /// The last that was heard is that we may not read.
    denied: bool,
    /// The last that was heard is that there is nothing more.
    end: Option<LogEnd>,
    memory: Arc<RecordMemory>,
    /// The room of the batches that were given out, oldest first.
    places: VecDeque<Option<Place>>,
    /// Dropped after `queue`: destroying the client under a live queue is asking for trouble.
    _consumer: Arc<dyn Send + Sync>,
}

/// A queue of librdkafka's, whatever its client's callbacks are.
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
            .split_partition_queue(&partition.topic, partition.partition)
            .ok_or_else(|| Error::Config(format!("{partition} is not a partition")))?;
        let reader = slot.admit_reader()?;
        let consumer = consumer.clone();
        let floor = i64::MIN;
        Ok(Self {
            queue: Box::new(queue),
            slot,
            reader,
            seek: 0,
            floor,
            held: None,
            failed: None,
            denied: false,
            end: None,
            memory,
            places: VecDeque::new(),
            _consumer: consumer,
        })
    }

    /// The partition that this queue belongs to.
    pub fn partition(&self) -> &TopicPartition {
        &self.slot.partition
    }

    /// Passes over records below `offset` from now on.
    pub fn discard_below(&mut self, offset: i64) {
        self.floor = offset;
    }

    /// The end of the log, if everything before it has been taken and was no seek came
    /// since; once for each time that the end is reached.
    pub fn take_end(&mut self) -> Option<LogEnd> {
        let is_current = self.seek == self.slot.seeks.load(Ordering::Acquire);
        self.end.take().filter(|_| is_current && self.held.is_none() && self.failed.is_none())
    }

    /// Waits for a record, then takes what is there, within `limits`, in the log's order.
    ///
    /// A batch waits for room in the memory that all partitions share, and is smaller where
    /// that is short; a record alone always fits. It keeps its room until
    /// [`finish_batch`](Self::finish_batch), or until this is called again.
    ///
    /// The batch is empty if nothing came in `limits.wait`, or for a while longer after a
    /// denial, which would otherwise seem to be over. Dropping the future loses no
    /// record: none is taken before the last time it waits.
    ///
    /// # Errors
    /// [`Error::OffsetLost`] when the partition stands still until
    /// [`Intake::seek`](super::Intake::seek); [`Error::Revoked`] when it is not ours any more;
    /// [`Error::NotSought`] before the first seek; [`Error::Denied`] and
    /// [`Error::Unavailable`] when the broker gives no records for a reason that may pass;
    /// [`Error::Unreadable`] when somebody has to look at the log.
    pub async fn next_batch(&mut self, limits: BatchLimits) -> Result<Vec<RawRecord>, Error> {
        self.finish_all();
        let wait = if self.denied { limits.wait.max(DENIED_AGAIN) } else { limits.wait };
        let deadline = Instant::now() + wait;
        loop {
            // Armed anew each time, because dropping an older queue of the same partition
            // disarms ours; and before looking, so that nothing slips in between.
            self.arm();
            let mut place = self.memory.enter().await;
            let batch = self.take(&limits, place.as_mut())?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !batch.is_empty() || left.is_zero() {
                self.denied = false;
                if !batch.is_empty() {
                    self.places.push_back(place);
                }
                return Ok(batch);
            }
            drop(place);
            // Woken or not, the queue is looked at next.
            timeout(left.min(LONGEST_SLEEP), self.slot.wake.notified()).await.ok();
        }
    }

    /// Takes what is there now, within `limits`, behind the batch that was given out before and
    /// is not finished. Gives nothing where there is no room for a second batch, and keeps an
    /// error for the next time.
    pub fn next_batch_ahead(&mut self, limits: BatchLimits) -> Vec<RawRecord> {
        let Some(mut place) = self.memory.try_enter() else { return Vec::new() };
        match self.take(&limits, Some(&mut place)) {
            Ok(batch) => {
                if !batch.is_empty() {
                    self.places.push_back(Some(place));
                }
                batch
            }
            Err(error) => {
                self.failed.get_or_insert(error);
                Vec::new()
            }
        }
    }

    /// The records of the oldest batch are gone: their memory is free for other partitions.
    pub fn finish_batch(&mut self) {
        self.places.pop_front();
    }

    /// The records of every batch are gone.
    pub fn finish_all(&mut self) {
        self.places.clear();
    }

    fn arm(&mut self) {
        let slot = self.slot.clone();
        self.queue.set_nonempty_callback(Box::new(move || slot.wake.notify_one()));
    }

    fn take(
        &mut self,
        limits: &BatchLimits,
        mut place: Option<&mut Place>,
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

    /// Whether we may read at all; forgets what was taken before the latest seek.
    fn check(&mut self) -> Result<(), Error> {
        let partition = || self.slot.partition.clone();
        if self.slot.reader.load(Ordering::Acquire) != self.reader {
            return Err(Error::Revoked { partition: partition() });
        }
        let seek = self.slot.seeks.load(Ordering::Acquire);
        if seek == 0 {
            return Err(Error::NotSought { partition: partition() });
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
                Some(Ok(message)) if message.offset() < self.floor => {}
                Some(Ok(message)) => {
                    self.end = None;
                    return Ok(Some(self.record(&message)));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => self.end = END.take(),
                Some(Err(error)) => {
                    let judged = self.judge(error);
                    self.denied |= matches!(judged, Err(Error::Denied(_)));
                    judged?;
                }
            }
        }
    }

    fn record(&self, message: &BorrowedMessage<'_>) -> RawRecord {
        RawRecord {
            topic: self.slot.partition.topic.clone(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers_of(message),
        }
    }

    /// Tells what the reader must know from what librdkafka heals by itself.
    fn judge(&self, error: KafkaError) -> Result<(), Error> {
        let partition = &self.slot.partition;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
                return Err(Error::OffsetLost { partition: partition.clone() });
            }
            Some(Code::TopicAuthorizationFailed) => {
                let topic = &partition.topic;
                return Err(Error::Denied(format!(
                    "we may not read topic {topic}: allow READ on it"
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
            .field("floor", &self.floor)
            .finish_non_exhaustive()
    }
}

fn headers_of(message: &BorrowedMessage<'_>) -> Vec<(String, Option<Vec<u8>>)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    (0..headers.count())
        .map(|at| {
            // rdkafka panics on a header name that is not UTF-8. Any producer can send one,
            // and without this it would stop its partition for good.
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
    fn the_end_is_read_from_the_words_that_come_with_it() {
        let words =
            "Fetch from broker 1 reached end of partition at offset 502 (HighwaterMark 503)";
        assert_eq!(end_of(words), Some(LogEnd { stable: 502, high: 503 }));
        for other in ["", "end of partition at offset x (HighwaterMark 5)", "at offset 3"] {
            assert_eq!(end_of(other), None, "{other}");
        }
    }
}
