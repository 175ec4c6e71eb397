//! What the clients of an instance report of the brokers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::instance::Instance;
use super::kafka_side::KafkaSide;
use crate::health::ProblemKind;
use crate::kafka::{BrokerState, Intake, OnOffsetLost, TroubleKind};

/// What problems of the consumer with its group and its brokers are reported about.
pub(crate) const KAFKA: &str = "kafka";

impl Instance {
    /// Gives the actors the intake, once.
    pub(crate) fn set_intake(&self, intake: Intake) {
        if let Some(kafka) = &self.kafka
            && kafka.intake.set(intake).is_err()
        {
            tracing::debug!("the intake was set before");
        }
    }

    /// Reports what the clients of the broker have found out.
    pub(crate) fn report_brokers(&self) {
        let Some(kafka) = &self.kafka else { return };
        // Before there is an intake, whoever starts it reports.
        let is_leaving = self.draining.load(Ordering::Acquire) || self.is_drained();
        if let Some(intake) = kafka.intake.get().filter(|_| !is_leaving) {
            let state = intake.state();
            match state.trouble.is_none() && !kafka.joined.load(Ordering::Acquire) {
                true => self.report_joining(),
                false => self.report_client(KAFKA, &state),
            }
        }
        self.report_client("kafka producer", &kafka.producer.state());
        self.note_broker(kafka);
        if let Some(events) = &kafka.events {
            self.report_client("kafka producer of verdicts", &events.state());
        }
    }

    /// Reports that the group has not said yet which partitions are ours.
    pub(crate) fn report_joining(&self) {
        let joining = "waits for the partitions that the consumer group gives it";
        self.health.report(KAFKA, ProblemKind::JoiningGroup, joining);
    }

    /// The group has said which partitions are ours.
    pub(super) fn has_joined(&self) {
        if let Some(kafka) = &self.kafka {
            kafka.joined.store(true, Ordering::Release);
        }
        self.report_brokers();
    }

    /// Lets what waits for the broker know whether it answers: of several clients, the first one
    /// that hears of an outage and the last one that hears of its end.
    fn note_broker(&self, kafka: &KafkaSide) {
        // One that has left the group knows nothing of the brokers any more.
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
