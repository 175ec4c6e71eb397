//! By which name an operation means its job.

use uuid::Uuid;

use crate::model::ids::JobId;

/// Which job is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobName {
    /// The job with this id.
    Id(JobId),
    /// The job of a request.
    Request {
        /// The app.
        app: String,
        /// The `requestId`.
        request_id: String,
    },
    /// The job that an idempotency key refers to.
    Key {
        /// The app.
        app: String,
        /// The `idempotencyKey`.
        key: String,
    },
}

impl JobName {
    /// The job of `app`'s request `request_id`.
    pub fn of_request(app: impl Into<String>, request_id: impl Into<String>) -> Self {
        Self::Request { app: app.into(), request_id: request_id.into() }
    }

    /// The job that `app`'s idempotency key `key` stands for.
    pub fn of_key(app: impl Into<String>, key: impl Into<String>) -> Self {
        Self::Key { app: app.into(), key: key.into() }
    }
}

impl From<JobId> for JobName {
    fn from(id: JobId) -> Self {
        Self::Id(id)
    }
}

impl From<Uuid> for JobName {
    fn from(id: Uuid) -> Self {
        Self::Id(JobId::from_uuid(id))
    }
}
