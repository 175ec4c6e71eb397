//! The ways in which an attempt ends.

use std::time::Duration;

use crate::dispatch::Failure;
use crate::model::letter::ErrorKind;

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
    /// It must not start any more, and becomes a dead letter.
    Ruled(Box<Ruling>),
    /// It did not start, since the job's row is not the one that was to be fired.
    OtherRow,
    /// It never ran, since the lease had ended or the instance was shutting down.
    NotStarted,
    /// It was cancelled, and does not count as an attempt of the job.
    Cancelled,
}

/// Why a job becomes a dead letter before an attempt at it starts.
#[derive(Debug)]
pub(in crate::actors) struct Ruling {
    pub(in crate::actors) kind: ErrorKind,
    pub(in crate::actors) why: String,
    /// Whether the attempt before, which is not counted yet, counts.
    pub(in crate::actors) counts: bool,
}
