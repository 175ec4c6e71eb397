//! What most commands begin with: the configuration, the log, and operations on the database.

use tracing_subscriber::filter::LevelFilter;

use super::{ConfigFile, cannot_start, load};
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
        | OperationError::Unconfirmed(_)
        | OperationError::Unavailable(_)
        | OperationError::ShutDown => error.into(),
    }
}
