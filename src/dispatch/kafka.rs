//! The kafka form: a fired job becomes a record of the app's topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::DateTime;

use super::{FiredJob, JobContext, JobError, JobHandler};
use crate::kafka::{Error, Outgoing, Producer};

/// The shortest wait after a broker did not take a job for a reason of its own.
const AGAIN_MS: i64 = 1000;

/// How often it is said that a topic does not take jobs.
const SAY_EVERY_MS: i64 = 10_000;

/// Sends each job to one topic. The attempt is a success once every in-sync replica has it.
#[derive(Clone, Debug)]
pub struct KafkaDispatch {
    producer: Producer,
    topic: String,
    /// When it was last said that the topic does not take jobs, epoch milliseconds.
    said_ms: Arc<AtomicI64>,
}

impl KafkaDispatch {
    /// Sends to `topic` by `producer`, which others may share.
    pub fn new(producer: Producer, topic: impl Into<String>) -> Self {
        Self { producer, topic: topic.into(), said_ms: Arc::default() }
    }

    /// Each job waits by itself; that none gets through is said once in a while.
    fn say(&self, error: &Error, now_ms: i64) {
        let said_ms = self.said_ms.load(Ordering::Relaxed);
        if now_ms - said_ms >= SAY_EVERY_MS {
            self.said_ms.store(now_ms, Ordering::Relaxed);
            let topic = &self.topic;
            tracing::warn!(topic, %error, "topic {topic} does not take fired jobs: they wait");
        }
    }
}

impl JobHandler for KafkaDispatch {
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let mut size = 0;
        let make = || {
            let outgoing = record(self.topic.clone(), ctx);
            size = outgoing.value.as_ref().map_or(0, Vec::len);
            outgoing
        };
        let sent = self.producer.send_when_there_is_room(ctx.job().size(), make).await;
        sent.map_err(|error| {
            self.say(&error, ctx.fired_ms());
            judge(error, size, ctx.fired_ms())
        })
    }

    fn name(&self) -> &str {
        "kafka"
    }

    /// The producer gives up on a record by itself, and until then may deliver it.
    fn ends_by_itself(&self) -> bool {
        true
    }
}

/// Keyed by request id, so that all attempts at a job go to one partition.
fn record(topic: String, ctx: &JobContext) -> Outgoing {
    let fired = FiredJob::of(ctx);
    Outgoing {
        topic,
        key: Some(ctx.job().request_id.clone().into_bytes()),
        value: Some(fired.to_json()),
        headers: fired.headers(),
    }
}

/// A broker that is away says nothing of the job: the attempt does not count.
fn judge(error: Error, size: usize, fired_ms: i64) -> JobError {
    match error {
        Error::Refused { .. } => JobError::Fail(format!("{error} (its value has {size} bytes)")),
        error => match DateTime::from_timestamp_millis(fired_ms + AGAIN_MS) {
            Some(again) => JobError::Snooze(again),
            None => JobError::retry(error),
        },
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
        assert_eq!(
            judge(refused, 9, 0),
            JobError::Fail(
                "topic sms.fired refuses the record: too large (its value has 9 bytes)".to_owned()
            )
        );
        for error in [
            Error::Unavailable("away".to_owned()),
            Error::Denied("no right".to_owned()),
            Error::Config("nonsense".to_owned()),
        ] {
            let again = DateTime::from_timestamp_millis(6000).unwrap();
            assert_eq!(judge(error, 9, 5000), JobError::Snooze(again));
        }
    }

    #[tokio::test]
    async fn a_broker_takes_a_job_and_refuses_one_that_is_too_large() {
        let broker = EmbeddedBroker::start(&[("sms.fired", 1)]).unwrap();
        let config = KafkaIngestConfig {
            bootstrap_servers: broker.bootstrap_servers().to_owned(),
            ..KafkaIngestConfig::default()
        };
        let dispatch = KafkaDispatch::new(Producer::start(&config).unwrap(), "sms.fired");
        assert_eq!(dispatch.execute(&context("{}")).await, Ok(()));
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(64 << 20));
        let answer = dispatch.execute(&context(&large)).await;
        assert!(matches!(&answer, Err(JobError::Fail(why)) if why.contains("large")), "{answer:?}");
    }
}
