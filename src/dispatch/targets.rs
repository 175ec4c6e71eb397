//! The targets that come with the system, as an app's configuration names them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::http::{HttpDispatch, HttpTarget};
use super::kafka::{KafkaDispatch, KafkaTarget};
use super::redis::{RedisDispatch, RedisTarget};
use super::{Discard, LogDispatch, SharedHandler};
use crate::kafka::{KafkaCluster, Producer};
use crate::model::app::AppConfig;

/// The dispatch target of an app: what firing a job does.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Dispatch {
    /// Logs the job as one structured event.
    #[default]
    Log,
    /// Publishes the job to a Kafka topic.
    Kafka(KafkaTarget),
    /// Sends the job to an HTTP endpoint.
    Http(HttpTarget),
    /// Sends the job to a key or channel of Redis.
    Redis(RedisTarget),
    /// Does nothing: the job counts as succeeded.
    Discard,
}

/// The producers of the targets that are Kafka topics, one for each cluster.
pub(crate) struct Producers {
    /// For the cluster that requests are read from.
    of_ingest: Option<Producer>,
    others: BTreeMap<KafkaCluster, Producer>,
}

impl Dispatch {
    /// The handler that fires the jobs of `app` to this target.
    ///
    /// # Errors
    /// A sentence that names what of the settings cannot be used.
    pub(crate) fn open(
        &self,
        app: &AppConfig,
        producers: &mut Producers,
    ) -> Result<SharedHandler, String> {
        Ok(match self {
            Self::Log => Arc::new(LogDispatch),
            Self::Discard => Arc::new(Discard),
            Self::Kafka(target) => Arc::new(KafkaDispatch::open(target, app, producers)?),
            Self::Http(target) => Arc::new(HttpDispatch::open(target.clone(), app)?),
            Self::Redis(target) => Arc::new(RedisDispatch::open(target.clone(), app)?),
        })
    }
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
