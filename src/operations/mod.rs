//! The operations that people and programs can use, implemented once for all interfaces.
//!
//! The command line, the HTTP server and the handle parse their input, call an operation and render
//! its result; they decide nothing. An operation takes typed input, returns a typed result, reports
//! the progress of long work through a callback, and prints nothing. It works as part of a running
//! scheduler, whose [`Scheduler`](crate::Scheduler) has the same groups, and on a database alone.
//! In the latter case it owns no shard and fires nothing; the owners of the shards are notified of
//! what it wrote.

mod error;

mod connect;
mod context;
mod admission;
mod instants;

mod jobs;
mod publish;
mod dead_letters;
mod ingest;
mod apps;
mod forecasts;
mod page;
mod pauses;
mod instances;
mod audit;
mod bulk;
mod tables;

use std::sync::Arc;

use self::context::Context;

pub use crate::model::limits::LimitValues;
pub use admission::Replayed;
pub use apps::{App, AppChange, AppResult, Apps, LimitChange, Overridden};
pub use audit::{Audit, AuditItem, AuditList};
pub use bulk::{
    Bulk, BulkAction, BulkItem, BulkList, BulkPreview, BulkRequest, BulkSamples, BulkStarted,
};
pub use connect::OperationsOptions;
pub use dead_letters::{
    BulkTally, CountedLetters, DeadLetters, Edit, Edited, LetterAction, LetterList, LetterOutcome,
    LetterSelection, ShownLetter,
};
pub(crate) use dead_letters::{WireLetter, WireLetterSummary};
pub use error::{Error, Result};
pub use forecasts::{Forecast, ForecastMinute};
pub use ingest::{
    Ingest, IngestChange, IngestResult, PartitionMove, PartitionPosition, Positions, Seek,
    SeekAnswer, SeekTo,
};
pub use instances::{DrainAnswer, DrainResult, InstanceItem, InstanceState, Instances};
pub(crate) use instants::{rfc3339_ms, rfc3339_s};
pub use jobs::{
    AttemptState, HistoryEntry, JobAnswer, JobName, JobOperation, JobPage, JobPatch, JobPreview,
    JobState, Jobs, ListedJob, OperationOutcome, OperationState, RequestStatus, RunningAttempt,
    ShownJob, Submitted,
};
pub(crate) use jobs::{WireAnswer, WireJob, WireListedJob, WireOperation, WireStatus};
pub use page::PageRequest;
pub use pauses::Paused;
pub use publish::Publisher;
pub use tables::Tables;

pub use crate::model::audit::{AuditAction, AuditSource, By, UnknownAction, UnknownSource};
pub use crate::model::bulk::BulkState;
pub use crate::model::change::{ChangeResult, Setting};
pub use crate::model::filter::{
    DataCondition, InvalidFilter, JobFilter, ListState, TopicPartition,
};
pub use crate::store::{
    AuditFilter, InvalidLetterName, JobCount, LetterCount, LetterFilter, LetterName, LetterState,
    LetterSummary, ReplayChain, Totals,
};

/// The operations on one database, in groups.
///
/// A [`Scheduler`](crate::Scheduler) has the same groups. This one needs no scheduler, and works
/// alongside those that run on the database.
///
/// ```no_run
/// use infinite_scheduler::operations::{LetterAction, LetterFilter, LetterSelection};
/// use infinite_scheduler::{Operations, OperationsOptions};
///
/// # async fn example() -> Result<(), infinite_scheduler::OperationError> {
/// let options = OperationsOptions::new("postgres://user:pass@host/db");
/// let operations = Operations::connect(options).await?;
/// let letters = operations.dead_letters();
/// let failed = LetterFilter { app: Some("sms".into()), ..LetterFilter::default() };
/// let failed = LetterSelection::Counted(letters.select(failed).await?);
/// letters
///     .apply(LetterAction::Replay, &failed, false, |letter, outcome| {
///         println!("{}: {outcome:?}", letter.id);
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Operations {
    context: Arc<Context>,
}

impl Operations {
    /// The same operations on behalf of `by`: the audit names it with each change that is made
    /// through what is returned. Otherwise changes are made by [`By::program`].
    pub fn by(&self, by: By) -> Self {
        Self { context: Arc::new(Context { by, ..Context::clone(&self.context) }) }
    }

    /// Requests for jobs, and their status.
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs::new(&self.context)
    }

    /// Requests that could not become jobs, and jobs that failed permanently.
    pub fn dead_letters(&self) -> DeadLetters<'_> {
        DeadLetters::new(&self.context)
    }

    /// How far the ingest topics have been read, and from which offset they are read on.
    pub fn ingest(&self) -> Ingest<'_> {
        Ingest::new(&self.context)
    }

    /// The apps that were ever registered on the database.
    pub fn apps(&self) -> Apps<'_> {
        Apps::new(&self.context)
    }

    /// The instances on the database.
    pub fn instances(&self) -> Instances<'_> {
        Instances::new(&self.context)
    }

    /// Who changed what, when and why.
    pub fn audit(&self) -> Audit<'_> {
        Audit::new(&self.context)
    }

    /// Actions on every job or dead letter that a filter selects.
    pub fn bulk(&self) -> Bulk<'_> {
        Bulk::new(&self.context)
    }

    /// Closes the connections to the database. References to the groups must not be used
    /// afterwards.
    pub async fn close(self) {
        self.context.store().close().await;
    }
}
