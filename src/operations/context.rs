//! The state that all operations share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::runtime::Handle;

use super::admission::Admission;
use super::forecasts::Forecasts;
use super::{Error, Result};
use crate::kafka::KafkaIngestConfig;
use crate::model::audit::{AuditAction, AuditEntry, By};
use crate::model::letter::{ErrorKind, Refusal};
use crate::store::{Error as StoreError, Store};

/// The state that all operations share.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// Admits requests; has the connection to the database.
    pub(super) admission: Admission,
    /// The database's URL without its password, for messages.
    pub(super) database: String,
    /// The Kafka that records are read from, if any.
    pub(super) kafka: Option<KafkaIngestConfig>,
    /// The runtime to which the connections to the database belong.
    pub(super) runtime: Handle,
    /// False after the scheduler was shut down; `None` on a database alone.
    pub(super) running: Option<Arc<AtomicBool>>,
    /// Forecasts that are fresh enough to be shown again.
    pub(super) forecasts: Arc<Forecasts>,
    /// On whose behalf changes are made.
    pub(super) by: By,
}

impl Context {
    pub(super) fn store(&self) -> &Store {
        self.admission.store()
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.admission.clock().now_ms()
    }

    /// What the audit says of a change to `subject` that is made now, of one row and without
    /// particulars.
    pub(super) fn entry(&self, action: AuditAction, subject: impl ToString) -> AuditEntry {
        AuditEntry {
            at_ms: self.now_ms(),
            by: self.by.clone(),
            action,
            app: None,
            subject: subject.to_string(),
            details: json!({}),
            count: 1,
        }
    }

    /// Runs `work` on the runtime to which the connections belong, whatever runtime the caller
    /// uses. It completes even if the caller drops the future.
    ///
    /// # Errors
    /// [`Error::ShutDown`] if the scheduler was shut down, and the errors of `work`.
    pub(super) async fn run<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F + Send,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        if self.running.as_ref().is_some_and(|running| !running.load(Ordering::Acquire)) {
            return Err(Error::ShutDown);
        }
        let done = self.runtime.spawn(work(self.clone())).await;
        done.unwrap_or_else(|error| match error.is_cancelled() {
            true => Err(Error::ShutDown),
            false => Err(Error::Unavailable(format!("the operation did not end: {error}"))),
        })
    }

    /// The Kafka that records are read from.
    ///
    /// # Errors
    /// [`Error::Invalid`] if none is configured.
    pub(super) fn kafka(&self) -> Result<&KafkaIngestConfig> {
        let none = "the configuration has no [kafka]: nothing is read by it";
        self.kafka.as_ref().ok_or_else(|| Error::Invalid(none.into()))
    }

    /// Converts an error of the store, and adds the name of the database.
    pub(super) fn database_error(&self, error: StoreError) -> Error {
        database_error(&self.database, error)
    }
}

/// Converts an error of the store, and adds the name of the `database`.
pub(super) fn database_error(database: &str, error: StoreError) -> Error {
    let sentence = format!("{database}: {error}");
    match error {
        StoreError::Unusable(_) => Error::Unusable(sentence),
        StoreError::Refused(_) => {
            Error::Refused(Refusal::new(ErrorKind::RefusedByDatabase, sentence))
        }
        StoreError::Unavailable(_)
        | StoreError::ReadOnly(_)
        | StoreError::Setting(_)
        | StoreError::Unclear(_)
        | StoreError::Raced(_) => Error::Unavailable(sentence),
    }
}
