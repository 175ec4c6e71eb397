//! Why an operation did not do what it was asked, by what the caller will do about it.

use crate::kafka::Error as KafkaError;
use crate::model::letter::Refusal;

/// Why an operation did not do what it was asked.
///
/// Each message is a sentence for people that names what is wrong and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It contradicts itself or the configuration: ask for something else.
    #[error("{0}")]
    Invalid(String),
    /// The request or the value in it is refused: correct it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What it is about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What it is about is in a state that does not allow it: look at it again.
    #[error("{0}")]
    Conflict(String),
    /// It is not in the state that was named with `If-Match`: look at it again.
    #[error("{0}")]
    NotMatched(String),
    /// Something would be lost by it, and that was not confirmed: ask with the confirmation.
    #[error("{0}")]
    Unconfirmed(String),
    /// The database or Kafka did not answer, so that the outcome is not known: ask the same
    /// again, later.
    #[error("{0}")]
    Unavailable(String),
    /// It cannot work before the database is changed: its tables, rights or settings.
    #[error("{0}")]
    Unusable(String),
    /// The scheduler was shut down before: it does nothing any more.
    #[error("the scheduler was shut down")]
    ShutDown,
}

/// What operations return.
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
