//! Exit codes: what a script can learn from how a command ended.

use std::process::ExitCode;

use super::CannotStart;
use crate::operations::Error as OperationError;

/// For `--help` of the program. A command's own help says what they mean there.
pub(super) const HELP: &str = "\
Examples:
  infinite-scheduler demo
  infinite-scheduler serve --config infinite-scheduler.toml
  infinite-scheduler dead-letters list --from 2h --json

Exit codes:
  0    everything was done
  1    it failed, only a part was done, or --yes is missing
  2    it cannot work as it was asked: the command line, the configuration, the database's tables
  3    the answer is no: nothing is known of it, or its state does not allow it
  4    no answer: the database or Kafka does not answer
  130  ended by Ctrl-C";

/// Why a command did not do all that it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It failed, or a part was done, or what it changes was not confirmed by `--yes`.
    Incomplete = 1,
    /// It cannot succeed with this command line, configuration or database.
    Impossible = 2,
    /// The answer is no.
    No = 3,
    /// The database or Kafka did not answer.
    NoAnswer = 4,
}

impl Exit {
    /// The exit code for a command that ended with `error`.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        if error.is::<CannotStart>() {
            return Self::Impossible;
        }
        match error.downcast_ref::<OperationError>() {
            Some(
                OperationError::Invalid(_)
                | OperationError::InvalidCursor(_)
                | OperationError::Unusable(_),
            ) => Self::Impossible,
            Some(
                OperationError::NotFound(_)
                | OperationError::Conflict(_)
                | OperationError::NotMatched(_)
                | OperationError::Refused(_),
            ) => Self::No,
            Some(OperationError::Unavailable(_) | OperationError::ShutDown) => Self::NoAnswer,
            Some(OperationError::Unconfirmed(_)) | None => Self::Incomplete,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_exit_code_of_what_the_caller_will_do() {
        let text = || "why".to_owned();
        for (error, meant) in [
            (anyhow::anyhow!("why"), Exit::Incomplete),
            (CannotStart(text()).into(), Exit::Impossible),
            (OperationError::Invalid(text()).into(), Exit::Impossible),
            (OperationError::Unusable(text()).into(), Exit::Impossible),
            (OperationError::NotFound(text()).into(), Exit::No),
            (OperationError::Conflict(text()).into(), Exit::No),
            (OperationError::Unavailable(text()).into(), Exit::NoAnswer),
            (OperationError::Unconfirmed(text()).into(), Exit::Incomplete),
        ] {
            assert_eq!(Exit::of(&error), meant, "{error:?}");
            assert_eq!(Exit::of(&error.context("while listing")), meant);
        }
    }
}
