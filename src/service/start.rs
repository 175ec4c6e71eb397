//! Starts a scheduler from its builder.

use super::bring_up::{self, StartError};
use super::{Scheduler, SchedulerBuilder};

impl SchedulerBuilder {
    /// Starts the scheduler: database and migrations, actors, Kafka.
    ///
    /// Waits for an unavailable database, with a warning. An unavailable broker does not delay the
    /// start: [`Scheduler::health`] reports it until it is available.
    ///
    /// # Errors
    /// [`StartError`] for a reason that is not temporary, such as contradicting settings or a
    /// database of a newer version.
    pub async fn start(mut self) -> Result<Scheduler, StartError> {
        self.resolve().map_err(StartError::Settings)?;
        bring_up::start(self).await
    }
}
