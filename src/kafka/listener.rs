//! The callbacks of clients that join no group and only ask.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use super::reach::Reach;
use super::rebalance;

/// Learns why a broker that does not answer is silent.
pub(super) struct Listener {
    pub(super) reach: Reach,
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        rebalance::log(&self.reach, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.reach.failed(code, reason);
        }
    }
}

impl ConsumerContext for Listener {}
