//! Sending requests as records, as a microservice does.

use super::Result;
use crate::kafka::{KafkaIngestConfig, Outgoing, Producer};
use crate::model::request::ScheduleJobRequest;

/// Sends requests to the topic that instances read. It needs no database.
#[derive(Debug)]
pub struct Publisher {
    producer: Producer,
    topic: String,
}

impl Publisher {
    /// A publisher to the first of the topics that `kafka` reads. A broker that does not answer
    /// is no error.
    ///
    /// # Errors
    /// [`Error::Invalid`](super::Error::Invalid) for settings that the client refuses.
    pub fn start(kafka: &KafkaIngestConfig) -> Result<Self> {
        let topic = kafka.topics.first().cloned().unwrap_or_default();
        Ok(Self { producer: Producer::start(kafka)?, topic })
    }

    /// Sends `value`, the JSON text of `request`, and returns once the broker has it.
    ///
    /// # Errors
    /// [`Error::Unavailable`](super::Error::Unavailable) if the broker does not take it just now:
    /// it may have it all the same; [`Error::Invalid`](super::Error::Invalid) if it never will.
    pub async fn publish(&self, request: &ScheduleJobRequest, value: Vec<u8>) -> Result<()> {
        // Records of one request, sent again, stay in one partition and so in order.
        let name = request.request_id.as_deref().or(request.idempotency_key.as_deref());
        let key = name.map(|name| name.as_bytes().to_vec());
        let topic = self.topic.clone();
        let outgoing = Outgoing { topic, key, value: Some(value), headers: Vec::new() };
        Ok(self.producer.send(outgoing).await?)
    }
}
