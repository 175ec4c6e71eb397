//! The callbacks of clients that join no group and only send queries.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use super::client_log;
use super::connectivity::Connectivity;

/// Keeps librdkafka's errors, which explain why a broker does not answer.
pub(super) struct Listener {
    pub(super) connectivity: Connectivity,
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log::log(&self.connectivity, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.connectivity.failed(code, reason);
        }
    }
}

impl ConsumerContext for Listener {}
