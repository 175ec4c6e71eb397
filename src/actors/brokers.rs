//! What the Kafka clients of an instance report about the brokers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::instance::Instance;
use super::kafka_clients::KafkaClients;
use crate::health::ProblemKind;
use crate::kafka::{BrokerState, Intake, OnOffsetLost, TroubleKind};

/// The subject of problems that the consumer has with its group or its brokers.
pub(crate) const KAFKA: &str = "kafka";

impl Instance {
    /// Makes the intake available to the actors; to be called once.
    pub(crate) fn set_intake(&self, intake: Intake) {
        if let Some(kafka) = &self.kafka
            && kafka.intake.set(intake).is_err()
        {
            tracing::debug!("the intake was set before");
        }
    }

    /// Publishes the state of each Kafka client as health problems.
    pub(crate) fn report_brokers(&self) {
        let Some(kafka) = &self.kafka else { return };
        // Until the intake exists, the code that starts it reports its problems.
        let is_leaving = self.draining.load(Ordering::Acquire) || self.is_drained();
        if let Some(intake) = kafka.intake.get().filter(|_| !is_leaving) {
            let state = intake.state();
            match state.trouble.is_none() && !kafka.joined.load(Ordering::Acquire) {
                true => self.report_joining(),
                false => self.report_client(KAFKA, &state),
            }
        }
        self.report_client("kafka producer", &kafka.producer.state());
        self.update_recovery(kafka);
        if let Some(events) = &kafka.events {
            self.report_client("kafka producer of verdicts", &events.state());
        }
    }

    /// Reports that the group has not assigned partitions to this instance yet.
    pub(crate) fn report_joining(&self) {
        let joining = "waits for the consumer group to assign partitions to it";
        self.health.report(KAFKA, ProblemKind::JoiningGroup, joining);
    }

    /// Notes that the group has assigned partitions to this instance.
    pub(super) fn has_joined(&self) {
        if let Some(kafka) = &self.kafka {
            kafka.joined.store(true, Ordering::Release);
        }
        self.report_brokers();
    }

    /// Updates the broker's availability, which ends backoff waits early. It is unavailable as soon
    /// as one client reports an outage, and available when no client reports one.
    fn update_recovery(&self, kafka: &KafkaClients) {
        // One that has left the group does not know whether the broker answers.
        let intake = kafka.intake.get().filter(|_| !self.is_drained()).map(Intake::state);
        let states = intake.into_iter().chain([kafka.producer.state()]);
        let mut unreachable = states.filter(|state| state.kind == Some(TroubleKind::Unreachable));
        match unreachable.next() {
            Some(_) => self.broker.unavailable(),
            None => self.broker.answers(),
        }
    }

    fn report_client(&self, subject: &str, state: &BrokerState) {
        let Some(trouble) = &state.trouble else {
            return self.health.clear(subject);
        };
        let kind = match state.kind {
            Some(TroubleKind::Denied) => ProblemKind::BrokerDenied,
            Some(TroubleKind::Topic) => ProblemKind::TopicUnavailable,
            Some(TroubleKind::Group) => ProblemKind::GroupRefused,
            Some(_) | None => ProblemKind::BrokerUnreachable,
        };
        self.health.report(subject, kind, trouble.clone());
    }

    /// Waits for `backoff`, or until the broker answers again.
    pub(crate) async fn wait_for_broker(&self, backoff: Duration) {
        self.broker.wait(backoff).await;
    }

    pub(super) fn intake(&self) -> Option<&Intake> {
        self.kafka.as_ref()?.intake.get()
    }

    pub(super) fn on_offset_lost(&self) -> OnOffsetLost {
        self.kafka.as_ref().map_or(OnOffsetLost::Earliest, |kafka| kafka.config.on_offset_lost)
    }
}
