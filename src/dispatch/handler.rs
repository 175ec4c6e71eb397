//! The trait of handlers, and the results that they return.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::JobContext;
use crate::model::job::JobData;

/// Runs the jobs of an app. Implementors write `async fn execute`.
///
/// A job may be executed more than once (README, "What is promised"): by its
/// [`fence`](JobContext::fence) a receiver can distinguish a late attempt from a newer one.
pub trait JobHandler: Send + Sync + 'static {
    /// Makes one attempt at the job. A panic counts as a failed attempt.
    ///
    /// At its time limit the attempt has failed, whatever the future still does. It is cancelled
    /// then, and dropped a second later. A handler that blocks its thread cannot be dropped: when
    /// `max_in_flight` of those hang, no job of the app starts on this instance.
    ///
    /// # Errors
    /// [`JobError`] decides what happens to the job. Any error passed on by `?` becomes a
    /// [`JobError::Retry`].
    fn execute(&self, ctx: &JobContext) -> impl Future<Output = Result<(), JobError>> + Send;

    /// Validates the data of a job: at admission on an instance that has the handler, else before
    /// the first attempt.
    ///
    /// # Errors
    /// [`Rejection`] says what is wrong, in a message for the request's producer.
    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        let _ = job_data;
        Ok(())
    }

    /// Its name in logs.
    fn name(&self) -> &str {
        "handler"
    }
}

/// For one handler of several apps, or one that its owner continues to use.
impl<H: JobHandler> JobHandler for Arc<H> {
    fn execute(&self, ctx: &JobContext) -> impl Future<Output = Result<(), JobError>> + Send {
        JobHandler::execute(self.as_ref(), ctx)
    }

    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        JobHandler::validate(self.as_ref(), job_data)
    }

    fn name(&self) -> &str {
        JobHandler::name(self.as_ref())
    }
}

/// Why an attempt did not succeed, by what happens to the job.
///
/// It does not implement [`Error`], so that `?` can turn every error into a
/// [`Retry`](Self::Retry). For a value that is not an error either (a string, an `anyhow::Error`)
/// use `.map_err(JobError::retry)?`, and for a job that can never succeed
/// `.map_err(JobError::fail)?`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError {
    /// Retry after the app's backoff, for this reason.
    Retry(String),
    /// Retry after this wait, or after the app's backoff if that is longer.
    RetryAfter(Duration, String),
    /// Do not retry: the job becomes a dead letter at once.
    Fail(String),
    /// The receiver refuses this job for good: as [`Fail`](Self::Fail), but the dead letter's kind
    /// is [`RefusedByTarget`](crate::ErrorKind::RefusedByTarget).
    Refused(String),
    /// Postpone the job until this time, or by one second if that is past. Does not count as an
    /// attempt.
    Snooze(DateTime<Utc>),
}

impl JobError {
    /// A retry after the app's backoff.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self::Retry(in_full(reason))
    }

    /// A final failure.
    pub fn fail(reason: impl fmt::Display) -> Self {
        Self::Fail(in_full(reason))
    }
}

/// The reason alone; for a snooze its end.
impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(reason)
            | Self::RetryAfter(_, reason)
            | Self::Fail(reason)
            | Self::Refused(reason) => f.write_str(reason),
            Self::Snooze(until) => {
                let until = until.to_rfc3339_opts(SecondsFormat::Millis, true);
                write!(f, "snoozed until {until}")
            }
        }
    }
}

/// A retry, whose reason is the error and its causes, separated by `: `.
impl<E: Error> From<E> for JobError {
    fn from(error: E) -> Self {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors contain the text of their cause already.
            if !reason.ends_with(&text) {
                reason.push_str(": ");
                reason.push_str(&text);
            }
            cause = error.source();
        }
        Self::Retry(reason)
    }
}

/// Invalid data fails the job; data that cannot be validated yet is retried.
impl From<Rejection> for JobError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Invalid(reason) => Self::Fail(reason),
            Rejection::NotYet(reason) => Self::Retry(reason),
        }
    }
}

/// Why a handler does not accept a job's data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// It never will: the request becomes a dead letter. The message names the field and what it
    /// should be.
    Invalid(String),
    /// The data cannot be validated at the moment: validate it again later.
    NotYet(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason) | Self::NotYet(reason) => f.write_str(reason),
        }
    }
}

/// Data that does not deserialize is invalid.
impl From<serde_json::Error> for Rejection {
    fn from(error: serde_json::Error) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Uses the alternate form, in which an `anyhow::Error` names its causes too.
fn in_full(reason: impl fmt::Display) -> String {
    format!("{reason:#}")
}

#[cfg(test)]
mod tests {
    use super::super::SharedHandler;
    use super::super::context::tests::context;
    use super::*;

    struct Sender;

    impl JobHandler for Sender {
        async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
            let amount: u32 = ctx.job().data.as_str().trim_matches(['{', '}']).parse()?;
            tokio::task::yield_now().await;
            if amount > 9 { Err(JobError::fail("too much")) } else { Ok(()) }
        }

        fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
            job_data.deserialize::<serde::de::IgnoredAny>()?;
            Ok(())
        }

        fn name(&self) -> &str {
            "sender"
        }
    }

    #[tokio::test]
    async fn a_handler_keeps_its_behaviour_when_its_type_is_forgotten() {
        let own = Arc::new(Sender);
        let shared: [SharedHandler; 2] = [own.clone(), Arc::new(own)];
        for handler in shared {
            assert_eq!(handler.name(), "sender");
            assert_eq!(handler.execute(&context("{7}")).await, Ok(()));
            assert_eq!(
                handler.execute(&context("{10}")).await,
                Err(JobError::Fail("too much".to_owned()).into())
            );
            assert!(matches!(
                handler.validate(&JobData::from_trusted("{x}")),
                Err(Rejection::Invalid(reason)) if reason.contains("column 2")
            ));
        }
    }

    #[tokio::test]
    async fn a_question_mark_makes_any_error_one_to_be_tried_again() {
        let answer = JobHandler::execute(&Sender, &context("{seven}")).await;
        assert_eq!(answer, Err(JobError::Retry("invalid digit found in string".to_owned())));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn an_error_is_told_with_its_causes_but_none_of_them_twice() {
        let told = |texts: &[&'static str]| {
            let layers = texts.iter().rfold(None, |source, &text| {
                let source: Option<Box<Layer>> = source;
                Some(Box::new(Layer { text, source }))
            });
            JobError::from(*layers.unwrap()).to_string()
        };
        assert_eq!(told(&["no answer"]), "no answer");
        assert_eq!(told(&["no answer", "reset", "by peer"]), "no answer: reset: by peer");
        assert_eq!(told(&["no answer: reset", "reset"]), "no answer: reset");
    }

    #[test]
    fn an_anyhow_error_is_told_with_its_causes() {
        let error = anyhow::anyhow!("reset").context("no answer");
        assert_eq!(JobError::retry(error), JobError::Retry("no answer: reset".to_owned()));
    }

    #[test]
    fn invalid_data_fails_the_job_and_data_not_judged_yet_is_tried_again() {
        let reason = || "why".to_owned();
        assert_eq!(JobError::from(Rejection::Invalid(reason())), JobError::Fail(reason()));
        assert_eq!(JobError::from(Rejection::NotYet(reason())), JobError::Retry(reason()));
    }

    #[test]
    fn a_job_error_reads_as_its_reason() {
        let reason = || "why".to_owned();
        for error in [
            JobError::Retry(reason()),
            JobError::RetryAfter(Duration::from_secs(5), reason()),
            JobError::Fail(reason()),
            JobError::Refused(reason()),
        ] {
            assert_eq!(error.to_string(), "why");
        }
        let snooze = JobError::Snooze(DateTime::UNIX_EPOCH);
        assert_eq!(snooze.to_string(), "snoozed until 1970-01-01T00:00:00.000Z");
    }
}
