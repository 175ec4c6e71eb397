//! The topics of the run's own broker.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

use crate::support::kafka::{RawRecord, client_of, read_all_by, watermarks_by};
use crate::support::wait_until;

/// Where requests come from.
pub(super) const INGEST: &str = "chaos";
/// Where jobs are fired to.
pub(super) const FIRED: &str = "chaos.fired";
/// Where jobs are fired to that operators ask for.
pub(super) const OPERATED_FIRED: &str = "chaos.operated";
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
        client_of(&self.address)
    }

    /// Creates a topic; an instance that starts may have created it.
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
    pub(super) async fn end(&self, topic: &str, partition: i32) -> i64 {
        watermarks_by(&self.client(), topic, partition).await.1
    }

    /// Everything that is in a topic, by partition and offset.
    pub(crate) async fn read_all(&self, topic: &str) -> Vec<RawRecord> {
        read_all_by(&self.client(), topic).await
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }
}

fn options() -> AdminOptions {
    let patience = Some(Duration::from_secs(10));
    AdminOptions::new().operation_timeout(patience).request_timeout(patience)
}
