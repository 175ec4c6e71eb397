//! The start of most commands: the configuration, the log, and the operations on the database.

use tracing_subscriber::filter::LevelFilter;

use super::author::Author;
use super::{ConfigFile, cannot_start, load};
use crate::config::Config;
use crate::operations::Operations;
use crate::telemetry;

/// The configuration, and operations on the database that it names.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: Config,
    pub(super) operations: Operations,
}

impl Session {
    /// Opens a database that exists and has the tables of this version. Events below `log_level`
    /// are not logged.
    pub(super) async fn open(file: &ConfigFile, log_level: LevelFilter) -> anyhow::Result<Self> {
        let config = load(file.config.as_deref())?;
        telemetry::init(config.log.format, log_level).map_err(cannot_start)?;
        let operations = Operations::connect(&config).await?;
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
