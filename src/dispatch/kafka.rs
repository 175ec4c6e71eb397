//! The handler of `dispatch = "kafka"`: a fired job becomes a record of the app's topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::DateTime;

use super::{FiredJob, JobContext, JobError, JobHandler};
use crate::health::{Health, ProblemKind};
use crate::kafka::{Error, Outgoing, Producer};

/// The shortest wait after a broker did not accept a job for a reason of its own.
const RETRY_AFTER_MS: i64 = 1000;

/// No failure so far, in epoch milliseconds.
const NEVER: i64 = i64::MIN;

/// Sends each job to one topic. The attempt succeeds once every in-sync replica has the record.
#[derive(Clone, Debug)]
pub(crate) struct KafkaDispatch {
    producer: Producer,
    topic: String,
    health: Health,
    /// When the latest job that the topic did not accept was fired, epoch milliseconds.
    failed_ms: Arc<AtomicI64>,
}

impl KafkaDispatch {
    /// Sends to `topic` by `producer`, which may be shared.
    pub(crate) fn new(producer: Producer, topic: impl Into<String>) -> Self {
        let failed_ms = Arc::new(AtomicI64::new(NEVER));
        Self { producer, topic: topic.into(), health: Health::default(), failed_ms }
    }

    /// Reports to `health` while the topic does not accept jobs.
    #[must_use]
    pub(crate) fn reporting_to(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    fn subject(&self) -> String {
        format!("topic {}", self.topic)
    }

    /// Each job waits independently; that jobs wait is reported once.
    fn report_waiting(&self, error: &Error, fired_ms: i64) {
        self.failed_ms.fetch_max(fired_ms, Ordering::Relaxed);
        let why = format!("does not accept fired jobs, which wait: {error}");
        self.health.report(&self.subject(), ProblemKind::TargetUnavailable, why);
    }

    /// The success of a job that was fired before the last failure does not show the current
    /// state.
    fn accepted(&self, fired_ms: i64) {
        let failed_ms = self.failed_ms.load(Ordering::Relaxed);
        let is_over = failed_ms != NEVER && fired_ms > failed_ms;
        let (set, order) = (NEVER, Ordering::Relaxed);
        if is_over && self.failed_ms.compare_exchange(failed_ms, set, order, order).is_ok() {
            self.health.clear(&self.subject());
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
        let sent = self.producer.send_within_budget(ctx.job().size(), make).await;
        match sent {
            Ok(()) => {
                self.accepted(ctx.fired_ms());
                Ok(())
            }
            Err(error) => {
                if !matches!(error, Error::Refused { .. }) {
                    self.report_waiting(&error, ctx.fired_ms());
                }
                Err(job_error(error, size, ctx.fired_ms()))
            }
        }
    }

    fn name(&self) -> &str {
        "kafka"
    }

    /// The producer has a time limit of its own, until which it may deliver the record.
    fn ends_by_itself(&self) -> bool {
        true
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

/// An unavailable broker is not the job's fault: the attempt does not count.
fn job_error(error: Error, size: usize, fired_ms: i64) -> JobError {
    match error {
        Error::Refused { .. } => JobError::Fail(format!("{error} (its value has {size} bytes)")),
        error => match DateTime::from_timestamp_millis(fired_ms + RETRY_AFTER_MS) {
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
            job_error(refused, 9, 0),
            JobError::Fail(
                "topic sms.fired refuses the record: too large (its value has 9 bytes)".to_owned()
            )
        );
        for error in [
            Error::Unavailable("no broker".to_owned()),
            Error::Denied("no right".to_owned()),
            Error::Config("nonsense".to_owned()),
        ] {
            let again = DateTime::from_timestamp_millis(6000).unwrap();
            assert_eq!(job_error(error, 9, 5000), JobError::Snooze(again));
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
        let dispatch = KafkaDispatch::new(Producer::start(&config).unwrap(), "sms.fired");
        assert_eq!(dispatch.execute(&context("{}")).await, Ok(()));
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(5000));
        let answer = dispatch.execute(&context(&large)).await;
        let says = "\"message.max.bytes\" in kafka.properties allows (5000): raise that";
        assert!(matches!(&answer, Err(JobError::Fail(why)) if why.contains(says)), "{answer:?}");
    }

    #[test]
    fn a_topic_that_takes_no_jobs_is_reported_until_one_that_was_fired_later_is_taken() {
        let broker = EmbeddedBroker::start(&[("sms.fired", 1)]).unwrap();
        let config = KafkaIngestConfig {
            bootstrap_servers: broker.bootstrap_servers().to_owned(),
            ..KafkaIngestConfig::default()
        };
        let health = Health::default();
        let dispatch = KafkaDispatch::new(Producer::start(&config).unwrap(), "sms.fired")
            .reporting_to(health.clone());
        dispatch.accepted(1);
        dispatch.report_waiting(&Error::Unavailable("no broker".to_owned()), 5);
        dispatch.accepted(5);
        let problem = &health.read().degraded[0];
        assert_eq!(problem.kind, ProblemKind::TargetUnavailable);
        assert_eq!(problem.subject, "topic sms.fired");
        assert!(problem.message.contains("no broker"), "{problem}");
        dispatch.accepted(6);
        assert!(health.read().degraded.is_empty());
    }
}
