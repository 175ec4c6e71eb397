//! From a builder to a running scheduler.

use super::bring_up::{self, StartError};
use super::{Scheduler, SchedulerBuilder};

impl SchedulerBuilder {
    /// Brings everything up: database and migrations, app schedulers, clean-up, Kafka.
    ///
    /// A database that is unavailable is waited for, with a warning; an unavailable broker does not
    /// hold this up: [`Scheduler::health`] says so until it answers.
    ///
    /// # Errors
    /// [`StartError`] for what waiting cannot change: settings that contradict each other, a
    /// database of a newer version.
    pub async fn start(mut self) -> Result<Scheduler, StartError> {
        self.resolve().map_err(StartError::Settings)?;
        bring_up::start(self).await
    }
}
