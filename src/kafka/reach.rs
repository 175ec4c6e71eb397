//! Whether the broker can be reached, as health checks and people want to know it.
//!
//! librdkafka repeats an error for as long as it lasts; here it is told once per change.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::{debug, info, warn};

use super::error::is_denial;
use super::reason::reason;
use super::{Error, KafkaIngestConfig};

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
    /// Credentials or certificates are wrong: no answer to be had at all.
    LockedOut,
    /// The broker answers, but does not let us have what we are there for.
    Unserved,
    /// The client met an error that it could not get over, and was replaced.
    Replaced,
}

#[derive(Debug, Default)]
struct Known {
    standing: Standing,
    /// What is wrong, without the words that go with the standing.
    cause: Option<String>,
    /// Why single connections failed: the reason behind "all brokers are down".
    last_failure: Option<String>,
}

/// What librdkafka's callbacks and our own questions have shown so far.
#[derive(Debug)]
pub(super) struct Reach {
    /// Which of our clients this is, for the log; `None` for one whose user tells.
    client: Option<&'static str>,
    /// The group that it is a member of, if any.
    group: Group,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Group {
    id: String,
    /// Its `group.instance.id`, if it has one.
    instance_id: Option<String>,
}

impl Reach {
    /// Nothing is known yet about how `client` stands.
    pub(super) fn new(client: &'static str) -> Self {
        Self { client: Some(client), group: Group::default(), known: Mutex::default() }
    }

    /// The same for a member of the group of `config`.
    pub(super) fn of_group(client: &'static str, config: &KafkaIngestConfig) -> Self {
        let instance_id = config.properties.get("group.instance.id").cloned();
        let group = Group { id: config.group_id.clone(), instance_id };
        Self { group, ..Self::new(client) }
    }

    /// The same for a client that lives for a question or two: whoever asks tells the answer.
    pub(super) fn untold() -> Self {
        Self { client: None, group: Group::default(), known: Mutex::default() }
    }

    /// The state as of now.
    pub(super) fn state(&self) -> BrokerState {
        let known = self.lock();
        BrokerState { reachable: known.standing.is_reached(), trouble: known.trouble() }
    }

    /// Whether the broker should be asked if it is there again.
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.lock().standing.is_reached()
    }

    /// Whether something is wrong.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.lock().cause.is_some()
    }

    /// `error`, with what is known about the broker instead of a bare "timed out".
    pub(super) fn explain(&self, error: Error) -> Error {
        let known = self.lock();
        match (&error, known.standing, &known.cause) {
            (Error::Unavailable(_), Standing::LockedOut, Some(cause)) => {
                Error::Denied(cause.clone())
            }
            (Error::Unavailable(_), Standing::Down, Some(cause)) => {
                Error::Unavailable(format!("no broker can be reached: {cause}"))
            }
            _ => error,
        }
    }

    /// The broker answered a question.
    pub(super) fn answered(&self) {
        if !matches!(self.lock().standing, Standing::Unserved) {
            self.served();
        }
    }

    /// We have what we are there for: partitions were given to us, a record was taken from us.
    pub(super) fn served(&self) {
        // Whatever a client had to be replaced for can happen to the next one.
        if self.lock().standing != Standing::Replaced {
            self.change(Standing::Up, None);
        }
    }

    /// The client met an error that it cannot get over; another one takes its place `after`.
    pub(super) fn ended(&self, code: Code, words: &str, after: Duration) {
        let Group { id, instance_id } = &self.group;
        let (why, way_out) = match (code, instance_id) {
            (Code::FencedInstanceId, Some(name)) => (
                format!("another member of group {id} has the same group.instance.id, {name:?}"),
                "give each instance another \"group.instance.id\" in kafka.properties, or none",
            ),
            _ => (
                format!("the client met an error that it cannot get over ({})", reason(words)),
                "if that goes on, correct what it names",
            ),
        };
        debug!(client = self.client, after_ms = after.as_millis() as u64, "kafka: to be replaced");
        let cause = format!("{why}, and took our place: the client is replaced; {way_out}");
        self.change(Standing::Replaced, Some(cause));
    }

    /// The client has lived for so long that what its predecessor met is over.
    pub(super) fn settled(&self) {
        if self.lock().standing == Standing::Replaced {
            self.change(Standing::Up, None);
        }
    }

    /// librdkafka's log tells how a connection ended, also where its errors do not.
    pub(super) fn disconnected(&self, line: &str) {
        self.lock().last_failure = Some(reason(line));
    }

    /// librdkafka reported `code`, with its own words about it.
    pub(super) fn failed(&self, code: Code, words: &str) {
        let reason = reason(words);
        match code {
            // A partition's own: its reader tells, and knows when it is over.
            Code::TopicAuthorizationFailed if words.starts_with("Fetch from") => {}
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed => {
                self.change(Standing::Unserved, Some(format!("a right is missing: {reason}")));
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                self.change(Standing::Unserved, Some(format!("a topic is missing: {reason}")));
            }
            Code::InconsistentGroupProtocol => {
                let cause = format!(
                    "group {} has members of another kind, which share its partitions by another \
                     protocol than ours (cooperative-sticky): stop them, or give \
                     kafka.group_id another name",
                    self.group.id
                );
                self.change(Standing::Unserved, Some(cause));
            }
            // Nothing is read until the group takes us.
            _ if words.starts_with("JoinGroup failed") => {
                let cause = format!("group {} does not take us: {reason}", self.group.id);
                self.change(Standing::Unserved, Some(cause));
            }
            code if is_denial(code) || code == Code::SSL => {
                self.change(Standing::LockedOut, Some(reason));
            }
            Code::AllBrokersDown => {
                let known = self.lock();
                // Being locked out ends in "all brokers down" too; the cause is worth more.
                if known.standing == Standing::LockedOut {
                    return;
                }
                let cause = known.last_failure.clone().unwrap_or(reason);
                drop(known);
                self.change(Standing::Down, Some(cause));
            }
            Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut => {
                debug!(client = self.client, error = %code, "a broker connection failed: {reason}");
                let mut known = self.lock();
                known.last_failure = Some(reason.clone());
                if known.standing == Standing::Down {
                    known.cause = Some(reason);
                }
            }
            _ => debug!(client = self.client, error = %code, "kafka: {reason}"),
        }
    }

    /// Tells a change of standing, and another cause of one that somebody has to mend. What
    /// an outage is put down to changes with every attempt to connect.
    fn change(&self, standing: Standing, cause: Option<String>) {
        let mut known = self.lock();
        let same_cause = standing == Standing::Down || known.cause == cause;
        let same = known.standing == standing && same_cause;
        known.standing = standing;
        known.cause = cause;
        let Some(client) = self.client.filter(|_| !same) else { return };
        match known.trouble() {
            Some(trouble) => warn!(client, "kafka {client}: {trouble}"),
            None => info!(client, "kafka {client}: the broker is there"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Standing {
    /// Whether the broker answers.
    fn is_reached(self) -> bool {
        matches!(self, Self::Up | Self::Unserved | Self::Replaced)
    }
}

impl Known {
    fn trouble(&self) -> Option<String> {
        let cause = self.cause.as_ref()?;
        Some(match self.standing {
            Standing::Down => format!("no broker can be reached: {cause}"),
            Standing::LockedOut => format!("the broker does not let us in: {cause}"),
            _ => cause.clone(),
        })
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
    fn a_broker_that_hangs_up_without_an_error_is_told_by_how_it_did_so() {
        let reach = Reach::new("consumer");
        reach.disconnected(
            "[thrd:b:9/bootstrap]: b:9/bootstrap: Disconnected: connection closed by peer \
             (after 4ms in state APIVERSION_QUERY)",
        );
        reach.failed(Code::AllBrokersDown, "0/1 brokers are down");
        let sentence = reach.state().trouble.expect("there is trouble");
        for said in ["no broker can be reached", "b:9: Disconnected", "security.protocol"] {
            assert!(sentence.contains(said), "{said} in {sentence}");
        }
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
