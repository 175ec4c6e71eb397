//! The producer: idempotent, and a send is done when the broker has it for good.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, RwLock, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;
use tracing::{debug, trace, warn};

use super::error::{is_denial, is_refusal};
use super::reach::Reach;
use super::reason::reason;
use super::{BrokerState, Error, KafkaIngestConfig, rebalance};

/// How often a sender looks whether the full local queue has room again.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

/// The wait before it is asked whether a trouble is over, doubling up to the second, and the
/// longest wait for the answer.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// What a new client needs to find out that it has no right to send anything.
const PROBATION: Duration = Duration::from_secs(5);

/// What closing a client may take.
const CLOSE_PATIENCE: Duration = Duration::from_millis(300);

/// A record on its way to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub topic: String,
    /// Decides the partition; without one, any.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is Kafka's null value.
    pub value: Option<Vec<u8>>,
    /// The record headers in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Sends records to topics; clones share one connection.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

/// A client that is closed in bounded time: its destructor joins the thread that polls, and that
/// one waits by the machine's wall clock, which may be set back meanwhile.
struct Client(Option<ThreadedProducer<Deliveries>>);

impl Deref for Client {
    type Target = ThreadedProducer<Deliveries>;

    fn deref(&self) -> &Self::Target {
        let Some(client) = &self.0 else { unreachable!("only its destructor takes it away") };
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
            debug!("a kafka producer is slow to close: it is left to itself");
        }
    }
}

type Receipt = oneshot::Sender<Result<(), KafkaError>>;

struct Shared {
    config: ClientConfig,
    /// What all the clients have found out, each after the other.
    reach: Arc<Reach>,
    /// Replaced when an idempotent producer has met an error that it cannot get over.
    client: RwLock<Arc<Client>>,
    /// Sends each record in a batch of its own; made when it is first needed.
    lone: OnceLock<Arc<Client>>,
}

impl Producer {
    /// A producer for the cluster of `config`. A broker that is away is no error.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that librdkafka refuses.
    pub fn start(config: &KafkaIngestConfig) -> Result<Self, Error> {
        Self::watched(config.to_producer_config(), "producer")
    }

    /// The same, for records whose order matters more than their time: a record is never
    /// given up because its broker is away, so that none behind it is taken before it.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_patient(config: &KafkaIngestConfig) -> Result<Self, Error> {
        let mut config = config.to_producer_config();
        // Zero is without end.
        config.set("message.timeout.ms", "0");
        Self::watched(config, "patient producer")
    }

    fn watched(config: ClientConfig, client: &'static str) -> Result<Self, Error> {
        let shared = Shared::start(config, Reach::new(client))?;
        // Nothing may be sent for hours, and the end of a trouble must show all the same.
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("kafka-producer-watch".to_owned())
            .spawn(move || watch(&weak))
            .map_err(|error| Error::Unavailable(format!("no thread to watch on: {error}")))?;
        Ok(Self { shared })
    }

    /// One that asks and sends nothing, so that it needs no right to write. What it meets is
    /// told by whoever asks.
    pub(super) fn inquirer(config: &KafkaIngestConfig) -> Result<Self, Error> {
        let mut config = config.to_producer_config();
        config.set("enable.idempotence", "false");
        Ok(Self { shared: Shared::start(config, Reach::untold())? })
    }

    /// Sends a record, and returns once every in-sync replica has it.
    ///
    /// A full local queue is waited for. A future that is dropped midway does not recall
    /// its record. Sends of one task in a row keep their order; concurrent ones have none.
    ///
    /// # Errors
    /// [`Error::Refused`] if this record can never be sent; [`Error::Unavailable`] and
    /// [`Error::Denied`] if it may be, later: the broker *may* have it all the same.
    pub async fn send(&self, outgoing: Outgoing) -> Result<(), Error> {
        let client = self.client();
        let sent = deliver(&client, &outgoing).await;
        self.answer(&client, sent, outgoing).await
    }

    /// Sends records in this order, all at once; an answer for each, as [`send`](Self::send)
    /// gives it.
    pub async fn send_all(&self, outgoing: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        let client = self.client();
        let mut under_way = Vec::with_capacity(outgoing.len());
        for record in &outgoing {
            // One after another: a full queue must not change their order.
            under_way.push(enqueue(&client, record).await);
        }
        let mut answers = Vec::with_capacity(outgoing.len());
        for (record, receipt) in outgoing.into_iter().zip(under_way) {
            let answer = match receipt {
                Ok(receipt) => receipt.await.unwrap_or(Err(KafkaError::Canceled)),
                Err(error) => Err(error),
            };
            answers.push(self.answer(&client, answer, record).await);
        }
        answers
    }

    async fn answer(
        &self,
        client: &Arc<Client>,
        answer: Result<(), KafkaError>,
        outgoing: Outgoing,
    ) -> Result<(), Error> {
        match answer {
            // A broker measures whole batches, and librdkafka does not divide what it
            // refuses: the record may only have been in large company.
            Err(error) if error.rdkafka_error_code() == Some(Code::MessageSizeTooLarge) => {
                self.send_alone(outgoing).await
            }
            sent => sent.map_err(|error| self.judge(client, error, outgoing.topic)),
        }
    }

    async fn send_alone(&self, outgoing: Outgoing) -> Result<(), Error> {
        let client = match self.shared.lone.get() {
            Some(client) => client.clone(),
            None => {
                let mut config = self.shared.config.clone();
                // Without idempotence there is no fatal error that it would have to be
                // replaced for; with one request at a time the order stays.
                config.set("batch.num.messages", "1").set("enable.idempotence", "false");
                config.set("max.in.flight.requests.per.connection", "1");
                let made = Arc::new(connect(&config, &self.shared.reach)?);
                self.shared.lone.get_or_init(|| made).clone()
            }
        };
        let sent = deliver(&client, &outgoing).await;
        sent.map_err(|error| self.judge(&client, error, outgoing.topic))
    }

    /// Waits until everything that was sent has been answered.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that takes longer than `patience`.
    pub async fn flush(&self, patience: Duration) -> Result<(), Error> {
        let client = self.client();
        let flushed = tokio::task::spawn_blocking(move || client.flush(patience)).await;
        Ok(flushed.map_err(|error| Error::Unavailable(error.to_string()))??)
    }

    /// How the producer stands with its broker, for health checks.
    pub fn state(&self) -> BrokerState {
        self.shared.reach.state()
    }

    /// The names of all topics that the cluster shows with a leader to write to.
    pub(super) async fn topics(&self, patience: Duration) -> Result<Vec<String>, Error> {
        let client = self.client();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = client.client().fetch_metadata(None, patience);
            metadata.map_err(|error| client.context().reach.explain(error.into()))
        });
        let metadata = asked.await.map_err(|error| Error::Unavailable(error.to_string()))??;
        let is_there =
            |topic: &&MetadataTopic| topic.error().is_none() && !topic.partitions().is_empty();
        Ok(metadata.topics().iter().filter(is_there).map(|t| t.name().to_owned()).collect())
    }

    fn client(&self) -> Arc<Client> {
        self.shared.client()
    }

    fn judge(&self, client: &Arc<Client>, error: KafkaError, topic: String) -> Error {
        match error.rdkafka_error_code() {
            Some(code) if is_refusal(code) => Error::Refused { topic, reason: code.to_string() },
            Some(Code::TopicAuthorizationFailed) => Error::Denied(format!(
                "we may not write to topic {topic}: allow WRITE and DESCRIBE on it"
            )),
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
                Error::Unavailable(format!("topic {topic} does not exist: make it"))
            }
            Some(Code::Fatal) => self.shared.replace(client),
            _ => match error {
                KafkaError::Nul(_) => {
                    Error::Refused { topic, reason: "the topic's name has a zero byte".to_owned() }
                }
                error => self.shared.reach.explain(error.into()),
            },
        }
    }
}

impl Shared {
    fn start(config: ClientConfig, reach: Reach) -> Result<Arc<Self>, Error> {
        let reach = Arc::new(reach);
        let client = RwLock::new(Arc::new(connect(&config, &reach)?));
        Ok(Arc::new(Self { config, reach, client, lone: OnceLock::new() }))
    }

    fn client(&self) -> Arc<Client> {
        self.client.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Puts a new client in the place of `broken`, unless somebody else has done so, and
    /// gives back what broke it.
    fn replace(&self, broken: &Arc<Client>) -> Error {
        let cause = match broken.client().fatal_error() {
            Some((code, words)) if is_denial(code) => Error::Denied(reason(&words)),
            Some((_, words)) => Error::Unavailable(reason(&words)),
            None => Error::Unavailable("a fatal error".to_owned()),
        };
        let mut current = self.client.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !Arc::ptr_eq(&current, broken) {
            return cause;
        }
        match connect(&self.config, &self.reach) {
            Ok(client) => *current = Arc::new(client),
            Err(error) => warn!("the kafka producer could not be replaced: {error}"),
        }
        // A right that is missing was told, and breaks each client until it is given.
        match &cause {
            Error::Denied(_) => debug!("the kafka producer is replaced: {cause}"),
            _ => warn!("the kafka producer met a fatal error and is replaced: {cause}"),
        }
        cause
    }
}

/// Asks, for as long as something is wrong, whether it still is. A client that a fatal error
/// has ended is replaced: the next one may meet it no more.
fn watch(shared: &Weak<Shared>) {
    let mut wait = ASK_AGAIN.0;
    loop {
        thread::sleep(wait);
        let Some(shared) = shared.upgrade() else { return };
        wait = match still_in_trouble(&shared) {
            true => (wait * 2).min(ASK_AGAIN.1),
            false => ASK_AGAIN.0,
        };
    }
}

fn still_in_trouble(shared: &Shared) -> bool {
    if !shared.reach.is_in_trouble() {
        return false;
    }
    let client = shared.client();
    if client.client().fatal_error().is_some() {
        shared.replace(&client);
        return true;
    }
    if client.context().born.elapsed() < PROBATION {
        return true;
    }
    // All topics are listed: asking for one by its name may make it.
    if client.client().fetch_metadata(None, ANSWER_PATIENCE).is_err() {
        return true;
    }
    shared.reach.served();
    false
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("state", &self.state()).finish_non_exhaustive()
    }
}

fn connect(config: &ClientConfig, reach: &Arc<Reach>) -> Result<Client, Error> {
    let deliveries = Deliveries { reach: reach.clone(), born: Instant::now() };
    Ok(Client(Some(config.create_with_context(deliveries)?)))
}

async fn deliver(client: &Client, outgoing: &Outgoing) -> Result<(), KafkaError> {
    let receipt = enqueue(client, outgoing).await?;
    receipt.await.unwrap_or(Err(KafkaError::Canceled))
}

async fn enqueue(
    client: &Client,
    outgoing: &Outgoing,
) -> Result<oneshot::Receiver<Result<(), KafkaError>>, KafkaError> {
    let (receipt, received) = oneshot::channel();
    let mut record = BaseRecord {
        topic: &outgoing.topic,
        partition: None,
        payload: outgoing.value.as_deref(),
        key: outgoing.key.as_deref(),
        timestamp: None,
        headers: headers_of(outgoing),
        delivery_opaque: Box::new(receipt),
    };
    loop {
        match client.send(record) {
            Ok(()) => return Ok(received),
            Err((error, back)) if error.rdkafka_error_code() == Some(Code::QueueFull) => {
                record = back;
                tokio::time::sleep(QUEUE_FULL_PAUSE).await;
            }
            Err((error, _)) => return Err(error),
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

/// Hands each record's fate to who waits for it, on the producer's own thread.
struct Deliveries {
    reach: Arc<Reach>,
    born: Instant,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        rebalance::log(&self.reach, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.reach.failed(code, reason);
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Receipt>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Box<Receipt>) {
        let outcome = match result {
            Ok(_) => {
                self.reach.served();
                Ok(())
            }
            Err((error, _)) => Err(error.clone()),
        };
        if receipt.send(outcome).is_err() {
            trace!("nobody waits for this delivery any more");
        }
    }
}
