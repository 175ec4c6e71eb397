//! The errors of this module, by what the caller will do about them.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::TopicPartition;
use super::reason::reason;

/// Why an operation on Kafka failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker is unavailable or busy: wait, then retry. No record is at fault.
    #[error("kafka is not available: {0}")]
    Unavailable(String),
    /// The broker refuses the credentials or the operation: an operator has to change a
    /// permission or a password. Retrying is harmless.
    #[error("kafka refuses access: {0}")]
    Denied(String),
    /// This record can never be sent; retrying does not help.
    #[error("topic {topic} refuses the record: {reason}")]
    Refused {
        /// The record's topic.
        topic: String,
        /// Why the record is refused.
        reason: String,
    },
    /// The log no longer has the next offset (retention deleted it, or the topic was recreated):
    /// read the watermarks and seek.
    #[error("partition {partition}: the log does not have the next offset")]
    OffsetLost {
        /// The partition, which yields nothing until the next seek.
        partition: TopicPartition,
    },
    /// The next record cannot be read, for a reason that does not end by itself.
    #[error("partition {partition} cannot be read on: {problem}")]
    Unreadable {
        /// The partition, which yields nothing until the next seek.
        partition: TopicPartition,
        /// librdkafka's error.
        problem: String,
    },
    /// The partition was revoked, or another queue replaced this one: stop reading.
    #[error("partition {partition}: no longer read here")]
    Revoked {
        /// The partition, which has another reader now.
        partition: TopicPartition,
    },
    /// A batch was requested before [`Intake::seek`](super::Intake::seek) set the position.
    #[error("partition {partition}: seek before reading")]
    NotSought {
        /// The partition without a position.
        partition: TopicPartition,
    },
    /// The settings are wrong; retrying does not help.
    #[error("kafka settings: {0}")]
    Config(String),
}

impl Error {
    /// Whether the same call may succeed later without a change of this instance's settings.
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

/// Whether this code means that credentials are wrong or a permission is missing.
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

/// Whether a broker returns this code for every record of a batch because of one of them, or for
/// a batch whose records it would accept one by one.
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

/// Whether librdkafka retries a fetch that fails with this code until it succeeds, as after a
/// restart of a broker, a new leader or a new topic.
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

/// Whether the record will fail with this code each time that it is sent.
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
