//! The errors of operations, by what the caller can do about them.

use crate::kafka::Error as KafkaError;
use crate::model::letter::Refusal;

/// Why an operation failed.
///
/// Each message is a sentence that names what is wrong and how to resolve it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The arguments contradict each other or the configuration; change them.
    #[error("{0}")]
    Invalid(String),
    /// The cursor is of another list or filter, or was changed; begin without one.
    #[error("{0}")]
    InvalidCursor(String),
    /// The request, or a value in it, is refused; correct it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What the operation refers to does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What the operation refers to is in a state that does not allow it; read its current state.
    #[error("{0}")]
    Conflict(String),
    /// It is not in the state that was named with `If-Match`: look at it again.
    #[error("{0}")]
    NotMatched(String),
    /// The operation would overwrite something, which was not confirmed; repeat it with the
    /// confirmation.
    #[error("{0}")]
    Unconfirmed(String),
    /// The database or Kafka did not answer, so that the result is not known; repeat the operation
    /// later.
    #[error("{0}")]
    Unavailable(String),
    /// The database has to be changed first: its tables, permissions or settings.
    #[error("{0}")]
    Unusable(String),
    /// The scheduler was shut down.
    #[error("the scheduler was shut down")]
    ShutDown,
}

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<KafkaError> for Error {
    fn from(error: KafkaError) -> Self {
        let why = error.to_string();
        match error {
            KafkaError::Config(_) | KafkaError::Refused { .. } => Self::Invalid(why),
            KafkaError::Unavailable(_)
            | KafkaError::Denied(_)
            | KafkaError::OffsetLost { .. }
            | KafkaError::Unreadable { .. }
            | KafkaError::Revoked { .. }
            | KafkaError::NotSought { .. } => Self::Unavailable(why),
        }
    }
}
