//! One record passed to librdkafka, and its delivery report.

use std::ops::Deref;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;
use tracing::{debug, trace};

use super::super::client_log;
use super::super::connectivity::Connectivity;
use super::super::error::may_be_its_batch;
use super::Outgoing;

/// How long a sender waits before it retries after the local queue was full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

/// How long closing a client may take.
const CLOSE_PATIENCE: Duration = Duration::from_millis(300);

/// A client of librdkafka with the thread that serves its callbacks. It is dropped in bounded
/// time: rdkafka's destructor joins that thread, which waits by the wall clock, and the clock may
/// be set back meanwhile.
pub(super) struct Client(Option<ThreadedProducer<Deliveries>>);

impl Client {
    pub(super) fn new(client: ThreadedProducer<Deliveries>) -> Self {
        Self(Some(client))
    }
}

impl Deref for Client {
    type Target = ThreadedProducer<Deliveries>;

    fn deref(&self) -> &Self::Target {
        let Some(client) = &self.0 else { unreachable!("only its destructor takes it") };
        client
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let client = self.0.take();
        let (close, closed) = mpsc::channel();
        let closing =
            thread::Builder::new().name("kafka-producer-close".to_owned()).spawn(move || {
                drop(client);
                close.send(()).ok();
            });
        if closing.is_ok() && closed.recv_timeout(CLOSE_PATIENCE).is_err() {
            debug!("a kafka producer is slow to close: it closes in the background");
        }
    }
}

type Answer = Result<(), KafkaError>;

/// Why a record was not accepted, by the side that refused it.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client: nothing was sent.
    AtClient(KafkaError),
    /// The broker, or no broker could be reached.
    AtBroker(KafkaError),
}

impl Failure {
    pub(super) fn code(&self) -> Option<Code> {
        let (Self::AtClient(error) | Self::AtBroker(error)) = self;
        error.rdkafka_error_code()
    }

    /// Whether the record may be accepted in a batch of its own.
    pub(super) fn may_be_its_batch(&self) -> bool {
        matches!(self, Self::AtBroker(_)) && self.code().is_some_and(may_be_its_batch)
    }
}

/// A future of a record's delivery report.
#[derive(Debug)]
pub(super) struct Receipt(oneshot::Receiver<Answer>);

impl Receipt {
    pub(super) async fn answer(self) -> Result<(), Failure> {
        self.0.await.unwrap_or(Err(KafkaError::Canceled)).map_err(Failure::AtBroker)
    }
}

/// Sends a record and waits for the answer.
pub(super) async fn deliver(client: &Client, outgoing: &Outgoing) -> Result<(), Failure> {
    enqueue(client, outgoing).await?.answer().await
}

/// Passes a record to the client, which copies it; waits while its queue is full.
pub(super) async fn enqueue(client: &Client, outgoing: &Outgoing) -> Result<Receipt, Failure> {
    let (sender, receiver) = oneshot::channel();
    let mut record = BaseRecord {
        topic: &outgoing.topic,
        partition: None,
        payload: outgoing.value.as_deref(),
        key: outgoing.key.as_deref(),
        timestamp: None,
        headers: headers_of(outgoing),
        delivery_opaque: Box::new(sender),
    };
    loop {
        match client.send(record) {
            Ok(()) => return Ok(Receipt(receiver)),
            Err((error, back)) if error.rdkafka_error_code() == Some(Code::QueueFull) => {
                record = back;
                tokio::time::sleep(QUEUE_FULL_PAUSE).await;
            }
            Err((error, _)) => return Err(Failure::AtClient(error)),
        }
    }
}

fn headers_of(outgoing: &Outgoing) -> Option<OwnedHeaders> {
    if outgoing.headers.is_empty() {
        return None;
    }
    let headers = OwnedHeaders::new_with_capacity(outgoing.headers.len());
    Some(outgoing.headers.iter().fold(headers, |headers, (key, value)| {
        headers.insert(Header { key, value: value.as_ref() })
    }))
}

/// Passes each delivery report to its sender, on the producer's own thread.
#[derive(Debug)]
pub(super) struct Deliveries {
    connectivity: Arc<Connectivity>,
    born: Instant,
}

impl Deliveries {
    pub(super) fn new(connectivity: Arc<Connectivity>) -> Self {
        Self { connectivity, born: Instant::now() }
    }

    pub(super) fn connectivity(&self) -> &Connectivity {
        &self.connectivity
    }

    /// How long the client has existed.
    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log::log(&self.connectivity, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.connectivity.failed(code, reason);
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Answer>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        let outcome = match result {
            Ok(_) => {
                self.connectivity.served();
                Ok(())
            }
            Err((error, _)) => Err(error.clone()),
        };
        if sender.send(outcome).is_err() {
            trace!("the sender no longer waits for this delivery");
        }
    }
}
