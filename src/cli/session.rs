//! What most commands begin with: the configuration, the log, and operations on the database.

use tracing_subscriber::filter::LevelFilter;

use super::author::Author;
use super::{ConfigFile, Refused, cannot_start, load};
use crate::config::Config;
use crate::operations::{Error as OperationError, Operations};
use crate::telemetry;

/// The configuration, and operations on the database that it names.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: Config,
    pub(super) operations: Operations,
}

impl Session {
    /// Opens a database that exists, with the tables of this version. What is logged below
    /// `log_level` is left out.
    pub(super) async fn open(file: &ConfigFile, log_level: LevelFilter) -> anyhow::Result<Self> {
        let config = load(file.config.as_deref())?;
        telemetry::init(config.log.format, log_level).map_err(cannot_start)?;
        let operations = Operations::connect(&config).await.map_err(failed)?;
        Ok(Self { config, operations })
    }

    /// The operations on behalf of the author of a change.
    pub(super) fn operations_of(&self, author: &Author) -> Operations {
        self.operations.by(author.by())
    }

    pub(super) async fn close(self) {
        self.operations.close().await;
    }
}

/// What the failure of an operation means for the process: whether another command line, or
/// another configuration, is needed.
pub(super) fn failed(error: OperationError) -> anyhow::Error {
    match error {
        OperationError::Invalid(_) | OperationError::Unusable(_) => cannot_start(error).into(),
        OperationError::Refused(_)
        | OperationError::NotFound(_)
        | OperationError::Conflict(_)
        | OperationError::NotMatched(_)
        | OperationError::Unconfirmed(_)
        | OperationError::Unavailable(_)
        | OperationError::ShutDown => error.into(),
    }
}

/// As [`failed`], where what does not exist or does not allow it is an answer and no failure.
pub(super) fn refused(error: OperationError) -> anyhow::Error {
    match error {
        OperationError::NotFound(why)
        | OperationError::Conflict(why)
        | OperationError::NotMatched(why) => Refused(why).into(),
        error => failed(error),
    }
}
