//! The producer: idempotent, and a send is done when the broker has it for good.
//!
//! A broker takes or refuses whole batches, so a record that is refused may only have been in
//! bad company: it is sent once more, alone, before it is called refused.

mod delivery;
mod room;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::Producer as _;
use tracing::{debug, warn};

use self::delivery::{Client, Deliveries, Failure, deliver, enqueue};
use self::room::Room;
use super::error::{is_denial, is_refusal};
use super::reach::Reach;
use super::reason::reason;
use super::{BrokerState, Error, KafkaIngestConfig};

/// The wait before it is asked whether a trouble is over, doubling up to the second, and the
/// longest wait for the answer.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// What a new client needs to find out that it has no right to send anything.
const PROBATION: Duration = Duration::from_secs(5);

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

struct Shared {
    config: ClientConfig,
    /// What may be on its way at once of records that are made when there is room for them.
    room: Room,
    /// Topics that take no record without a key, as those do that are compacted.
    keyed: Mutex<HashSet<String>>,
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
        if !self.shared.travels_alone(&outgoing) {
            match deliver(&client, &outgoing).await {
                Err(failure) if failure.may_be_its_batch() => {}
                sent => return sent.map_err(|failure| self.judge(&client, failure, &outgoing)),
            }
        }
        let lone = self.shared.lone()?;
        let sent = deliver(&lone, &outgoing).await;
        self.answer_alone(&lone, sent, &outgoing)
    }

    /// Sends the record that `make` gives, once there is room for `bytes` of it among those
    /// that are sent like this. So what many senders have made at once is bounded.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_when_there_is_room(
        &self,
        bytes: usize,
        make: impl FnOnce() -> Outgoing,
    ) -> Result<(), Error> {
        let _place = self.shared.room.enter(bytes).await;
        self.send(make()).await
    }

    /// Sends records in this order, all at once; an answer for each, as [`send`](Self::send)
    /// gives it. Those that have to be sent alone come after the others.
    pub async fn send_all(&self, outgoing: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        let client = self.client();
        let mut under_way = Vec::with_capacity(outgoing.len());
        for record in &outgoing {
            // One after another: a full queue must not change their order.
            under_way.push(match self.shared.travels_alone(record) {
                true => None,
                false => Some(enqueue(&client, record).await),
            });
        }
        let mut answers = Vec::with_capacity(outgoing.len());
        let mut alone = Vec::new();
        for (at, (record, receipt)) in outgoing.iter().zip(under_way).enumerate() {
            let sent = match receipt {
                Some(Ok(receipt)) => Some(receipt.answer().await),
                Some(Err(failure)) => Some(Err(failure)),
                None => None,
            };
            let sent = sent.filter(|sent| !matches!(sent, Err(why) if why.may_be_its_batch()));
            if sent.is_none() {
                alone.push(at);
            }
            // What is sent alone has its answer below.
            let sent = sent.unwrap_or(Ok(()));
            answers.push(sent.map_err(|failure| self.judge(&client, failure, record)));
        }
        if !alone.is_empty() {
            self.send_each_alone(&outgoing, &alone, &mut answers).await;
        }
        answers
    }

    /// Sends the records at these places, each in a batch of its own.
    async fn send_each_alone(
        &self,
        outgoing: &[Outgoing],
        places: &[usize],
        answers: &mut [Result<(), Error>],
    ) {
        let lone = match self.shared.lone() {
            Ok(lone) => lone,
            Err(error) => return places.iter().for_each(|at| answers[*at] = Err(error.clone())),
        };
        let mut under_way = Vec::with_capacity(places.len());
        for at in places {
            under_way.push(enqueue(&lone, &outgoing[*at]).await);
        }
        for (at, receipt) in places.iter().zip(under_way) {
            let sent = match receipt {
                Ok(receipt) => receipt.answer().await,
                Err(failure) => Err(failure),
            };
            answers[*at] = self.answer_alone(&lone, sent, &outgoing[*at]);
        }
    }

    /// What the answer to a record that was sent alone means, and what it shows of its topic.
    fn answer_alone(
        &self,
        lone: &Arc<Client>,
        sent: Result<(), Failure>,
        outgoing: &Outgoing,
    ) -> Result<(), Error> {
        if outgoing.key.is_none() {
            match &sent {
                Ok(()) => self.shared.wants_keys(&outgoing.topic, false),
                Err(failure) if failure.code() == Some(Code::InvalidRecord) => {
                    self.shared.wants_keys(&outgoing.topic, true);
                }
                Err(_) => {}
            }
        }
        sent.map_err(|failure| self.judge(lone, failure, outgoing))
    }

    /// Says that `topic` takes no record without a key, or takes them: where it does not,
    /// those are sent alone, since others would be refused with them.
    pub fn set_wants_keys(&self, topic: &str, wants: bool) {
        self.shared.wants_keys(topic, wants);
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

    /// The names of all topics that the cluster shows, and how many partitions each has.
    pub(super) async fn topics(&self, patience: Duration) -> Result<Vec<(String, usize)>, Error> {
        let client = self.client();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = client.client().fetch_metadata(None, patience);
            metadata.map_err(|error| client.context().reach().explain(error.into()))
        });
        let metadata = asked.await.map_err(|error| Error::Unavailable(error.to_string()))??;
        let is_there =
            |topic: &&MetadataTopic| topic.error().is_none() && !topic.partitions().is_empty();
        let shown = |topic: &MetadataTopic| (topic.name().to_owned(), topic.partitions().len());
        Ok(metadata.topics().iter().filter(is_there).map(shown).collect())
    }

    fn client(&self) -> Arc<Client> {
        self.shared.client()
    }

    fn judge(&self, client: &Arc<Client>, failure: Failure, outgoing: &Outgoing) -> Error {
        let topic = || outgoing.topic.clone();
        let refused = |reason: &str| Error::Refused { topic: topic(), reason: reason.to_owned() };
        let error = match failure {
            Failure::Here(error)
                if error.rdkafka_error_code() == Some(Code::MessageSizeTooLarge) =>
            {
                let most = self.shared.config.get("message.max.bytes").unwrap_or_default();
                return refused(&format!(
                    "it is larger than \"message.max.bytes\" in kafka.properties allows ({most}): \
                     raise that"
                ));
            }
            Failure::Here(error) | Failure::There(error) => error,
        };
        match error.rdkafka_error_code() {
            Some(Code::InvalidTimestamp) => Error::Unavailable(format!(
                "topic {} does not take the time of our records: compare this machine's clock with \
                 the broker's, or widen message.timestamp.before.max.ms and \
                 message.timestamp.after.max.ms of the topic",
                outgoing.topic
            )),
            Some(Code::InvalidRecord) if outgoing.key.is_none() => refused(
                "it has no key, and a topic that is compacted takes none without one: set its \
                 cleanup.policy to delete, or name another topic",
            ),
            Some(code @ (Code::MessageSizeTooLarge | Code::MessageBatchTooLarge)) => {
                refused(&format!("{code}: raise max.message.bytes of the topic"))
            }
            Some(code) if is_refusal(code) => refused(&code.to_string()),
            Some(Code::TopicAuthorizationFailed) => Error::Denied(format!(
                "we may not write to topic {}: allow WRITE and DESCRIBE on it",
                outgoing.topic
            )),
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
                Error::Unavailable(format!("topic {} does not exist: make it", outgoing.topic))
            }
            Some(Code::Fatal) => self.shared.replace(client),
            _ => match error {
                KafkaError::Nul(_) => refused("the topic's name has a zero byte"),
                error => self.shared.reach.explain(error.into()),
            },
        }
    }
}

impl Shared {
    fn start(config: ClientConfig, reach: Reach) -> Result<Arc<Self>, Error> {
        let reach = Arc::new(reach);
        let client = RwLock::new(Arc::new(connect(&config, &reach)?));
        let (room, keyed, lone) = (Room::new(), Mutex::default(), OnceLock::new());
        Ok(Arc::new(Self { config, room, keyed, reach, client, lone }))
    }

    /// Whether this record would make others be refused with it.
    fn travels_alone(&self, outgoing: &Outgoing) -> bool {
        outgoing.key.is_none() && self.keyed().contains(&outgoing.topic)
    }

    fn wants_keys(&self, topic: &str, wants: bool) {
        let mut keyed = self.keyed();
        if !wants {
            keyed.remove(topic);
        } else if !keyed.contains(topic) {
            keyed.insert(topic.to_owned());
        }
    }

    fn keyed(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.keyed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client that sends each record in a batch of its own.
    fn lone(&self) -> Result<Arc<Client>, Error> {
        if let Some(client) = self.lone.get() {
            return Ok(client.clone());
        }
        let mut config = self.config.clone();
        // Without idempotence there is no fatal error that it would have to be replaced for;
        // with one request at a time the order stays.
        config.set("batch.num.messages", "1").set("enable.idempotence", "false");
        config.set("max.in.flight.requests.per.connection", "1");
        let made = Arc::new(connect(&config, &self.reach)?);
        Ok(self.lone.get_or_init(|| made).clone())
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
    if client.context().age() < PROBATION {
        return true;
    }
    // All topics are listed: asking for one by its name may make it.
    if client.client().fetch_metadata(None, ANSWER_PATIENCE).is_err() {
        shared.reach.unanswered();
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
    Ok(Client::new(config.create_with_context(Deliveries::new(reach.clone()))?))
}
