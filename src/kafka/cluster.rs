//! A cluster other than the one that requests are read from.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::config::flat_properties;
use super::{KafkaConfigError, KafkaIngestConfig};

/// The brokers of an app's topic, if they are not those of the ingest topics. Its `Debug` output
/// shows no secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaCluster {
    /// The bootstrap brokers, `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// Properties of librdkafka for the producer.
    #[serde(default, deserialize_with = "flat_properties")]
    pub properties: BTreeMap<String, String>,
}

impl KafkaCluster {
    /// Checks what the types cannot; librdkafka itself checks each property.
    ///
    /// # Errors
    /// Names the first invalid field or property, and the way out.
    pub(crate) fn validate(&self) -> Result<(), KafkaConfigError> {
        self.to_config().validate()
    }

    /// The configuration of a client of this cluster.
    pub(crate) fn to_config(&self) -> KafkaIngestConfig {
        KafkaIngestConfig {
            bootstrap_servers: self.bootstrap_servers.clone(),
            properties: self.properties.clone(),
            ..KafkaIngestConfig::default()
        }
    }
}

impl fmt::Debug for KafkaCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redacted = self.to_config().redacted();
        f.debug_struct("KafkaCluster")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &redacted.properties)
            .finish()
    }
}
