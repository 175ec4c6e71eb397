//! Whether the broker can be reached, and if not, why: a state for health checks, derived from
//! librdkafka's errors and log lines.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::debug;

use super::error::is_denial;
use super::reason::{reason, was_idle};
use super::{Error, KafkaIngestConfig};

/// The state of the connection between a client and its brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerState {
    /// Whether the broker answered the last request or probe.
    pub reachable: bool,
    /// What is wrong, as a sentence; `None` if nothing is wrong or nothing is known yet.
    pub trouble: Option<String>,
    /// The kind of problem that `trouble` describes.
    pub kind: Option<TroubleKind>,
}

/// What is wrong between a client and its brokers, by what an operator has to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TroubleKind {
    /// No broker answers.
    Unreachable,
    /// No broker accepts the credentials or certificates, or a permission on the cluster is
    /// missing.
    Denied,
    /// A topic is missing, or may not be used.
    Topic,
    /// The group does not accept this member, or has excluded it.
    Group,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    /// No broker has answered yet.
    #[default]
    Connecting,
    /// The last request or probe had an answer.
    Up,
    /// No broker answers.
    Down,
    /// Credentials or certificates are wrong: the broker answers no request.
    Denied,
    /// The broker answers, but refuses the topic or the group.
    Refused(TroubleKind),
    /// The client had a fatal error and was replaced.
    Replaced,
}

/// What is known about the brokers.
#[derive(Debug, Default)]
struct Known {
    status: Status,
    /// What is wrong, without the prefix that the status adds.
    cause: Option<String>,
    /// Why single connections failed: the reason behind "all brokers are down".
    last_failure: Option<String>,
    /// The broker closed the last failed connection because it was idle.
    was_idle: bool,
    /// No connection is left, and a probe has to show whether that is an outage.
    is_suspect: bool,
}

/// What librdkafka's callbacks and the probes have shown so far.
#[derive(Debug)]
pub(super) struct Connectivity {
    /// The client's name in the log; `None` if its caller reports the errors.
    client: Option<&'static str>,
    /// The client's group, if it is a member of one.
    group: Group,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Group {
    id: String,
    /// Its `group.instance.id`, if it has one.
    instance_id: Option<String>,
}

impl Connectivity {
    /// The state of a new client, called `client` in the log.
    pub(super) fn new(client: &'static str) -> Self {
        Self { client: Some(client), group: Group::default(), known: Mutex::default() }
    }

    /// The state of a new client that is a member of the group of `config`.
    pub(super) fn of_group(client: &'static str, config: &KafkaIngestConfig) -> Self {
        let instance_id = config.properties.get("group.instance.id").cloned();
        let group = Group { id: config.group_id.clone(), instance_id };
        Self { group, ..Self::new(client) }
    }

    /// The state of a new client that lives briefly, and whose caller reports the errors.
    pub(super) fn unreported() -> Self {
        Self { client: None, group: Group::default(), known: Mutex::default() }
    }

    /// The current state.
    pub(super) fn state(&self) -> BrokerState {
        let known = self.lock();
        BrokerState {
            reachable: known.status.is_reached(),
            trouble: known.trouble(),
            kind: known.cause.as_ref().and_then(|_| known.status.kind()),
        }
    }

    /// Whether the broker should be probed.
    pub(super) fn should_probe(&self) -> bool {
        let known = self.lock();
        known.is_suspect || !known.status.is_reached()
    }

    /// Whether something is wrong, or may be wrong.
    pub(super) fn is_in_trouble(&self) -> bool {
        let known = self.lock();
        known.is_suspect || known.cause.is_some()
    }

    /// `error`, with the known cause instead of a bare "timed out".
    pub(super) fn explain(&self, error: Error) -> Error {
        let known = self.lock();
        match (&error, known.status, &known.cause) {
            (Error::Unavailable(_), Status::Denied, Some(cause)) => Error::Denied(cause.clone()),
            (Error::Unavailable(_), Status::Down, Some(cause)) => {
                Error::Unavailable(format!("no broker can be reached: {cause}"))
            }
            _ => error,
        }
    }

    /// The broker answered a probe.
    pub(super) fn answered(&self) {
        let mut known = self.lock();
        known.is_suspect = false;
        let is_served = !matches!(known.status, Status::Refused(_));
        drop(known);
        if is_served {
            self.served();
        }
    }

    /// The broker did not answer a probe.
    pub(super) fn unanswered(&self) {
        let known = self.lock();
        if known.is_suspect {
            let cause = known.last_failure.clone();
            drop(known);
            self.change(Status::Down, cause);
        }
    }

    /// The client does its work: partitions were assigned to it, or a record was accepted from
    /// it.
    pub(super) fn served(&self) {
        // The next client may have the same fatal error; see `recovered`.
        if self.lock().status != Status::Replaced {
            self.change(Status::Up, None);
        }
    }

    /// The client had a fatal error; another one replaces it `after` this wait.
    pub(super) fn ended(&self, code: Code, message: &str, after: Duration) {
        let Group { id, instance_id } = &self.group;
        let cause = match (code, instance_id) {
            (Code::FencedInstanceId, Some(name)) => format!(
                "another member of group {id} has the same group.instance.id, {name:?}, and takes \
                 our place: give each instance another \"group.instance.id\" in kafka.properties, \
                 or none"
            ),
            _ => format!(
                "the client had a fatal error and is replaced ({}): if that \
                 continues, correct what it names",
                reason(message)
            ),
        };
        debug!(client = self.client, after_ms = after.as_millis() as u64, "kafka: to be replaced");
        self.change(Status::Replaced, Some(cause));
    }

    /// The client has run for long enough: its predecessor's error is over.
    pub(super) fn recovered(&self) {
        if self.lock().status == Status::Replaced {
            self.change(Status::Up, None);
        }
    }

    /// A log line of librdkafka about a connection that ended; it can have a cause that the error
    /// lacks.
    pub(super) fn disconnected(&self, line: &str) {
        self.lock().note_failure(line);
    }

    /// librdkafka reported the error `code` with this message.
    pub(super) fn failed(&self, code: Code, message: &str) {
        let reason = reason(message);
        match code {
            // An error of one partition: its reader reports it, and knows when it is over.
            Code::TopicAuthorizationFailed if message.starts_with("Fetch from") => {}
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed => {
                let kind = match code {
                    Code::TopicAuthorizationFailed => TroubleKind::Topic,
                    Code::GroupAuthorizationFailed => TroubleKind::Group,
                    _ => TroubleKind::Denied,
                };
                let cause = format!("a permission is missing: {reason}");
                self.change(Status::Refused(kind), Some(cause));
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                let cause = format!("a topic is missing: {reason}");
                self.change(Status::Refused(TroubleKind::Topic), Some(cause));
            }
            Code::InconsistentGroupProtocol => {
                let cause = format!(
                    "group {} has members of another kind, which assign its partitions by another \
                     protocol than cooperative-sticky: stop them, or give \
                     kafka.group_id another name",
                    self.group.id
                );
                self.change(Status::Refused(TroubleKind::Group), Some(cause));
            }
            // Nothing is read until the group accepts the member.
            _ if message.starts_with("JoinGroup failed") => {
                let cause =
                    format!("group {} does not accept this member: {reason}", self.group.id);
                self.change(Status::Refused(TroubleKind::Group), Some(cause));
            }
            code if is_denial(code) || code == Code::SSL => {
                self.change(Status::Denied, Some(reason));
            }
            Code::AllBrokersDown => {
                let mut known = self.lock();
                // Wrong credentials also end in "all brokers down", but have the better cause.
                if known.status == Status::Denied {
                    return;
                }
                // A connection that was closed because it was idle is opened again when it is
                // needed.
                if known.was_idle && known.status != Status::Down {
                    known.is_suspect = true;
                    return;
                }
                let cause = known.last_failure.clone().unwrap_or(reason);
                drop(known);
                self.change(Status::Down, Some(cause));
            }
            Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut => {
                debug!(client = self.client, error = %code, "a broker connection failed: {reason}");
                let mut known = self.lock();
                known.note_failure(message);
                if known.status == Status::Down {
                    known.cause = Some(reason);
                } else if known.is_suspect && !known.was_idle {
                    drop(known);
                    self.change(Status::Down, Some(reason));
                }
            }
            _ => debug!(client = self.client, error = %code, "kafka: {reason}"),
        }
    }

    fn change(&self, status: Status, cause: Option<String>) {
        let mut known = self.lock();
        known.is_suspect = false;
        known.status = status;
        known.cause = cause;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Status {
    /// Whether the broker answers.
    fn is_reached(self) -> bool {
        matches!(self, Self::Up | Self::Refused(_) | Self::Replaced)
    }

    fn kind(self) -> Option<TroubleKind> {
        match self {
            Self::Connecting | Self::Up => None,
            Self::Down => Some(TroubleKind::Unreachable),
            Self::Denied => Some(TroubleKind::Denied),
            Self::Refused(kind) => Some(kind),
            Self::Replaced => Some(TroubleKind::Group),
        }
    }
}

impl Known {
    fn note_failure(&mut self, message: &str) {
        self.last_failure = Some(reason(message));
        self.was_idle = was_idle(message);
    }

    fn trouble(&self) -> Option<String> {
        let cause = self.cause.as_ref()?;
        Some(match self.status {
            Status::Down => format!("no broker can be reached: {cause}"),
            Status::Denied => format!("the broker refuses access: {cause}"),
            _ => cause.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
