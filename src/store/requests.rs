//! The status of a request, as far as the tables still contain it.

use infinite_scheduler_entity::{dead_letter, job};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use super::history::HistoryEntry;
use super::history_row::AttemptState;
use super::letters::{DEAD, PARKED};
use super::tombstones::TOMBSTONE;
use super::{Result, Store};
use crate::model::ids::JobId;

/// The status of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestStatus {
    /// Its job is waiting to be fired.
    Accepted {
        /// The job.
        job_id: JobId,
        /// When it is to be fired, epoch milliseconds.
        due_ms: i64,
    },
    /// Its job has failed and will be retried.
    Retrying {
        /// The job.
        job_id: JobId,
        /// When it is retried, epoch milliseconds.
        due_ms: i64,
        /// The number of failed attempts.
        attempts: u32,
        /// The error of the last attempt.
        error: String,
    },
    /// Its job was cancelled.
    Cancelled {
        /// The job.
        job_id: JobId,
        /// When, epoch milliseconds.
        at_ms: i64,
        /// By whom.
        by: String,
    },
    /// Operations on its job came before it, and are remembered.
    Awaited {
        /// The job.
        job_id: JobId,
        /// Until when, epoch milliseconds.
        until_ms: i64,
    },
    /// It cannot become a job yet and is retried automatically.
    Parked {
        /// The error message.
        message: String,
    },
    /// It could not become a job and is a dead letter.
    Rejected {
        /// The dead letter.
        letter: uuid::Uuid,
        /// The error kind.
        kind: String,
        /// The error message.
        message: String,
    },
    /// Its job has succeeded.
    Succeeded {
        /// The job.
        job_id: JobId,
        /// When, epoch milliseconds.
        at_ms: i64,
        /// The number of its attempts.
        attempts: u32,
    },
    /// Its job failed for good.
    Dead {
        /// The dead letter, unless it was discarded or replayed since.
        letter: Option<uuid::Uuid>,
        /// The job.
        job_id: JobId,
        /// The error kind.
        kind: String,
        /// The error message.
        message: String,
    },
    /// No table contains it: it was never received, its job ended so long ago that its history is
    /// not kept any more, it was the duplicate of a request with another id, it was a call that was
    /// refused, or its dead letter was discarded.
    Unknown,
}

impl Store {
    /// The status of `app`'s request `request_id`. A live job takes precedence over a dead letter
    /// and over the end of an earlier job, and of these the later one over the other.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn status_of(&self, app: &str, request_id: &str) -> Result<RequestStatus> {
        let job_id = JobId::derive(app, request_id);
        let job = job::Entity::find().filter(job::Column::Id.eq(job_id.uuid()));
        if let Some(row) = job.one(&self.inner.pool).await? {
            return Ok(of_job(job_id, row));
        }
        let letter = dead_letter::Entity::find()
            .filter(dead_letter::Column::RequestId.eq(request_id))
            .filter(dead_letter::Column::App.eq(app))
            .filter(dead_letter::Column::State.is_in([DEAD, PARKED]))
            .order_by_desc(dead_letter::Column::CreatedMs)
            .one(&self.inner.pool)
            .await?;
        let end = match &letter {
            Some(letter) if letter.state == PARKED => None,
            Some(letter) => {
                self.end_of(job_id).await?.filter(|end| end.ended_ms > letter.created_ms)
            }
            None => self.end_of(job_id).await?,
        };
        Ok(match (end, letter) {
            (Some(end), _) => of_end(job_id, end),
            (None, Some(letter)) => of_letter(letter),
            (None, None) => RequestStatus::Unknown,
        })
    }
}

fn of_job(job_id: JobId, row: job::Model) -> RequestStatus {
    if row.priority == TOMBSTONE && row.cancelled_ms.is_none() {
        return RequestStatus::Awaited { job_id, until_ms: row.due_ms };
    }
    if row.priority == TOMBSTONE {
        let (at_ms, by) = (row.cancelled_ms, row.cancelled_by);
        let (at_ms, by) = (at_ms.unwrap_or_default(), by.unwrap_or_default());
        return RequestStatus::Cancelled { job_id, at_ms, by };
    }
    let due_ms = row.due_ms;
    match row.last_error {
        None => RequestStatus::Accepted { job_id, due_ms },
        Some(error) => {
            let attempts = row.attempts.try_into().unwrap_or(0);
            RequestStatus::Retrying { job_id, due_ms, attempts, error }
        }
    }
}

fn of_letter(row: dead_letter::Model) -> RequestStatus {
    let dead_letter::Model { id: letter, kind, message, state, job, .. } = row;
    match job {
        _ if state == PARKED => RequestStatus::Parked { message },
        Some(job) => {
            let job_id = JobId::from_uuid(job);
            RequestStatus::Dead { letter: Some(letter), job_id, kind, message }
        }
        None => RequestStatus::Rejected { letter, kind, message },
    }
}

fn of_end(job_id: JobId, end: HistoryEntry) -> RequestStatus {
    let HistoryEntry { attempt, state, ended_ms, kind, error, cancelled_by, .. } = end;
    match state {
        AttemptState::Succeeded => {
            RequestStatus::Succeeded { job_id, at_ms: ended_ms, attempts: attempt }
        }
        AttemptState::Cancelled => {
            let by = cancelled_by.unwrap_or_default();
            RequestStatus::Cancelled { job_id, at_ms: ended_ms, by }
        }
        AttemptState::Dead | AttemptState::Retried => {
            let (kind, message) = (kind.unwrap_or_default(), error.unwrap_or_default());
            RequestStatus::Dead { letter: None, job_id, kind, message }
        }
    }
}
