//! What can go wrong between us and a broker, sorted by what the caller will do about it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::TopicPartition;
use super::reason::reason;

/// Why Kafka did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker is away or busy: wait, then ask again. No record is at fault.
    #[error("kafka is not available: {0}")]
    Unavailable(String),
    /// The broker does not let us in, or does not let us do this: somebody has to change
    /// a right or a password. Asking again later is harmless.
    #[error("kafka denies us access: {0}")]
    Denied(String),
    /// This one record will never be taken, however often it is sent.
    #[error("topic {topic} refuses the record: {reason}")]
    Refused {
        /// Where the record was to go.
        topic: String,
        /// Why it cannot.
        reason: String,
    },
    /// The log no longer has the offset that comes next (retention, a topic made again):
    /// look at the watermarks and seek.
    #[error("partition {partition}: the log does not have the next offset")]
    OffsetLost {
        /// The partition that stands still until somebody seeks.
        partition: TopicPartition,
    },
    /// The broker or our client cannot give the next record, and that does not pass by itself.
    #[error(
        "partition {partition} cannot be read on ({problem}), and what comes next waits: correct \
         that, or, if its log is damaged there, move it on by `infinite-scheduler ingest seek`"
    )]
    Unreadable {
        /// The partition that stands still.
        partition: TopicPartition,
        /// What was reported instead of a record.
        problem: String,
    },
    /// The partition is not ours any more, or another queue of it was split off: stop reading.
    #[error("partition {partition}: no longer read here")]
    Revoked {
        /// The partition that somebody else reads from now on.
        partition: TopicPartition,
    },
    /// A batch was asked for before [`Intake::seek`](super::Intake::seek) said where to begin.
    #[error("partition {partition}: seek before reading")]
    NotSought {
        /// The partition without a place to begin.
        partition: TopicPartition,
    },
    /// The settings are wrong; waiting does not help.
    #[error("kafka settings: {0}")]
    Config(String),
}

impl Error {
    /// Whether the same call may succeed later without anybody changing anything here.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Denied(_))
    }
}

impl From<KafkaError> for Error {
    fn from(error: KafkaError) -> Self {
        match &error {
            KafkaError::ClientConfig(_, description, name, _) => {
                // The value may be a secret, so it is left out.
                return Self::Config(format!("property {name}: {description}"));
            }
            KafkaError::ClientCreation(words) => return Self::Config(reason(words)),
            _ => {}
        }
        match error.rdkafka_error_code() {
            Some(code) if is_denial(code) => Self::Denied(code.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// Whether this means that credentials or rights are missing.
pub(super) fn is_denial(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// Whether this is how a fetch fails that librdkafka repeats until it succeeds: brokers come and
/// go, leaders move, topics are created.
pub(super) fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerDestroy
            | Code::BrokerNotAvailable
            | Code::BrokerTransportFailure
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::FencedLeaderEpoch
            | Code::FetchSessionIdNotFound
            | Code::InvalidFetchSessionEpoch
            | Code::KafkaStorageError
            | Code::LeaderNotAvailable
            | Code::NetworkException
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotLeaderForPartition
            | Code::OffsetNotAvailable
            | Code::OperationTimedOut
            | Code::ReplicaNotAvailable
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::UnknownLeaderEpoch
            | Code::UnknownPartition
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnstableOffsetCommit
            | Code::WaitingForCoordinator
    )
}

/// Whether a broker says this of every record of a batch of which it dislikes one, or of a
/// batch of which every record would be taken alone.
pub(super) fn may_be_its_batch(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
            | Code::InvalidMessage
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat
    )
}

/// Whether the record that met this error will meet it again each time.
pub(super) fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::InvalidArgument
            | Code::InvalidTopic
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat
    )
}
