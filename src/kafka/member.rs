//! A member of the consumer group, polled by an OS thread of its own: its consumer joins, is
//! replaced after a fatal error, and leaves.
//!
//! Rebalance callbacks run on the thread that polls, and the whole group waits for them. On a
//! worker thread shared with other tasks they could be late, and the group would exclude the
//! member.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::{debug, error, warn};

use super::connectivity::Connectivity;
use super::memory::RecordMemory;
use super::rebalance::{Assignments, Consumer, Rebalancer};
use super::{Error, KafkaIngestConfig};

/// The longest wait of one poll: after it the thread sees that it should stop.
const POLL: Duration = Duration::from_millis(100);
/// How often an unavailable broker is probed, and how long its answer may take.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);
/// How long leaving the group may take: readers stop, and the broker confirms.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the member waits, before it leaves, for a rebalance to end. A rebalance waits for the
/// slowest member, which may never answer.
const REBALANCE_PATIENCE: Duration = Duration::from_secs(3);
/// The wait before a consumer is replaced; it doubles each time, up to the maximum.
const FIRST_REPLACE_WAIT: Duration = Duration::from_secs(1);
const MAX_REPLACE_WAIT: Duration = Duration::from_secs(30);
/// A consumer that has run for this long counts as healthy. It is longer than the period in which
/// two members with one `group.instance.id` fence each other out in turn.
const HEALTHY_AFTER: Duration = Duration::from_secs(70);

/// The current consumer, shared with the [`Intake`](super::Intake).
pub(super) struct CurrentConsumer {
    /// Whether the broker can be reached; kept when the consumer is replaced.
    pub(super) connectivity: Arc<Connectivity>,
    /// The poll thread and the queues own the consumer, so that the last of them closes it.
    consumer: Mutex<Weak<Consumer>>,
}

impl CurrentConsumer {
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

/// The state of the poll thread: its consumer, and what is needed to create another one.
pub(super) struct Member {
    config: ClientConfig,
    topics: Vec<String>,
    assignments: Arc<dyn Assignments>,
    memory: Arc<RecordMemory>,
    stop: Arc<AtomicBool>,
    current: Arc<CurrentConsumer>,
    consumer: Arc<Consumer>,
}

impl Member {
    /// Creates the first consumer and subscribes it.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that librdkafka refuses.
    pub(super) fn join(
        config: &KafkaIngestConfig,
        lease: Duration,
        partitions: usize,
        assignments: Arc<dyn Assignments>,
        stop: Arc<AtomicBool>,
    ) -> Result<(Self, Arc<CurrentConsumer>), Error> {
        let connectivity = Arc::new(Connectivity::of_group("consumer", config));
        let current = Arc::new(CurrentConsumer { connectivity, consumer: Mutex::default() });
        let topics = config.topics.clone();
        let memory = Arc::new(RecordMemory::new(config.memory_for_batches()));
        let config = config.to_member_config(lease, partitions);
        let consumer = subscribe(&config, &topics, &assignments, &memory, &current)?;
        let shared = current.clone();
        Ok((Self { config, topics, assignments, memory, stop, current, consumer }, shared))
    }

    /// Polls until `stop` is set, then leaves the group.
    pub(super) fn run(mut self) {
        let mut wait = FIRST_REPLACE_WAIT;
        loop {
            let joined = Instant::now();
            let Err((code, message)) = self.poll_until_stopped() else { break };
            if joined.elapsed() > HEALTHY_AFTER {
                wait = FIRST_REPLACE_WAIT;
            }
            self.current.connectivity.ended(code, &message, wait);
            // After a fatal error librdkafka gives up the partitions without calling back.
            self.consumer.context().give_up();
            if !self.replace(&mut wait) {
                return;
            }
        }
        leave(&self.consumer);
    }

    /// Returns a fatal error's code and message: after it the consumer does nothing any more.
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
            if joined.elapsed() > HEALTHY_AFTER {
                current.connectivity.recovered();
            }
            let due = probed.is_none_or(|at| at.elapsed() >= PROBE_EVERY);
            if due && current.connectivity.should_probe() {
                probe(consumer, probe_topic);
                probed = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Waits, then creates the next consumer. False if `stop` was set meanwhile.
    fn replace(&mut self, wait: &mut Duration) -> bool {
        loop {
            let until = Instant::now() + wait.mul_f64(0.75 + fastrand::f64() / 4.0);
            while Instant::now() < until {
                if self.stop.load(Ordering::Acquire) {
                    return false;
                }
                thread::sleep(POLL.min(until.saturating_duration_since(Instant::now())));
            }
            *wait = (*wait * 2).min(MAX_REPLACE_WAIT);
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
    current: &CurrentConsumer,
) -> Result<Arc<Consumer>, Error> {
    let rebalancer =
        Rebalancer::new(assignments.clone(), current.connectivity.clone(), memory.clone());
    let consumer: Consumer = config.create_with_context(rebalancer)?;
    let consumer = Arc::new(consumer);
    consumer.context().set_consumer(&consumer);
    current.set(&consumer);
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(|error| Error::Config(error.to_string()))?;
    Ok(consumer)
}

/// Leaves the group, so that other members get the partitions at once, and closes the client.
///
/// librdkafka sends `LeaveGroup` when the last partition is unassigned. It omits that if it is
/// closed while a rebalance unassigns the last partitions, or when the member has none: the group
/// would then wait for the session timeout. Such a member therefore unsubscribes before it
/// closes.
fn leave(consumer: &Consumer) {
    let rebalancer = consumer.context();
    let began = Instant::now();
    let deadline = began + LEAVE_PATIENCE;
    let rebalanced = began + REBALANCE_PATIENCE;
    while rebalancer.is_rebalancing() && Instant::now() < rebalanced {
        poll(consumer);
    }
    if rebalancer.is_idle() {
        rebalancer.close();
        consumer.unsubscribe();
        // The first statistics that arrive after this may be from before the unsubscribe, so wait
        // for two.
        let seen = rebalancer.membership().reports;
        let is_member = || {
            let membership = rebalancer.membership();
            !membership.has_left || membership.reports < seen + 2
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
            warn!("the broker did not confirm that the consumer has left the group");
            return;
        }
        poll(consumer);
    }
    debug!(ms = began.elapsed().as_millis() as u64, "the consumer has left its group");
}

/// Serves callbacks, which also pass errors to
/// [`Connectivity`](super::connectivity::Connectivity).
fn poll(consumer: &Consumer) {
    if let Some(Ok(message)) = consumer.poll(POLL) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        error!(
            topic,
            partition,
            offset,
            "a record was delivered to the main queue instead of its partition's queue"
        );
    }
}

fn probe(consumer: &Consumer, topic: &str) {
    let connectivity = &consumer.context().connectivity;
    match consumer.fetch_metadata(Some(topic), PROBE_PATIENCE) {
        Ok(_) => connectivity.answered(),
        Err(_) => connectivity.unanswered(),
    }
}
