//! Whether the broker can be reached, as health checks and people want to know it.
//!
//! librdkafka repeats an error for as long as it lasts; here it is told once per change.

use std::sync::Mutex;

use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::{debug, info, warn};

use super::Error;
use super::error::is_denial;

/// How a client stands with its broker just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerState {
    /// Whether the broker answered when it was last asked.
    pub reachable: bool,
    /// What is wrong, as a sentence; `None` when all is well or nothing is known yet.
    pub trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Connecting,
    Up,
    Down,
    /// Credentials are wrong: no answer to be had at all.
    LockedOut,
    /// The broker answers, but does not let us have the topic or the group.
    Unserved,
}

#[derive(Debug, Default)]
struct Known {
    standing: Standing,
    trouble: Option<String>,
    /// Why single connections failed: the reason behind "all brokers are down".
    last_failure: Option<String>,
}

/// What librdkafka's error callback and our own questions have shown so far.
#[derive(Debug)]
pub(super) struct Reach {
    /// Which of our clients this is, for the log.
    client: &'static str,
    known: Mutex<Known>,
}

impl Reach {
    /// Nothing is known yet about how `client` stands.
    pub(super) fn new(client: &'static str) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The state as of now.
    pub(super) fn state(&self) -> BrokerState {
        let known = self.lock();
        BrokerState {
            reachable: matches!(known.standing, Standing::Up | Standing::Unserved),
            trouble: known.trouble.clone(),
        }
    }

    /// Whether the broker should be asked if it is there again.
    pub(super) fn is_in_doubt(&self) -> bool {
        !matches!(self.lock().standing, Standing::Up | Standing::Unserved)
    }

    /// `error`, with what is known about the broker instead of a bare "timed out".
    pub(super) fn explain(&self, error: Error) -> Error {
        let known = self.lock();
        match (&error, known.standing, &known.trouble) {
            (Error::Unavailable(_), Standing::LockedOut, Some(cause)) => {
                Error::Denied(cause.clone())
            }
            (Error::Unavailable(_), Standing::Down, Some(cause)) => {
                Error::Unavailable(cause.clone())
            }
            _ => error,
        }
    }

    /// The broker answered a question.
    pub(super) fn answered(&self) {
        let mut known = self.lock();
        if matches!(known.standing, Standing::Unserved) {
            return;
        }
        known.change(self.client, Standing::Up, None);
    }

    /// The group gave us partitions, so both the broker and the topics are there.
    pub(super) fn served(&self) {
        self.lock().change(self.client, Standing::Up, None);
    }

    /// librdkafka reported `code`, with its own words about it.
    pub(super) fn failed(&self, code: Code, reason: &str) {
        let mut known = self.lock();
        match code {
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::InconsistentGroupProtocol => {
                known.change(self.client, Standing::Unserved, Some(format!("{code}: {reason}")));
            }
            code if is_denial(code) || code == Code::SSL => {
                let sentence = format!("the broker does not let us in: {reason}");
                known.change(self.client, Standing::LockedOut, Some(sentence));
            }
            Code::AllBrokersDown => {
                // Being locked out ends in "all brokers down" too; the cause is worth more.
                if known.standing == Standing::LockedOut {
                    return;
                }
                let cause = known.last_failure.clone().unwrap_or_else(|| reason.to_owned());
                let sentence = format!("no broker can be reached: {cause}");
                known.change(self.client, Standing::Down, Some(sentence));
            }
            Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut => {
                debug!(client = self.client, error = %code, "a broker connection failed: {reason}");
                known.last_failure = Some(reason.to_owned());
                if known.standing == Standing::Down {
                    known.trouble = Some(format!("no broker can be reached: {reason}"));
                }
            }
            _ => debug!(client = self.client, error = %code, "kafka: {reason}"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Known {
    fn change(&mut self, client: &'static str, standing: Standing, trouble: Option<String>) {
        let before = std::mem::replace(&mut self.standing, standing);
        self.trouble = trouble;
        if before == standing {
            return;
        }
        match &self.trouble {
            Some(sentence) => warn!(client, "kafka {client}: {sentence}"),
            None => info!(client, "kafka {client}: the broker is there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_password_is_told_although_all_brokers_seem_down() {
        let reach = Reach::new("consumer");
        reach.failed(Code::Authentication, "SASL authentication error: wrong password");
        reach.failed(Code::AllBrokersDown, "1/1 brokers are down");
        let state = reach.state();
        assert!(!state.reachable);
        assert!(state.trouble.is_some_and(|sentence| sentence.contains("wrong password")));
    }

    #[test]
    fn an_outage_names_its_cause_and_ends_with_an_answer() {
        let reach = Reach::new("consumer");
        reach.failed(Code::BrokerTransportFailure, "127.0.0.1:1: Connection refused");
        reach.failed(Code::AllBrokersDown, "1/1 brokers are down");
        let sentence = reach.state().trouble.expect("there is trouble");
        assert!(sentence.contains("Connection refused"), "{sentence}");
        reach.answered();
        assert_eq!(reach.state(), BrokerState { reachable: true, trouble: None });
    }

    #[test]
    fn a_topic_that_is_denied_stays_so_until_partitions_come() {
        let reach = Reach::new("consumer");
        reach.failed(Code::TopicAuthorizationFailed, "Topic authorization failed");
        reach.answered();
        assert!(reach.state().reachable);
        assert!(reach.state().trouble.is_some());
        reach.served();
        assert_eq!(reach.state().trouble, None);
    }
}
