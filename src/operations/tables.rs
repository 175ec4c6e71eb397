//! The database's tables: migrate and remove them.

use std::time::Duration;

use super::context::database_error;
use super::{Error, OperationsOptions, Result};
use crate::model::ids::InstanceId;
use crate::store::{Error as StoreError, Store};

/// The tables of one database.
#[derive(Debug)]
pub struct Tables {
    store: Store,
    database: String,
}

impl Tables {
    /// The tables of the database of `options`; an SQLite file that does not exist is created.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a database that cannot be used; [`Error::Unavailable`] if it does
    /// not answer.
    pub async fn connect(options: impl Into<OperationsOptions>) -> Result<Self> {
        let options = options.into().migrate_first();
        Ok(Self { store: options.open_store().await?, database: options.shown() })
    }

    /// The database's URL without its password, and which kind it is.
    pub fn database(&self) -> String {
        format!("{} ({})", self.database, self.store.kind())
    }

    /// Migrates the tables to this version; returns the steps that were applied, oldest first.
    ///
    /// # Errors
    /// [`Error::Unusable`] if they are those of a newer version or not the scheduler's;
    /// [`Error::Unavailable`] if the database does not answer: repeat the call.
    pub async fn migrate(&self) -> Result<Vec<String>> {
        let before = self.steps().await?;
        self.store.migrate().await.map_err(|error| self.error(error))?;
        let now = self.steps().await?;
        Ok(now.into_iter().filter(|step| !before.contains(step)).collect())
    }

    /// Removes all tables, with every job and dead letter in them; returns the steps that were
    /// reverted, in the order in which they had been applied. An empty result means that there were
    /// no tables.
    ///
    /// # Errors
    /// [`Error::Conflict`] while an instance runs on them; [`Error::Unusable`] if they are not the
    /// scheduler's; [`Error::Unavailable`] if the database does not answer.
    pub async fn remove(&self) -> Result<Vec<String>> {
        let steps = self.steps().await?;
        if steps.is_empty() {
            return Ok(steps);
        }
        if let Some(left) = self.longest_lease().await? {
            let seconds = left.as_secs_f64();
            return Err(Error::Conflict(format!(
                "an instance is running on these tables (its lease goes on for {seconds:.1} s): \
                 stop it first"
            )));
        }
        self.store.migrate_down().await.map_err(|error| self.error(error))?;
        Ok(steps)
    }

    /// Closes the connections.
    pub async fn close(self) {
        self.store.close().await;
    }

    async fn steps(&self) -> Result<Vec<String>> {
        let steps = self.store.applied_migrations().await;
        Ok(steps.map_err(|error| self.error(error))?.into_iter().collect())
    }

    /// The remaining time of the longest lease, if an instance has a valid one.
    async fn longest_lease(&self) -> Result<Option<Duration>> {
        // No instance has the id 0, so this only reads.
        let seen = self.store.observe(InstanceId(0)).await.map_err(|error| self.error(error))?;
        let until = seen.instances.iter().map(|instance| instance.lease_until_us).max();
        let left_us = until.unwrap_or(i64::MIN).saturating_sub(seen.now_us);
        Ok(u64::try_from(left_us).ok().filter(|left| *left > 0).map(Duration::from_micros))
    }

    fn error(&self, error: StoreError) -> Error {
        database_error(&self.database, error)
    }
}
