//! The targets that come with the system, as an app's configuration names them.

use std::sync::Arc;

use super::http::{HttpDispatch, HttpTarget};
use super::kafka::{KafkaDispatch, KafkaTarget};
use super::producers::Producers;
use super::redis::{RedisDispatch, RedisTarget};
use super::{Discard, LogDispatch, SharedHandler};
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
