//! Whether the broker can be reached, as health checks and people want to know it.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::debug;

use super::error::is_denial;
use super::reason::{reason, was_idle};
use super::{Error, KafkaIngestConfig};

/// How a client stands with its broker just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerState {
    /// Whether the broker answered when it was last asked.
    pub reachable: bool,
    /// What is wrong, as a sentence; `None` when all is well or nothing is known yet.
    pub trouble: Option<String>,
    /// What kind of trouble that is.
    pub kind: Option<TroubleKind>,
}

/// What is wrong between a client and its brokers, by what somebody has to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TroubleKind {
    /// No broker answers.
    Unreachable,
    /// No broker accepts our credentials or certificates, or a right over the cluster is missing.
    Denied,
    /// A topic is missing, or we may not use it.
    Topic,
    /// The group does not accept us, or has excluded us.
    Group,
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
    Unserved(TroubleKind),
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
    /// The last connection that failed was closed by a broker that did not need it any more.
    was_idle: bool,
    /// No connection is left, and it is to be asked whether that is an outage.
    is_doubted: bool,
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
        BrokerState {
            reachable: known.standing.is_reached(),
            trouble: known.trouble(),
            kind: known.cause.as_ref().and_then(|_| known.standing.kind()),
        }
    }

    /// Whether the broker should be asked if it is there again.
    pub(super) fn is_in_doubt(&self) -> bool {
        let known = self.lock();
        known.is_doubted || !known.standing.is_reached()
    }

    /// Whether something is wrong, or may be.
    pub(super) fn is_in_trouble(&self) -> bool {
        let known = self.lock();
        known.is_doubted || known.cause.is_some()
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
        let mut known = self.lock();
        known.is_doubted = false;
        let is_served = !matches!(known.standing, Standing::Unserved(_));
        drop(known);
        if is_served {
            self.served();
        }
    }

    /// The broker did not answer a question.
    pub(super) fn unanswered(&self) {
        let known = self.lock();
        if known.is_doubted {
            let cause = known.last_failure.clone();
            drop(known);
            self.change(Standing::Down, cause);
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
        let cause = match (code, instance_id) {
            (Code::FencedInstanceId, Some(name)) => format!(
                "another member of group {id} has the same group.instance.id, {name:?}, and takes \
                 our place: give each instance another \"group.instance.id\" in kafka.properties, \
                 or none"
            ),
            _ => format!(
                "the client met an error that it cannot get over and is replaced ({}): if that \
                 goes on, correct what it names",
                reason(words)
            ),
        };
        debug!(client = self.client, after_ms = after.as_millis() as u64, "kafka: to be replaced");
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
        self.lock().note_failure(line);
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
                let kind = match code {
                    Code::TopicAuthorizationFailed => TroubleKind::Topic,
                    Code::GroupAuthorizationFailed => TroubleKind::Group,
                    _ => TroubleKind::Denied,
                };
                let cause = format!("a right is missing: {reason}");
                self.change(Standing::Unserved(kind), Some(cause));
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                let cause = format!("a topic is missing: {reason}");
                self.change(Standing::Unserved(TroubleKind::Topic), Some(cause));
            }
            Code::InconsistentGroupProtocol => {
                let cause = format!(
                    "group {} has members of another kind, which share its partitions by another \
                     protocol than ours (cooperative-sticky): stop them, or give \
                     kafka.group_id another name",
                    self.group.id
                );
                self.change(Standing::Unserved(TroubleKind::Group), Some(cause));
            }
            // Nothing is read until the group takes us.
            _ if words.starts_with("JoinGroup failed") => {
                let cause = format!("group {} does not take us: {reason}", self.group.id);
                self.change(Standing::Unserved(TroubleKind::Group), Some(cause));
            }
            code if is_denial(code) || code == Code::SSL => {
                self.change(Standing::LockedOut, Some(reason));
            }
            Code::AllBrokersDown => {
                let mut known = self.lock();
                // Being locked out ends in "all brokers down" too; the cause is worth more.
                if known.standing == Standing::LockedOut {
                    return;
                }
                // A connection that idles out is opened again when it is needed.
                if known.was_idle && known.standing != Standing::Down {
                    known.is_doubted = true;
                    return;
                }
                let cause = known.last_failure.clone().unwrap_or(reason);
                drop(known);
                self.change(Standing::Down, Some(cause));
            }
            Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut => {
                debug!(client = self.client, error = %code, "a broker connection failed: {reason}");
                let mut known = self.lock();
                known.note_failure(words);
                if known.standing == Standing::Down {
                    known.cause = Some(reason);
                } else if known.is_doubted && !known.was_idle {
                    drop(known);
                    self.change(Standing::Down, Some(reason));
                }
            }
            _ => debug!(client = self.client, error = %code, "kafka: {reason}"),
        }
    }

    fn change(&self, standing: Standing, cause: Option<String>) {
        let mut known = self.lock();
        known.is_doubted = false;
        known.standing = standing;
        known.cause = cause;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Standing {
    /// Whether the broker answers.
    fn is_reached(self) -> bool {
        matches!(self, Self::Up | Self::Unserved(_) | Self::Replaced)
    }

    fn kind(self) -> Option<TroubleKind> {
        match self {
            Self::Connecting | Self::Up => None,
            Self::Down => Some(TroubleKind::Unreachable),
            Self::LockedOut => Some(TroubleKind::Denied),
            Self::Unserved(kind) => Some(kind),
            Self::Replaced => Some(TroubleKind::Group),
        }
    }
}

impl Known {
    fn note_failure(&mut self, words: &str) {
        self.last_failure = Some(reason(words));
        self.was_idle = was_idle(words);
    }

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
mod tests;
