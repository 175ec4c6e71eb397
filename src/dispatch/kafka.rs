//! The handler of `dispatch = "kafka"`: a fired job becomes a record of the app's topic.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::targets::Producers;
use super::{About, DynJobHandler, Failure, FiredJob, JobContext, Target};
use crate::kafka::{Error, KafkaCluster, KafkaIngestConfig, Outgoing, Producer, check_topic};
use crate::model::app::AppConfig;

/// A Kafka topic for fired jobs.
#[derive(Clone, Debug)]
pub struct KafkaTarget {
    /// The topic.
    pub topic: String,
    /// Its cluster; `None` is the one that requests are read from.
    pub cluster: Option<KafkaCluster>,
}

impl KafkaTarget {
    /// Whether jobs may be fired to the topic by a program that reads requests as `ingest` says:
    /// the rest of a sentence that begins with the setting's name.
    pub(crate) fn check_topic(&self, ingest: Option<&KafkaIngestConfig>) -> Result<(), String> {
        let is_theirs = |ingest: &&KafkaIngestConfig| {
            let own = self.cluster.as_ref().map(|cluster| &cluster.bootstrap_servers);
            own.is_none_or(|own| *own == ingest.bootstrap_servers)
        };
        match ingest.filter(is_theirs) {
            Some(ingest) => ingest.check_dispatch_topic(&self.topic),
            None => check_topic(&self.topic),
        }
    }
}

/// Sends each job to one topic. The attempt succeeds once every in-sync replica has the record.
#[derive(Clone, Debug)]
pub(crate) struct KafkaDispatch {
    producer: Producer,
    target: Target,
    topic: String,
}

impl KafkaDispatch {
    /// Fires the jobs of `app` to `target`, by a producer that the apps of its cluster share.
    ///
    /// # Errors
    /// librdkafka refuses the settings, or there is no such cluster.
    pub(crate) fn open(
        target: &KafkaTarget,
        app: &AppConfig,
        producers: &mut Producers,
    ) -> Result<Self, String> {
        let cluster = target.cluster.as_ref();
        let (name, topic) = (&app.name, target.topic.clone());
        let producer = producers.of(cluster).map_err(|why| format!("app {name}: {why}"))?;
        let mut subject = format!("topic {topic}");
        if let Some(cluster) = cluster {
            let servers = &cluster.bootstrap_servers;
            subject = format!("{subject} at {servers}");
            tracing::info!(app = name, "app {name} fires to topic {topic} at {servers}");
        }
        Ok(Self::new(producer, topic, subject))
    }

    fn new(producer: Producer, topic: String, subject: String) -> Self {
        Self { producer, target: Target { subject, notes: Arc::default() }, topic }
    }

    async fn send(&self, ctx: &JobContext) -> Result<(), Failure> {
        let mut size = 0;
        let make = || {
            let outgoing = record(self.topic.clone(), ctx);
            size = outgoing.value.as_ref().map_or(0, Vec::len);
            outgoing
        };
        let sent = self.producer.send_within_budget(ctx.job().size(), make).await;
        sent.map_err(|error| failure(error, size))
    }
}

impl DynJobHandler for KafkaDispatch {
    fn execute<'a>(&'a self, ctx: &'a JobContext) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.send(ctx))
    }

    fn name(&self) -> &str {
        "kafka"
    }

    /// The producer has a time limit of its own, until which it may deliver the record.
    fn target(&self) -> Option<Target> {
        Some(self.target.clone())
    }
}

/// Keyed by request id, so that all attempts of a job go to one partition.
fn record(topic: String, ctx: &JobContext) -> Outgoing {
    let fired = FiredJob::of(ctx);
    Outgoing {
        topic,
        key: Some(ctx.job().request_id.clone().into_bytes()),
        value: Some(fired.to_json()),
        headers: fired.headers(),
    }
}

/// An unavailable broker is not the job's fault: the attempt does not count. It may have stored the
/// record before it became so.
fn failure(error: Error, size: usize) -> Failure {
    match error {
        Error::Refused { .. } => Failure::Refused {
            why: format!("{error} (its value has {size} bytes)"),
            about: About::Job,
        },
        Error::Unavailable(_) => Failure::NotConfirmed(error.to_string()),
        error => Failure::NotSent(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::tests::context;
    use super::*;
    use crate::kafka::{EmbeddedBroker, KafkaIngestConfig};

    #[test]
    fn the_record_is_keyed_by_request_and_carries_body_and_headers() {
        let ctx = context(r#"{"a": 1}"#);
        let outgoing = record("sms.fired".to_owned(), &ctx);
        assert_eq!(outgoing.topic, "sms.fired");
        assert_eq!(outgoing.key.as_deref(), Some(b"r-1".as_slice()));
        assert_eq!(outgoing.value, Some(FiredJob::of(&ctx).to_json()));
        assert_eq!(outgoing.headers, FiredJob::of(&ctx).headers());
    }

    #[test]
    fn only_a_record_at_fault_fails_its_job_and_an_outage_is_no_attempt() {
        let refused =
            Error::Refused { topic: "sms.fired".to_owned(), reason: "too large".to_owned() };
        let why = "topic sms.fired refuses the record: too large (its value has 9 bytes)";
        let expected = Failure::Refused { why: why.to_owned(), about: About::Job };
        assert_eq!(failure(refused, 9), expected);
        let unavailable = Error::Unavailable("no broker".to_owned());
        let why = unavailable.to_string();
        assert_eq!(failure(unavailable, 9), Failure::NotConfirmed(why));
        for error in [Error::Denied("no right".to_owned()), Error::Config("nonsense".to_owned())] {
            assert_eq!(failure(error.clone(), 9), Failure::NotSent(error.to_string()));
        }
    }

    #[tokio::test]
    async fn a_broker_takes_a_job_and_one_that_the_settings_do_not_allow_is_refused_here() {
        let broker = EmbeddedBroker::start(&[("sms.fired", 1)]).unwrap();
        let config = KafkaIngestConfig {
            bootstrap_servers: broker.bootstrap_servers().to_owned(),
            properties: [("message.max.bytes".to_owned(), "5000".to_owned())].into(),
            ..KafkaIngestConfig::default()
        };
        let producer = Producer::start(&config).unwrap();
        let dispatch = KafkaDispatch::new(producer, "sms.fired".into(), "topic".into());
        assert_eq!(dispatch.execute(&context("{}")).await, Ok(()));
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(5000));
        let answer = dispatch.execute(&context(&large)).await;
        let says = "\"message.max.bytes\" in kafka.properties allows (5000): raise that";
        assert!(
            matches!(&answer, Err(Failure::Refused { why, .. }) if why.contains(says)),
            "{answer:?}"
        );
    }
}
