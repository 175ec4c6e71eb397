//! One member of the consumer group, polled by an OS thread of its own: it joins, is replaced
//! after an error that it cannot get over, and leaves.
//!
//! Rebalance callbacks run on the thread that polls, and the whole group waits for them; on
//! a worker that is shared with other tasks, members would be thrown out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::{debug, error, warn};

use super::memory::RecordMemory;
use super::reach::Reach;
use super::rebalance::{Assignments, Consumer, Rebalancer};
use super::{Error, KafkaIngestConfig};

/// How soon the poll thread notices that it should end.
const POLL: Duration = Duration::from_millis(100);
/// How often a broker that was not there is asked again, and how long its answer may take.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);
/// How long readers and broker may take at the end: to give the partitions back, and to answer
/// that we have left.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a rebalance may take to end before the member leaves all the same. The group waits
/// for its slowest member, which may never answer.
const REBALANCE_PATIENCE: Duration = Duration::from_secs(3);
/// The wait before a consumer is replaced, doubling up to the second.
const REPLACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A consumer that has lived this long was not replaced in vain. Two members that throw each
/// other out take turns within it.
const SETTLED: Duration = Duration::from_secs(70);

/// The consumer of the moment, for all who ask it something.
pub(super) struct Current {
    /// Whether the broker can be reached, over all consumers one after the other.
    pub(super) reach: Arc<Reach>,
    /// The poll thread and the queues own the client, so that it is closed by them.
    consumer: Mutex<Weak<Consumer>>,
}

impl Current {
    /// The consumer, unless it has ended or is being replaced.
    pub(super) fn consumer(&self) -> Option<Arc<Consumer>> {
        self.lock().upgrade()
    }

    fn set(&self, consumer: &Arc<Consumer>) {
        *self.lock() = Arc::downgrade(consumer);
    }

    fn lock(&self) -> MutexGuard<'_, Weak<Consumer>> {
        self.consumer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the poll thread has: its consumer, and all that another one is made of.
pub(super) struct Member {
    config: ClientConfig,
    topics: Vec<String>,
    assignments: Arc<dyn Assignments>,
    memory: Arc<RecordMemory>,
    stop: Arc<AtomicBool>,
    current: Arc<Current>,
    consumer: Arc<Consumer>,
}

impl Member {
    /// Makes the first consumer and subscribes it.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that librdkafka refuses.
    pub(super) fn join(
        config: &KafkaIngestConfig,
        lease: Duration,
        partitions: usize,
        assignments: Arc<dyn Assignments>,
        stop: Arc<AtomicBool>,
    ) -> Result<(Self, Arc<Current>), Error> {
        let reach = Arc::new(Reach::of_group("consumer", config));
        let current = Arc::new(Current { reach, consumer: Mutex::default() });
        let topics = config.topics.clone();
        let memory = Arc::new(RecordMemory::new(config.memory_for_batches()));
        let config = config.to_member_config(lease, partitions);
        let consumer = subscribe(&config, &topics, &assignments, &memory, &current)?;
        let shared = current.clone();
        Ok((Self { config, topics, assignments, memory, stop, current, consumer }, shared))
    }

    /// Polls until it is told to stop, then leaves the group.
    pub(super) fn run(mut self) {
        let mut wait = REPLACE.0;
        loop {
            let joined = Instant::now();
            let Err((code, words)) = self.poll_until_stopped() else { break };
            if joined.elapsed() > SETTLED {
                wait = REPLACE.0;
            }
            self.current.reach.ended(code, &words, wait);
            // librdkafka has given up the partitions without a word to us.
            self.consumer.context().give_up();
            if !self.replace(&mut wait) {
                return;
            }
        }
        leave(&self.consumer);
    }

    /// The error is fatal: librdkafka does nothing any more.
    fn poll_until_stopped(&self) -> Result<(), (Code, String)> {
        let Self { consumer, current, stop, .. } = self;
        let joined = Instant::now();
        let probe_topic = self.topics.first().map_or("", String::as_str);
        let mut probed: Option<Instant> = None;
        while !stop.load(Ordering::Acquire) {
            poll(consumer);
            if let Some(fatal) = consumer.client().fatal_error() {
                return Err(fatal);
            }
            if joined.elapsed() > SETTLED {
                current.reach.settled();
            }
            let due = probed.is_none_or(|at| at.elapsed() >= PROBE_EVERY);
            if due && current.reach.is_in_doubt() {
                probe(consumer, probe_topic);
                probed = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// False if it was told to stop meanwhile.
    fn replace(&mut self, wait: &mut Duration) -> bool {
        loop {
            let until = Instant::now() + wait.mul_f64(0.75 + fastrand::f64() / 4.0);
            while Instant::now() < until {
                if self.stop.load(Ordering::Acquire) {
                    return false;
                }
                thread::sleep(POLL.min(until.saturating_duration_since(Instant::now())));
            }
            *wait = (*wait * 2).min(REPLACE.1);
            let Self { config, topics, assignments, memory, current, .. } = &*self;
            match subscribe(config, topics, assignments, memory, current) {
                Ok(consumer) => {
                    self.consumer = consumer;
                    return true;
                }
                Err(error) => warn!("the consumer cannot be replaced yet: {error}"),
            }
        }
    }
}

fn subscribe(
    config: &ClientConfig,
    topics: &[String],
    assignments: &Arc<dyn Assignments>,
    memory: &Arc<RecordMemory>,
    current: &Current,
) -> Result<Arc<Consumer>, Error> {
    let rebalancer = Rebalancer::new(assignments.clone(), current.reach.clone(), memory.clone());
    let consumer: Consumer = config.create_with_context(rebalancer)?;
    let consumer = Arc::new(consumer);
    consumer.context().set_consumer(&consumer);
    current.set(&consumer);
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(|error| Error::Config(error.to_string()))?;
    Ok(consumer)
}

/// Leaves the group, so that others have our partitions at once, and closes the client.
///
/// librdkafka sends `LeaveGroup` when the last partition is unassigned. A close that comes while
/// a rebalance unassigns the last ones, or to a member that has none, forgets it, and then
/// the group waits for the end of our session: such a member unsubscribes before it closes.
fn leave(consumer: &Consumer) {
    let rebalancer = consumer.context();
    let began = Instant::now();
    let deadline = began + LEAVE_PATIENCE;
    let rebalanced = began + REBALANCE_PATIENCE;
    while rebalancer.is_half_done() && Instant::now() < rebalanced {
        poll(consumer);
    }
    if rebalancer.is_idle() {
        rebalancer.close();
        consumer.unsubscribe();
        // The next report may have been made before.
        let (seen, _) = rebalancer.membership();
        let is_member = || {
            let (reports, outside) = rebalancer.membership();
            !outside || reports < seen + 2
        };
        while is_member() && Instant::now() < rebalanced {
            poll(consumer);
        }
    }
    rebalancer.close();
    if let Err(error) = consumer.close_queue() {
        warn!("the consumer cannot be closed: {error}");
        return;
    }
    while !consumer.closed() {
        if Instant::now() > deadline {
            warn!("the broker does not answer that we have left the group");
            return;
        }
        poll(consumer);
    }
    debug!(ms = began.elapsed().as_millis() as u64, "the consumer has left its group");
}

/// Serves callbacks. Errors among them have been told to `Reach` by then.
fn poll(consumer: &Consumer) {
    if let Some(Ok(message)) = consumer.poll(POLL) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        error!(topic, partition, offset, "a record came past its partition's queue");
    }
}

fn probe(consumer: &Consumer, topic: &str) {
    let reach = &consumer.context().reach;
    match consumer.fetch_metadata(Some(topic), PROBE_PATIENCE) {
        Ok(_) => reach.answered(),
        Err(_) => reach.unanswered(),
    }
}
