//! What executes the jobs of an app: a handler of any type, or a target.

use std::sync::Arc;

use futures::TryFutureExt;
use futures::future::BoxFuture;

use super::{Failure, JobContext, JobHandler, Rejection, TargetNotes};
use crate::model::job::JobData;

/// What executes the jobs of an app, as a trait object: a [`JobHandler`] or a target.
pub(crate) trait DynJobHandler: Send + Sync + 'static {
    /// See [`JobHandler::execute`].
    ///
    /// # Errors
    /// The handler's error, or why the target has not taken the job.
    fn execute<'a>(&'a self, ctx: &'a JobContext) -> BoxFuture<'a, Result<(), Failure>>;

    /// See [`JobHandler::validate`]. A target accepts all data.
    ///
    /// # Errors
    /// The handler's error.
    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        let _ = job_data;
        Ok(())
    }

    /// See [`JobHandler::name`].
    fn name(&self) -> &str;

    /// The target outside of this program; `None` of a handler. An attempt at a target ends by
    /// itself, and must not be dropped at its time limit: what was passed to a client may still be
    /// delivered.
    fn target(&self) -> Option<Target>;
}

/// Where jobs go that leave the program.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What reports call it.
    pub(crate) subject: String,
    /// What it counts.
    pub(crate) notes: Arc<TargetNotes>,
}

/// A shared handler of any type.
pub(crate) type SharedHandler = Arc<dyn DynJobHandler>;

impl<H: JobHandler> DynJobHandler for H {
    fn execute<'a>(&'a self, ctx: &'a JobContext) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(JobHandler::execute(self, ctx).map_err(Failure::Handler))
    }

    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        JobHandler::validate(self, job_data)
    }

    fn name(&self) -> &str {
        JobHandler::name(self)
    }

    fn target(&self) -> Option<Target> {
        None
    }
}
