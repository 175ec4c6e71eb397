//! The producer: idempotent, and a send is complete when every in-sync replica has the record.
//!
//! A broker accepts or refuses whole batches, so a record may be refused because of another one
//! of its batch: it is sent once more, in a batch of its own, before the error is returned.

mod delivery;
mod budget;
mod shared;

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::Producer as _;

use self::delivery::{Client, Failure, deliver, enqueue};
use self::shared::{Shared, watch};
use super::connectivity::Connectivity;
use super::error::is_refusal;
use super::{BrokerState, Error, KafkaIngestConfig};

/// A record to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic.
    pub topic: String,
    /// The key, which determines the partition; without one the client chooses.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is Kafka's null value.
    pub value: Option<Vec<u8>>,
    /// The record headers in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Sends records; clones share one client.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

impl Producer {
    /// A producer for the cluster of `config`. An unavailable broker is no error.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that librdkafka refuses.
    pub fn start(config: &KafkaIngestConfig) -> Result<Self, Error> {
        Self::watched(config.to_producer_config(), "producer")
    }

    /// As [`start`](Self::start), but without a time limit per record: while the broker is
    /// unavailable records wait and keep their order, instead of failing while later ones succeed.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_without_timeout(config: &KafkaIngestConfig) -> Result<Self, Error> {
        let mut config = config.to_producer_config();
        // Zero means no limit.
        config.set("message.timeout.ms", "0");
        Self::watched(config, "patient producer")
    }

    fn watched(config: ClientConfig, client: &'static str) -> Result<Self, Error> {
        let shared = Shared::start(config, Connectivity::new(client))?;
        // Sends would show that a failure is over, but there may be none for hours.
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("kafka-producer-watch".to_owned())
            .spawn(move || watch(&weak))
            .map_err(|error| Error::Unavailable(format!("no thread to watch on: {error}")))?;
        Ok(Self { shared })
    }

    /// A producer that only queries metadata and sends nothing, so that it needs no permission to
    /// write. Its caller reports the errors.
    pub(super) fn metadata_only(config: &KafkaIngestConfig) -> Result<Self, Error> {
        let mut config = config.to_producer_config();
        config.set("enable.idempotence", "false");
        Ok(Self { shared: Shared::start(config, Connectivity::unreported())? })
    }

    /// Sends a record, and returns once every in-sync replica has it.
    ///
    /// Waits while the local queue is full. Dropping the future does not withdraw the record.
    /// Consecutive sends of one task keep their order; concurrent ones have none.
    ///
    /// # Errors
    /// [`Error::Refused`] if this record can never be sent; [`Error::Unavailable`] and
    /// [`Error::Denied`] if it may be sent later: the broker *may* have it nevertheless.
    pub async fn send(&self, outgoing: Outgoing) -> Result<(), Error> {
        let client = self.client();
        if !self.shared.needs_own_batch(&outgoing) {
            match deliver(&client, &outgoing).await {
                Err(failure) if failure.may_be_its_batch() => {}
                sent => return sent.map_err(|failure| self.explain(&client, failure, &outgoing)),
            }
        }
        let unbatched = self.shared.unbatched()?;
        let sent = deliver(&unbatched, &outgoing).await;
        self.answer_alone(&unbatched, sent, &outgoing)
    }

    /// Calls `make` and sends its record, once `bytes` fit into the memory for records that are
    /// sent by this method. So concurrent senders do not create all their records at once.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_within_budget(
        &self,
        bytes: usize,
        make: impl FnOnce() -> Outgoing,
    ) -> Result<(), Error> {
        let _place = self.shared.budget.reserve(bytes).await;
        self.send(make()).await
    }

    /// Sends records in this order without waiting for each; returns a result for each, as
    /// [`send`](Self::send) does. Those that need a batch of their own follow after the others.
    pub async fn send_all(&self, outgoing: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        let client = self.client();
        let mut under_way = Vec::with_capacity(outgoing.len());
        for record in &outgoing {
            // One after another: a full queue must not change their order.
            under_way.push(match self.shared.needs_own_batch(record) {
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
            // The results of records in batches of their own replace this one below.
            let sent = sent.unwrap_or(Ok(()));
            answers.push(sent.map_err(|failure| self.explain(&client, failure, record)));
        }
        if !alone.is_empty() {
            self.send_each_alone(&outgoing, &alone, &mut answers).await;
        }
        answers
    }

    /// Sends the records at these indices, each in a batch of its own.
    async fn send_each_alone(
        &self,
        outgoing: &[Outgoing],
        places: &[usize],
        answers: &mut [Result<(), Error>],
    ) {
        let unbatched = match self.shared.unbatched() {
            Ok(unbatched) => unbatched,
            Err(error) => return places.iter().for_each(|at| answers[*at] = Err(error.clone())),
        };
        let mut under_way = Vec::with_capacity(places.len());
        for at in places {
            under_way.push(enqueue(&unbatched, &outgoing[*at]).await);
        }
        for (at, receipt) in places.iter().zip(under_way) {
            let sent = match receipt {
                Ok(receipt) => receipt.answer().await,
                Err(failure) => Err(failure),
            };
            answers[*at] = self.answer_alone(&unbatched, sent, &outgoing[*at]);
        }
    }

    /// Interprets the result of a record in a batch of its own, which also shows whether its
    /// topic requires keys.
    fn answer_alone(
        &self,
        unbatched: &Arc<Client>,
        sent: Result<(), Failure>,
        outgoing: &Outgoing,
    ) -> Result<(), Error> {
        if outgoing.key.is_none() {
            match &sent {
                Ok(()) => self.shared.set_requires_keys(&outgoing.topic, false),
                Err(failure) if failure.code() == Some(Code::InvalidRecord) => {
                    self.shared.set_requires_keys(&outgoing.topic, true);
                }
                Err(_) => {}
            }
        }
        sent.map_err(|failure| self.explain(unbatched, failure, outgoing))
    }

    /// Sets whether `topic` requires keys. If it does, records without one are sent in batches of
    /// their own, since other records of their batch would be refused with them.
    pub fn set_requires_keys(&self, topic: &str, wants: bool) {
        self.shared.set_requires_keys(topic, wants);
    }

    /// Waits until every send has its result.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that takes longer than `patience`.
    pub async fn flush(&self, patience: Duration) -> Result<(), Error> {
        let client = self.client();
        let flushed = tokio::task::spawn_blocking(move || client.flush(patience)).await;
        Ok(flushed.map_err(|error| Error::Unavailable(error.to_string()))??)
    }

    /// The state of the connection to the broker, for health checks.
    pub fn state(&self) -> BrokerState {
        self.shared.connectivity.state()
    }

    /// The names of all topics of the cluster, with their numbers of partitions.
    pub(super) async fn topics(&self, patience: Duration) -> Result<Vec<(String, usize)>, Error> {
        let client = self.client();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = client.client().fetch_metadata(None, patience);
            metadata.map_err(|error| client.context().connectivity().explain(error.into()))
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

    fn explain(&self, client: &Arc<Client>, failure: Failure, outgoing: &Outgoing) -> Error {
        let topic = || outgoing.topic.clone();
        let refused = |reason: &str| Error::Refused { topic: topic(), reason: reason.to_owned() };
        let error = match failure {
            Failure::AtClient(error)
                if error.rdkafka_error_code() == Some(Code::MessageSizeTooLarge) =>
            {
                let most = self.shared.config.get("message.max.bytes").unwrap_or_default();
                return refused(&format!(
                    "it is larger than \"message.max.bytes\" in kafka.properties allows ({most}): \
                     raise that"
                ));
            }
            Failure::AtClient(error) | Failure::AtBroker(error) => error,
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
                "writing to topic {} is not allowed: allow WRITE and DESCRIBE on it",
                outgoing.topic
            )),
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
                Error::Unavailable(format!("topic {} does not exist: create it", outgoing.topic))
            }
            Some(Code::Fatal) => self.shared.replace(client),
            _ => match error {
                KafkaError::Nul(_) => refused("the topic's name has a zero byte"),
                error => self.shared.connectivity.explain(error.into()),
            },
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("state", &self.state()).finish_non_exhaustive()
    }
}
