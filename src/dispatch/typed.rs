//! Handlers whose job data is deserialized to a type of their own.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::{JobContext, JobError, JobHandler, Rejection};
use crate::model::job::JobData;

/// A handler that gets the job data as [`Self::Data`]. [`Typed`] turns it into a [`JobHandler`].
pub trait TypedHandler: Send + Sync + 'static {
    /// The type of the job data.
    type Data: DeserializeOwned + Send;

    /// Makes one attempt at the job; see [`JobHandler::execute`].
    ///
    /// # Errors
    /// [`JobError`] decides what happens to the job.
    fn execute(
        &self,
        ctx: &JobContext,
        data: Self::Data,
    ) -> impl Future<Output = Result<(), JobError>> + Send;

    /// Validates data that was deserialized; see [`JobHandler::validate`].
    ///
    /// # Errors
    /// [`Rejection`] says what is wrong.
    fn validate(&self, data: &Self::Data) -> Result<(), Rejection> {
        let _ = data;
        Ok(())
    }

    /// Its name in logs.
    fn name(&self) -> &str {
        "handler"
    }
}

/// The [`JobHandler`] of a [`TypedHandler`]: data that does not deserialize is rejected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Typed<H>(pub H);

impl<H: TypedHandler> JobHandler for Typed<H> {
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let data = read(&ctx.job().data)?;
        self.0.execute(ctx, data).await
    }

    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        self.0.validate(&read(job_data)?)
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

/// Turns a closure `|ctx: JobContext, data: T| async move { .. }` into a handler.
///
/// The closure gets the context by value, because on stable Rust its future cannot both be `Send`
/// and borrow from the closure's arguments. Data that is not a `T` is rejected.
pub fn handler_fn<F, T, Fut>(function: F) -> impl JobHandler
where
    F: Fn(JobContext, T) -> Fut + Send + Sync + 'static,
    T: DeserializeOwned + Send + 'static,
    Fut: Future<Output = Result<(), JobError>> + Send,
{
    Typed(Function { function, data: PhantomData })
}

struct Function<F, T> {
    function: F,
    data: PhantomData<fn(T)>,
}

impl<F, T, Fut> TypedHandler for Function<F, T>
where
    F: Fn(JobContext, T) -> Fut + Send + Sync + 'static,
    T: DeserializeOwned + Send + 'static,
    Fut: Future<Output = Result<(), JobError>> + Send,
{
    type Data = T;

    fn execute(
        &self,
        ctx: &JobContext,
        data: T,
    ) -> impl Future<Output = Result<(), JobError>> + Send {
        (self.function)(ctx.clone(), data)
    }
}

/// Deserializes the data; the error names the field.
fn read<T: DeserializeOwned>(data: &JobData) -> Result<T, Rejection> {
    let mut json = serde_json::Deserializer::from_str(data.as_str());
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = Place(error.path());
        Rejection::Invalid(format!("{place}: {}", without_position(error.inner())))
    })
}

/// The place of an error in the job data, as a producer would write it.
struct Place<'a>(&'a serde_path_to_error::Path);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("jobData")?;
        if self.0.iter().next().is_some() { write!(f, ".{}", self.0) } else { Ok(()) }
    }
}

/// The text of `error` without line and column, since its place is named already.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use serde::Deserialize;

    use super::super::context::tests::context;
    use super::super::{Failure, SharedHandler};
    use super::*;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payment {
        account_id: String,
        amounts: Vec<u64>,
    }

    #[derive(Default)]
    struct Payments {
        paid: Mutex<Vec<String>>,
    }

    impl TypedHandler for Payments {
        type Data = Payment;

        async fn execute(&self, ctx: &JobContext, data: Payment) -> Result<(), JobError> {
            tokio::task::yield_now().await;
            let total: u64 = data.amounts.iter().sum();
            let line = format!("{} {} to {}", ctx.app(), total, data.account_id);
            self.paid.lock().map_err(JobError::retry)?.push(line);
            Ok(())
        }

        fn validate(&self, data: &Payment) -> Result<(), Rejection> {
            if data.amounts.is_empty() {
                return Err(Rejection::Invalid("amounts must not be empty".to_owned()));
            }
            Ok(())
        }

        fn name(&self) -> &str {
            "payments"
        }
    }

    #[tokio::test]
    async fn a_typed_handler_is_given_its_own_type() {
        let handler = Typed(Payments::default());
        let ctx = context(r#"{"accountId":"a-1","amounts":[1,2]}"#);
        assert_eq!(JobHandler::validate(&handler, &ctx.job().data), Ok(()));
        assert_eq!(JobHandler::execute(&handler, &ctx).await, Ok(()));
        assert_eq!(*handler.0.paid.lock().unwrap(), ["sms 3 to a-1"]);
        assert_eq!(JobHandler::name(&handler), "payments");
    }

    #[tokio::test]
    async fn data_of_another_type_is_rejected_by_the_name_of_the_field() {
        let handler = Typed(Payments::default());
        for (data, reason) in [
            (r#"{"accountId":"a-1"}"#, "jobData: missing field `amounts`"),
            (
                r#"{"accountId":5,"amounts":[]}"#,
                "jobData.accountId: invalid type: integer `5`, expected a string",
            ),
            (
                r#"{"amounts":[1,-2],"accountId":"a-1"}"#,
                "jobData.amounts[1]: invalid value: integer `-2`, expected u64",
            ),
        ] {
            let ctx = context(data);
            let validated = JobHandler::validate(&handler, &ctx.job().data);
            assert_eq!(validated, Err(Rejection::Invalid(reason.to_owned())), "{data}");
            let executed = JobHandler::execute(&handler, &ctx).await;
            assert_eq!(executed, Err(JobError::Fail(reason.to_owned())), "{data}");
        }
        assert!(handler.0.paid.lock().unwrap().is_empty());
    }

    #[test]
    fn data_of_the_right_type_can_still_be_refused() {
        let data = JobData::from_trusted(r#"{"accountId":"a-1","amounts":[]}"#);
        let refused = JobHandler::validate(&Typed(Payments::default()), &data);
        assert_eq!(refused, Err(Rejection::Invalid("amounts must not be empty".to_owned())));
    }

    #[tokio::test]
    async fn a_closure_is_a_handler() {
        let total = Arc::new(AtomicU64::new(0));
        let counted = total.clone();
        let handler: SharedHandler = Arc::new(handler_fn(move |ctx, payment: Payment| {
            let total = counted.clone();
            async move {
                tokio::task::yield_now().await;
                let account: u64 = payment.account_id.parse()?;
                total.fetch_add(account * u64::from(ctx.attempt()), Ordering::Relaxed);
                Ok(())
            }
        }));
        let answer = handler.execute(&context(r#"{"accountId":"5","amounts":[]}"#)).await;
        assert_eq!((answer, total.load(Ordering::Relaxed)), (Ok(()), 15));
        let answer = handler.execute(&context(r#"{"accountId":"x","amounts":[]}"#)).await;
        assert!(matches!(answer, Err(Failure::Handler(JobError::Retry(_)))), "{answer:?}");
        assert!(handler.validate(&JobData::default()).is_err());
    }
}
