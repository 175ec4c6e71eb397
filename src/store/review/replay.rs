//! What a replay must know of a letter: what is to be tried, and whether it may be.

use std::num::{NonZeroU32, NonZeroU64};

use infinite_scheduler_entity::dead_letter;
use sea_orm::EntityTrait;
use uuid::Uuid;

use crate::model::ids::JobId;
use crate::model::request::ScheduleJobRequest;
use crate::model::time::ScheduledTime;
use crate::store::letters::decode_headers;
use crate::store::{LetterState, Result, Store};

/// A dead letter that somebody wants to replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterToReplay(dead_letter::Model);

impl Store {
    /// The letter with this id.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is away.
    pub async fn letter_to_replay(&self, id: Uuid) -> Result<Option<LetterToReplay>> {
        let row = dead_letter::Entity::find_by_id(id).one(&self.inner.pool).await?;
        Ok(row.map(LetterToReplay))
    }
}

impl LetterToReplay {
    /// When it came into its state, epoch milliseconds.
    pub fn changed_ms(&self) -> i64 {
        self.0.changed_ms
    }

    /// What is tried in a replay: the correction, else the value as it came.
    pub fn value(&self) -> Option<&[u8]> {
        self.0.correction.as_deref().or(self.0.record_value.as_deref())
    }

    /// Whether it is of a job that failed, and not of a record that became none.
    pub fn is_of_a_job(&self) -> bool {
        self.0.job.is_some()
    }

    /// The record's own headers, as they were.
    pub fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        decode_headers(&self.0.headers)
    }

    /// Gives `request` what its job had of its own, and the body does not say that it was fired
    /// with, as far as the request says nothing else.
    pub fn complete(&self, request: &mut ScheduleJobRequest) {
        let letter = &self.0;
        let attempts = letter.max_attempts.and_then(|n| u32::try_from(n).ok());
        let timeout = letter.timeout_ms.and_then(|ms| u64::try_from(ms).ok());
        let expires = letter.expires_ms.and_then(ScheduledTime::from_epoch_ms);
        let flexible_ms = letter.flexible_ms.and_then(|ms| u64::try_from(ms).ok());
        let concurrency_key = || letter.concurrency_key.clone();
        request.max_attempts = request.max_attempts.or(attempts.and_then(NonZeroU32::new));
        request.timeout_ms = request.timeout_ms.or(timeout.and_then(NonZeroU64::new));
        request.expires_time = request.expires_time.or(expires);
        request.flexible_window_ms = request.flexible_window_ms.or(flexible_ms);
        request.concurrency_key = request.concurrency_key.take().or_else(concurrency_key);
        request.request_id.get_or_insert_with(|| self.request_name());
    }

    /// The name of its request, or one that is the same at each try.
    fn request_name(&self) -> String {
        self.0.request_id.clone().unwrap_or_else(|| self.0.id.to_string())
    }

    fn state(&self) -> LetterState {
        LetterState::of(self.0.state)
    }

    /// The job that a replay has made of it, or found to be there.
    pub fn replayed_as(&self) -> Option<JobId> {
        let replayed = self.state() == LetterState::Replayed;
        self.0.job.filter(|_| replayed).map(JobId::from_uuid)
    }

    /// Why it cannot be replayed, if so. `max_replays` bounds a chain of letters each of
    /// which died as the replay of the one before.
    pub fn not_replayable(&self, max_replays: u32) -> Option<String> {
        let id = self.0.id;
        match self.state() {
            LetterState::Dead => {}
            LetterState::Parked => {
                return Some(format!("{id} is parked: it is tried again by itself"));
            }
            LetterState::Replayed => return Some(format!("{id} was replayed already")),
            LetterState::Discarded => return Some(format!("{id} was discarded")),
        }
        let replays = u32::try_from(self.0.replays).unwrap_or(0);
        (replays >= max_replays).then(|| {
            format!(
                "{replays} replays led to {id}, as many as dead_letters.max_replays allows: \
                 mend the cause, then send a new request or raise it"
            )
        })
    }
}
