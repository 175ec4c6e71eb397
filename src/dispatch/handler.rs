//! What a handler is, and what it may answer.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::BoxFuture;

use super::JobContext;
use crate::model::job::JobData;

/// Does an app's jobs. Implementors write `async fn execute`.
///
/// A job may be executed more than once (README, "What is promised"): by its
/// [`fence`](JobContext::fence) a receiver can tell a late attempt from a newer one.
pub trait JobHandler: Send + Sync + 'static {
    /// Makes one attempt at the job. A panic is a failed attempt and nothing else.
    ///
    /// The future is dropped when the attempt has taken as long as it may.
    ///
    /// # Errors
    /// [`JobError`] says what is to become of the job. Any error that `?` meets on the way
    /// is a [`JobError::Retry`].
    fn execute(&self, ctx: &JobContext) -> impl Future<Output = Result<(), JobError>> + Send;

    /// Judges the data of a job when it is asked for, else before its first attempt.
    ///
    /// # Errors
    /// [`Rejection`] says what is wrong with it, in words for who asked for the job.
    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        let _ = job_data;
        Ok(())
    }

    /// What logs call it.
    fn name(&self) -> &str {
        "handler"
    }

    /// Whether each attempt ends by itself, so that it is not dropped when it has taken as long
    /// as it may. For those who hand a job over: what was handed over may still be delivered
    /// when nobody waits for it any more, and a receiver that is away is no attempt.
    fn ends_by_itself(&self) -> bool {
        false
    }
}

/// A [`JobHandler`] whose type is forgotten; every handler is one, nobody implements it.
pub trait DynJobHandler: Send + Sync + 'static {
    /// See [`JobHandler::execute`].
    ///
    /// # Errors
    /// What the handler answers.
    fn execute<'a>(&'a self, ctx: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>>;

    /// See [`JobHandler::validate`].
    ///
    /// # Errors
    /// What the handler answers.
    fn validate(&self, job_data: &JobData) -> Result<(), Rejection>;

    /// See [`JobHandler::name`].
    fn name(&self) -> &str;

    /// See [`JobHandler::ends_by_itself`].
    fn ends_by_itself(&self) -> bool;
}

/// A handler of any type that several may hold.
pub type SharedHandler = Arc<dyn DynJobHandler>;

impl<H: JobHandler> DynJobHandler for H {
    fn execute<'a>(&'a self, ctx: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(JobHandler::execute(self, ctx))
    }

    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        JobHandler::validate(self, job_data)
    }

    fn name(&self) -> &str {
        JobHandler::name(self)
    }

    fn ends_by_itself(&self) -> bool {
        JobHandler::ends_by_itself(self)
    }
}

/// One handler for several apps, or one that its owner goes on looking at.
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

    fn ends_by_itself(&self) -> bool {
        JobHandler::ends_by_itself(self.as_ref())
    }
}

/// Why an attempt was not a success, by what is to become of the job.
///
/// It is no [`Error`] itself, so that `?` can turn every error into a [`Retry`](Self::Retry).
/// What is no error either (a text, an `anyhow::Error`) goes through
/// `.map_err(JobError::retry)?`, and what can never succeed through `.map_err(JobError::fail)?`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError {
    /// Again after the app's backoff, for this reason.
    Retry(String),
    /// Again after this wait, whatever the app's backoff says.
    RetryAfter(Duration, String),
    /// Never again: the job is a dead letter at once.
    Fail(String),
    /// Not now, but from this moment on. Does not count as an attempt.
    Snooze(DateTime<Utc>),
}

impl JobError {
    /// Again after the app's backoff.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self::Retry(in_full(reason))
    }

    /// Never again.
    pub fn fail(reason: impl fmt::Display) -> Self {
        Self::Fail(in_full(reason))
    }
}

/// The reason alone, except that a snooze names its end.
impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(reason) | Self::RetryAfter(_, reason) | Self::Fail(reason) => {
                f.write_str(reason)
            }
            Self::Snooze(until) => {
                let until = until.to_rfc3339_opts(SecondsFormat::Millis, true);
                write!(f, "snoozed until {until}")
            }
        }
    }
}

/// The error and its causes, with `: ` between, to be tried again.
impl<E: Error> From<E> for JobError {
    fn from(error: E) -> Self {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors repeat their cause in their own text.
            if !reason.ends_with(&text) {
                reason.push_str(": ");
                reason.push_str(&text);
            }
            cause = error.source();
        }
        Self::Retry(reason)
    }
}

/// Invalid data fails the job, what cannot be judged yet is tried again.
impl From<Rejection> for JobError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Invalid(reason) => Self::Fail(reason),
            Rejection::NotYet(reason) => Self::Retry(reason),
        }
    }
}

/// Why a handler does not take a job's data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// It never will: the request is a dead letter. Names the field and what it should be.
    Invalid(String),
    /// It cannot be judged just now: to be asked again.
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

/// The alternate form, in which an `anyhow::Error` names its causes too.
fn in_full(reason: impl fmt::Display) -> String {
    format!("{reason:#}")
}

#[cfg(test)]
mod tests {
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
                Err(JobError::Fail("too much".to_owned()))
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
        ] {
            assert_eq!(error.to_string(), "why");
        }
        let snooze = JobError::Snooze(DateTime::UNIX_EPOCH);
        assert_eq!(snooze.to_string(), "snoozed until 1970-01-01T00:00:00.000Z");
    }
}
