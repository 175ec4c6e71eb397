//! The topics of a broker of the run's own.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::support::kafka::RawRecord;
use crate::support::wait_until;

/// Where requests come from.
pub(super) const INGEST: &str = "chaos";
/// Where jobs are fired to.
pub(super) const FIRED: &str = "chaos.fired";
/// Where verdicts go.
pub(super) const EVENTS: &str = "chaos.events";
/// Where dead letters go.
pub(super) const DLQ: &str = "chaos.dlq";

const DEADLINE: Duration = Duration::from_secs(60);

/// A broker.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    address: String,
}

impl Cluster {
    pub(crate) fn at(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    /// Creates a topic; an instance that starts may have been quicker.
    pub(crate) async fn create(&self, topic: &str, partitions: i32) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let admin = self.admin();
        wait_until(DEADLINE, "a topic", async || {
            match admin.create_topics([&new], &options()).await.as_deref() {
                Ok([Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))]) => true,
                refused => {
                    eprintln!("{topic} is not created: {refused:?}");
                    false
                }
            }
        })
        .await;
    }

    pub(super) async fn delete(&self, topic: &str) {
        let admin = self.admin();
        wait_until(DEADLINE, "a topic's end", async || {
            match admin.delete_topics(&[topic], &options()).await.as_deref() {
                Ok([Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition))]) => true,
                refused => {
                    eprintln!("{topic} is not deleted: {refused:?}");
                    false
                }
            }
        })
        .await;
    }

    /// The offset after a partition's last record.
    pub(super) async fn end(&self, topic: &'static str, partition: i32) -> i64 {
        let reader = self.reader();
        blocking(move || reader.fetch_watermarks(topic, partition, DEADLINE).expect("an end").1)
            .await
    }

    /// Everything that is in a topic, by partition and offset.
    pub(crate) async fn read_all(&self, topic: &str) -> Vec<RawRecord> {
        let (reader, topic) = (self.reader(), topic.to_owned());
        blocking(move || read_all_by(&reader, &topic)).await
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }

    /// A consumer outside of any group, which says when a partition ends.
    fn reader(&self) -> BaseConsumer {
        self.client()
            .set("group.id", "chaos-reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "10")
            .create()
            .expect("a consumer")
    }
}

fn options() -> AdminOptions {
    let patience = Some(Duration::from_secs(10));
    AdminOptions::new().operation_timeout(patience).request_timeout(patience)
}

fn read_all_by(reader: &BaseConsumer, topic: &str) -> Vec<RawRecord> {
    let metadata = reader.fetch_metadata(Some(topic), DEADLINE).expect("the topic's metadata");
    let partitions = metadata.topics()[0].partitions();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .expect("a partition of the list");
    }
    reader.assign(&assignment).expect("an assignment");
    let (mut records, mut at_end) = (Vec::new(), 0);
    while at_end < partitions.len() {
        match reader.poll(DEADLINE) {
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
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    let headers = headers.map(|header| (header.key.to_owned(), header.value.unwrap_or(&[]).into()));
    RawRecord {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.collect(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("work that does not panic")
}
