//! The Kafka producers that apps share.

use std::collections::BTreeMap;

use crate::kafka::{KafkaCluster, Producer};

/// The producers of the targets that are Kafka topics, one for each cluster.
pub(crate) struct Producers {
    /// For the cluster that requests are read from.
    of_ingest: Option<Producer>,
    others: BTreeMap<KafkaCluster, Producer>,
}

impl Producers {
    pub(crate) fn new(of_ingest: Option<Producer>) -> Self {
        Self { of_ingest, others: BTreeMap::new() }
    }

    /// The producer for `cluster`; without one, for the cluster that requests are read from.
    pub(super) fn of(&mut self, cluster: Option<&KafkaCluster>) -> Result<Producer, String> {
        let Some(cluster) = cluster else {
            return self.of_ingest.clone().ok_or_else(|| "there is no Kafka".to_owned());
        };
        if let Some(producer) = self.others.get(cluster) {
            return Ok(producer.clone());
        }
        let producer = Producer::start(&cluster.to_config()).map_err(|error| error.to_string())?;
        self.others.insert(cluster.clone(), producer.clone());
        Ok(producer)
    }
}
