//! Topics for each test: writing records to them, and reading all their records.

use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::{services, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);

/// Topic settings with which old values of a key are gone within a second or two of a later write.
pub(crate) const COMPACTED: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    // The newest segment is never compacted: each must be old at once.
    ("segment.ms", "50"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("delete.retention.ms", "50"),
];

/// A unique topic name.
pub(crate) fn unique_topic(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::new_v4().simple())
}

/// Creates a topic with `settings` such as [`COMPACTED`].
pub(crate) async fn create_topic(topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    create_topic_by(&client_config(), topic, partitions, settings).await;
}

/// The same on the broker, and as the user, of `client`.
pub(crate) async fn create_topic_by(
    client: &ClientConfig,
    topic: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) {
    let new = settings
        .iter()
        .fold(NewTopic::new(topic, partitions, TopicReplication::Fixed(1)), |new, (key, value)| {
            new.set(key, value)
        });
    let admin: AdminClient<DefaultClientContext> = client.create().expect("an admin client");
    let outcomes = admin.create_topics([&new], &admin_options()).await.expect("the broker");
    for outcome in outcomes {
        outcome.unwrap_or_else(|error| panic!("topic {error:?} is not created"));
    }
}

/// Gives a setting of a topic another value.
pub(crate) async fn set_topic(topic: &str, name: &str, value: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    let outcomes = admin().alter_configs(&[change], &admin_options()).await.expect("the broker");
    for outcome in outcomes {
        outcome.unwrap_or_else(|error| panic!("{topic} is not changed: {error:?}"));
    }
}

/// Deletes a topic with all that is in it.
pub(crate) async fn delete_topic(topic: &str) {
    let outcomes = admin().delete_topics(&[topic], &admin_options()).await.expect("the broker");
    for outcome in outcomes {
        outcome.unwrap_or_else(|error| panic!("topic {error:?} is not deleted"));
    }
}

/// Deletes a topic and creates it anew, with one partition and without records.
pub(crate) async fn make_again(topic: &str) {
    delete_topic(topic).await;
    // The broker deletes asynchronously.
    wait_until(DEADLINE, "the topic's end", async || !exists(topic).await).await;
    create_topic(topic, 1, &[]).await;
}

pub(crate) async fn exists(topic: &str) -> bool {
    let topic = topic.to_owned();
    blocking(move || {
        let metadata = reader(client_config()).fetch_metadata(None, DEADLINE).expect("metadata");
        metadata.topics().iter().any(|known| known.name() == topic)
    })
    .await
}

/// Gives a topic more partitions, so that it has `count`.
pub(crate) async fn add_partitions(topic: &str, count: usize) {
    let more = NewPartitions::new(topic, count);
    let outcomes = admin().create_partitions([&more], &admin_options()).await.expect("the broker");
    for outcome in outcomes {
        outcome.unwrap_or_else(|error| panic!("topic {error:?} has no more partitions"));
    }
}

/// Makes `offset` the first of a partition, as retention would.
pub(crate) async fn delete_records_before(topic: &str, partition: i32, offset: i64) {
    let mut until = TopicPartitionList::new();
    until
        .add_partition_offset(topic, partition, Offset::Offset(offset))
        .expect("a partition of the list");
    admin().delete_records(&until, &admin_options()).await.expect("the broker");
}

/// The first offset of a partition and the one after its last.
pub(crate) async fn watermarks(topic: &str, partition: i32) -> (i64, i64) {
    watermarks_by(&client_config(), topic, partition).await
}

/// The same on the broker, and as the user, of `client`.
pub(crate) async fn watermarks_by(
    client: &ClientConfig,
    topic: &str,
    partition: i32,
) -> (i64, i64) {
    let (client, topic) = (client.clone(), topic.to_owned());
    blocking(move || {
        reader(client)
            .fetch_watermarks(&topic, partition, DEADLINE)
            .expect("a partition's watermarks")
    })
    .await
}

/// A record as it was written or is to be; of the latter, only what is known beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawRecord {
    /// When writing, below zero lets the key choose.
    pub(crate) partition: i32,
    /// Not used when writing.
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// Epoch milliseconds. Not used when writing.
    pub(crate) timestamp_ms: i64,
}

impl RawRecord {
    pub(crate) fn new(partition: i32, value: impl Into<Vec<u8>>) -> Self {
        Self { partition, value: Some(value.into()), ..Self::default() }
    }

    /// A record without a value.
    pub(crate) fn tombstone(partition: i32, key: impl Into<Vec<u8>>) -> Self {
        Self { partition, key: Some(key.into()), ..Self::default() }
    }

    pub(crate) fn with_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub(crate) fn with_header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The value of the last header of that name, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }

    /// # Panics
    /// If it has none that is JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().expect("a value")).expect("JSON")
    }

    fn to_future_record<'a>(&'a self, topic: &'a str) -> FutureRecord<'a, [u8], [u8]> {
        let mut record = FutureRecord::to(topic);
        record.partition = (self.partition >= 0).then_some(self.partition);
        record.key = self.key.as_deref();
        record.payload = self.value.as_deref();
        record.headers = (!self.headers.is_empty()).then(|| self.to_owned_headers());
        record
    }

    fn to_owned_headers(&self) -> OwnedHeaders {
        self.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        })
    }
}

/// Writes records in their order and waits until all are acknowledged; returns their offsets.
pub(crate) async fn produce(topic: &str, records: &[RawRecord]) -> Vec<i64> {
    produce_by(&client_config(), topic, records).await
}

/// Writes single records, each at once.
pub(crate) struct Sender(FutureProducer);

impl Sender {
    pub(crate) fn new() -> Self {
        Self(producer_of(&client_config()))
    }

    /// Writes a record and waits until it is acknowledged.
    pub(crate) async fn send(&self, topic: &str, record: &RawRecord) {
        let sent = self.0.send_result(record.to_future_record(topic));
        let sent = sent.unwrap_or_else(|(error, _)| panic!("not sent: {error}"));
        let outcome = sent.await.expect("the producer lives");
        outcome.unwrap_or_else(|(error, _)| panic!("not delivered: {error}"));
    }
}

fn producer_of(client: &ClientConfig) -> FutureProducer {
    client
        .clone()
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "1048576")
        .create()
        .expect("a producer")
}

/// The same on the broker, and as the user, of `client`.
pub(crate) async fn produce_by(
    client: &ClientConfig,
    topic: &str,
    records: &[RawRecord],
) -> Vec<i64> {
    let producer = producer_of(client);
    let mut under_way = Vec::with_capacity(records.len());
    for record in records {
        let sent = producer.send_result(record.to_future_record(topic));
        under_way.push(sent.unwrap_or_else(|(error, _)| panic!("not sent: {error}")));
    }
    let mut offsets = Vec::with_capacity(records.len());
    for delivery in under_way {
        let outcome = delivery.await.expect("the producer lives");
        offsets.push(outcome.unwrap_or_else(|(error, _)| panic!("not delivered: {error}")).offset);
    }
    blocking(move || producer.flush(DEADLINE)).await.expect("a flush of nothing");
    offsets
}

/// Everything that is in a topic now, by partition and offset; of transactions, what is committed.
pub(crate) async fn read_all(topic: &str) -> Vec<RawRecord> {
    read_all_by(&client_config(), topic).await
}

/// The same on the broker, and as the user, of `client`.
pub(crate) async fn read_all_by(client: &ClientConfig, topic: &str) -> Vec<RawRecord> {
    let (client, topic) = (client.clone(), topic.to_owned());
    blocking(move || read_all_now(client, &topic)).await
}

fn read_all_now(client: ClientConfig, topic: &str) -> Vec<RawRecord> {
    let consumer = reader(client);
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).expect("the topic's metadata");
    let partitions = metadata.topics()[0].partitions();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .expect("a partition of the list");
    }
    consumer.assign(&assignment).expect("an assignment");

    let mut records = Vec::new();
    let mut at_end = 0;
    while at_end < partitions.len() {
        match consumer.poll(DEADLINE) {
            Some(Ok(message)) => records.push(to_raw_record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => at_end += 1,
            Some(Err(error)) => panic!("reading {topic}: {error}"),
            None => panic!("reading {topic}: nothing for {DEADLINE:?}, and not at its end"),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn to_raw_record(message: &impl Message) -> RawRecord {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
            .collect()
    });
    RawRecord {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
    }
}

fn client_config() -> ClientConfig {
    client_of(&services::kafka())
}

/// A client of this broker, without TLS or SASL.
pub(crate) fn client_of(broker: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker);
    config
}

/// A consumer outside of any group, which says when a partition ends.
fn reader(mut client: ClientConfig) -> BaseConsumer {
    client
        .set("group.id", "infinite-scheduler-it-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "10")
        .create()
        .expect("a consumer")
}

fn admin() -> AdminClient<DefaultClientContext> {
    client_config().create().expect("an admin client")
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(DEADLINE)).request_timeout(Some(DEADLINE))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("work that does not panic")
}

mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_is_read_back() {
        let topic = unique_topic("support");
        create_topic(&topic, 2, &[]).await;
        let sent: Vec<_> = (0..2000)
            .map(|i| {
                RawRecord::new(i % 2, format!("value {i}")).with_key("k").with_header("h", "1")
            })
            .collect();
        assert_eq!(produce(&topic, &sent).await.into_iter().max(), Some(999));

        let read = read_all(&topic).await;
        assert_eq!(read.len(), 2000);
        assert_eq!(read[1999].value.as_deref(), Some(&b"value 1999"[..]));
        assert_eq!(read[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(read[0].header("h"), Some("1"));

        delete_records_before(&topic, 1, 990).await;
        assert_eq!(watermarks(&topic, 1).await, (990, 1000));
        assert_eq!(read_all(&topic).await.len(), 1010);
        delete_topic(&topic).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_compacted_topic_soon_forgets_old_values() {
        let topic = unique_topic("support");
        create_topic(&topic, 1, COMPACTED).await;
        let old = RawRecord::new(0, "old").with_key("k");
        produce(&topic, &[old.clone(), RawRecord::new(0, "other").with_key("l")]).await;
        wait_until(DEADLINE, "compaction", async || {
            // A segment is closed by the first record that is written when it is old.
            produce(&topic, &[RawRecord::new(0, "new").with_key("k")]).await;
            let read = read_all(&topic).await;
            !read.iter().any(|record| record.value == old.value)
        })
        .await;
        delete_topic(&topic).await;
    }
}
