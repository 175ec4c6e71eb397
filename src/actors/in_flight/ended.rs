//! The ways in which an attempt ends.

use std::time::Duration;

use crate::dispatch::Failure;

/// How an attempt ended.
#[derive(Debug)]
pub(in crate::actors) enum Ended {
    /// The handler returned.
    Returned(Result<(), Failure>),
    /// It exceeded its time limit.
    TimedOut(Duration),
    /// It panicked, or its task was aborted.
    Panicked,
    /// The job's `expiresTime` had passed.
    Expired,
    /// It must not start: its instance ended whenever it ran. With what is to be said of that.
    Interrupted(String),
    /// It did not start, since the job's row is not the one that was to be fired.
    OtherRow,
    /// It never ran, since the lease had ended or the instance was shutting down.
    NotStarted,
    /// It was cancelled, and does not count as an attempt of the job.
    Cancelled,
}
