//! Starts the Kafka intake of a scheduler, and reports the state of its Kafka clients.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::actors::{Instance, KAFKA, RebalanceListener};
use crate::health::ProblemKind;
use crate::kafka::{self, Intake, KafkaIngestConfig, ensure_topics};

/// The wait before an unavailable broker is tried again, doubling up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How often the state of the Kafka clients is reported.
const BROKER_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Reports the state of the Kafka clients until the scheduler is dropped.
pub(super) async fn watch_brokers(instance: Weak<Instance>) {
    while let Some(instance) = instance.upgrade() {
        instance.report_brokers();
        drop(instance);
        tokio::time::sleep(BROKER_CHECK_INTERVAL).await;
    }
}

/// Starts the intake. Invalid settings are an error; while the broker is unavailable, it is tried
/// again in the background.
pub(super) async fn start_intake(
    instance: &Arc<Instance>,
    config: KafkaIngestConfig,
    listener: RebalanceListener,
) -> Result<(), kafka::Error> {
    let listener = Arc::new(listener);
    if let Some(warning) = config.session_warning(instance.settings.lease) {
        tracing::warn!("kafka.{warning}");
    }
    instance.report_joining();
    match try_intake(instance, &config, listener.clone()).await {
        Ok(()) => return Ok(()),
        Err(error @ kafka::Error::Config(_)) => return Err(error),
        Err(error) => broker_failed(instance, &error),
    }
    let instance = instance.clone();
    drop(tokio::spawn(async move {
        let (mut wait, longest) = RETRY;
        loop {
            instance.wait_for_broker(wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
            if instance.is_drained() {
                return;
            }
            wait = (wait * 2).min(longest);
            match try_intake(&instance, &config, listener.clone()).await {
                Ok(()) => return,
                Err(error) => broker_failed(&instance, &error),
            }
        }
    }));
    Ok(())
}

fn broker_failed(instance: &Instance, error: &kafka::Error) {
    let kind = match error {
        kafka::Error::Denied(_) => ProblemKind::BrokerDenied,
        _ => ProblemKind::BrokerUnreachable,
    };
    instance.health.report(KAFKA, kind, error.to_string());
}

async fn try_intake(
    instance: &Arc<Instance>,
    config: &KafkaIngestConfig,
    listener: Arc<RebalanceListener>,
) -> Result<(), kafka::Error> {
    if config.ensure_topics {
        let mut names: Vec<&str> = config.topics.iter().map(String::as_str).collect();
        names.push(&config.dlq_topic);
        names.extend(config.events_topic.as_deref());
        let partitions = i32::try_from(config.topic_partitions.get()).unwrap_or(i32::MAX);
        ensure_topics(config, &names, partitions).await?;
    }
    let partitions = kafka::count_partitions(config).await?;
    instance.set_intake(Intake::start(config, instance.settings.lease, partitions, listener)?);
    Ok(())
}
