//! Why an attempt did not succeed, and what that says about the target.

use std::time::Duration;

use super::{JobError, Rejection};
use crate::model::circuit::Sign;
use crate::model::ids::JobId;

/// Why an attempt did not succeed. What follows for the job is decided by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The error of a handler in the program.
    Handler(JobError),
    /// Nothing reached the target, or it is in a state in which it takes no job: no attempt.
    NotSent(String),
    /// The target is unavailable, and may get the job all the same: no attempt.
    NotConfirmed(String),
    /// The job was sent, and there is no answer.
    NoAnswer(String),
    /// The target has got too many requests and has not tried this one: no attempt.
    TooMany {
        /// Its answer.
        why: String,
        /// The wait that it asks for.
        retry_after: Option<Duration>,
    },
    /// The attempt failed, and another one may succeed.
    Again {
        /// What happened.
        why: String,
        /// The wait that the target asks for.
        retry_after: Option<Duration>,
        /// What it says something about.
        about: About,
    },
    /// The answer is final.
    Refused {
        /// The answer.
        why: String,
        /// What it says something about.
        about: About,
    },
}

/// What a failure says something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The job alone: the target has answered.
    Job,
    /// The target: other jobs probably fail as well.
    Target,
    /// The target, which is too busy: a wait that it asks for holds for the whole app.
    BusyTarget,
}

impl Failure {
    /// What it says about the target, if it is of an attempt at `job`.
    pub(crate) fn sign(&self, job: JobId) -> Sign {
        match self {
            Self::Handler(_) => Sign::None,
            Self::NotSent(_) | Self::NotConfirmed(_) => Sign::NotSent,
            Self::NoAnswer(_) => Sign::Failed(job),
            Self::TooMany { .. } => Sign::TooMany,
            Self::Again { about, .. } | Self::Refused { about, .. } => match about {
                About::Job => Sign::Answered,
                About::Target | About::BusyTarget => Sign::Failed(job),
            },
        }
    }

    /// How long the target asks for no jobs at all.
    pub(crate) fn hold(&self) -> Option<Duration> {
        match self {
            Self::TooMany { retry_after, .. }
            | Self::Again { retry_after, about: About::BusyTarget, .. } => *retry_after,
            Self::Handler(_)
            | Self::NotSent(_)
            | Self::NotConfirmed(_)
            | Self::NoAnswer(_)
            | Self::Again { .. }
            | Self::Refused { .. } => None,
        }
    }

    /// Whether it counts as an attempt of the job.
    pub(crate) fn is_attempt(&self) -> bool {
        !matches!(
            self,
            Self::NotSent(_)
                | Self::NotConfirmed(_)
                | Self::TooMany { .. }
                | Self::Handler(JobError::Snooze(_))
        )
    }

    /// Whether the target may have got the job without saying so.
    pub(crate) fn may_have_arrived(&self) -> bool {
        matches!(self, Self::NotConfirmed(_) | Self::NoAnswer(_))
    }

    /// What happened.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Handler(error) => error.to_string(),
            Self::NotSent(why)
            | Self::NotConfirmed(why)
            | Self::NoAnswer(why)
            | Self::TooMany { why, .. }
            | Self::Again { why, .. }
            | Self::Refused { why, .. } => why.clone(),
        }
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self::Handler(error)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Handler(rejection.into())
    }
}
