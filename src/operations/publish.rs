//! Publishes requests to the ingest topic, as a microservice does.

use super::Result;
use crate::kafka::{KafkaIngestConfig, Outgoing, Producer};
use crate::model::request::ScheduleJobRequest;

/// Publishes requests to the topic that instances read. It needs no database.
#[derive(Debug)]
pub struct Publisher {
    producer: Producer,
    topic: String,
}

impl Publisher {
    /// A publisher for the first of the topics in `kafka`. An unavailable broker is no error.
    ///
    /// # Errors
    /// [`Error::Invalid`](super::Error::Invalid) for settings that the client refuses.
    pub fn start(kafka: &KafkaIngestConfig) -> Result<Self> {
        let topic = kafka.topics.first().cloned().unwrap_or_default();
        Ok(Self { producer: Producer::start(kafka)?, topic })
    }

    /// Sends `value`, the JSON text of `request`, and returns once the broker has acknowledged it.
    ///
    /// # Errors
    /// [`Error::Unavailable`](super::Error::Unavailable) if the broker does not acknowledge it, in
    /// which case it may have the record nevertheless; [`Error::Invalid`](super::Error::Invalid) if
    /// it will never accept it.
    pub async fn publish(&self, request: &ScheduleJobRequest, value: Vec<u8>) -> Result<()> {
        // Repeated records of one request go to the same partition, and so stay in order.
        let name = request.request_id.as_deref().or(request.idempotency_key.as_deref());
        let key = name.map(|name| name.as_bytes().to_vec());
        let topic = self.topic.clone();
        let outgoing = Outgoing { topic, key, value: Some(value), headers: Vec::new() };
        Ok(self.producer.send(outgoing).await?)
    }
}
