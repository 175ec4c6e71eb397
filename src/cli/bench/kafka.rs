//! The topic of a measurement: on a real broker, or on one in this process.

use anyhow::Context;
use futures::{StreamExt, stream};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use super::scratch::OURS;
use crate::kafka::{EmbeddedBroker, KafkaIngestConfig, Outgoing, Producer, ensure_topics};

/// Partitions of a topic.
pub(super) const PARTITIONS: u32 = 6;
/// The embedded broker keeps 5 MB a partition, and a record here has about 250 bytes.
const EMBEDDED_RECORDS: usize = 10_000 * PARTITIONS as usize;
/// Records that are on their way to the broker at the same time.
const IN_FLIGHT: usize = 20_000;

/// Fresh topics, and the broker if it is ours.
pub(super) struct Topics {
    pub(super) config: KafkaIngestConfig,
    broker: Option<EmbeddedBroker>,
}

impl Topics {
    /// On the broker at `servers`, or on one in this process in as many topics as `records`
    /// need there.
    pub(super) async fn make(servers: Option<&str>, records: usize) -> anyhow::Result<Self> {
        let run = format!("{OURS}-{:08x}", fastrand::u32(..));
        let dlq_topic = format!("{run}-dlq");
        let count = if servers.is_some() { 1 } else { records.div_ceil(EMBEDDED_RECORDS).max(1) };
        let topics: Vec<String> = (0..count).map(|number| format!("{run}-{number}")).collect();
        let partitions = i32::try_from(PARTITIONS)?;
        let mut config = KafkaIngestConfig::builder()
            .topics(topics.clone())
            .dlq_topic(&dlq_topic)
            .group_id(&run)
            .topic_partitions(PARTITIONS)
            .build()?;
        let Some(servers) = servers else {
            let mut all: Vec<_> = topics.iter().map(|topic| (topic.as_str(), partitions)).collect();
            all.push((&dlq_topic, 1));
            let broker = EmbeddedBroker::start(&all)?;
            config.bootstrap_servers = broker.bootstrap_servers().to_owned();
            config.properties = EmbeddedBroker::client_properties().collect();
            return Ok(Self { config, broker: Some(broker) });
        };
        config.bootstrap_servers = servers.to_owned();
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        ensure_topics(&config, &names, partitions).await?;
        Ok(Self { config, broker: None })
    }

    /// Sends the `number`th value for each number below `records`, in no order.
    pub(super) async fn fill(
        &self,
        records: usize,
        value: impl Fn(usize) -> String,
    ) -> anyhow::Result<()> {
        let producer = Producer::start(&self.config)?;
        let outgoing = |number: usize| Outgoing {
            topic: self.config.topics[number % self.config.topics.len()].clone(),
            key: Some(number.to_string().into_bytes()),
            value: Some(value(number).into_bytes()),
            headers: Vec::new(),
        };
        let sends = (0..records).map(|number| producer.send(outgoing(number)));
        let mut sent = stream::iter(sends).buffer_unordered(IN_FLIGHT);
        while let Some(sent) = sent.next().await {
            sent?;
        }
        Ok(())
    }

    /// Leaves the broker as it was.
    pub(super) async fn remove(self) -> anyhow::Result<()> {
        if self.broker.is_some() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> = self.config.to_producer_config().create()?;
        let mut names: Vec<&str> = self.config.topics.iter().map(String::as_str).collect();
        names.push(&self.config.dlq_topic);
        let deleted = admin.delete_topics(&names, &AdminOptions::new()).await;
        deleted.map(drop).context("the topics of the measurement could not be deleted")
    }
}
