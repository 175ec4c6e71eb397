//! A dead letter that is to be replayed: the value to submit, and whether that is allowed.

use std::num::{NonZeroU32, NonZeroU64};

use infinite_scheduler_entity::dead_letter;
use sea_orm::EntityTrait;
use uuid::Uuid;

use crate::model::ids::JobId;
use crate::model::request::ScheduleJobRequest;
use crate::model::time::ScheduledTime;
use crate::store::headers::decode_headers;
use crate::store::{LetterState, Result, Store};

/// A dead letter that is to be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterToReplay(dead_letter::Model);

impl Store {
    /// The letter with this id.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn letter_to_replay(&self, id: Uuid) -> Result<Option<LetterToReplay>> {
        let row = dead_letter::Entity::find_by_id(id).one(&self.inner.pool).await?;
        Ok(row.map(LetterToReplay))
    }
}

impl LetterToReplay {
    /// When it came into its state or was corrected, epoch milliseconds.
    pub fn changed_ms(&self) -> i64 {
        self.0.changed_ms
    }

    /// The value to submit: the correction, else the record's value.
    pub fn value(&self) -> Option<&[u8]> {
        self.0.correction.as_deref().or(self.0.record_value.as_deref())
    }

    /// Whether it is the letter of a failed job, not of a record that did not become a job.
    pub fn is_of_a_job(&self) -> bool {
        self.0.job.is_some()
    }

    /// The record's headers, unchanged.
    pub fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        decode_headers(&self.0.headers)
    }

    /// Adds to `request` what its job had, unless the request has it: the body that the job was
    /// fired with does not contain it.
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

    /// The id of its request, or one derived from the letter, which is the same at each try.
    fn request_name(&self) -> String {
        self.0.request_id.clone().unwrap_or_else(|| self.0.id.to_string())
    }

    fn state(&self) -> LetterState {
        LetterState::of(self.0.state)
    }

    /// The job of its replay, or the job that the replay was a duplicate of.
    pub fn replayed_as(&self) -> Option<JobId> {
        let replayed = self.state() == LetterState::Replayed;
        self.0.job.filter(|_| replayed).map(JobId::from_uuid)
    }

    /// The reason why it cannot be replayed, if there is one. `max_replays` limits the number of
    /// consecutive replays that failed again.
    pub fn not_replayable(&self, max_replays: u32) -> Option<String> {
        let id = self.0.id;
        match self.state() {
            LetterState::Dead => {}
            LetterState::Parked => {
                return Some(format!("{id} is parked: it is retried automatically"));
            }
            LetterState::Replayed => return Some(format!("{id} was replayed already")),
            LetterState::Discarded => return Some(format!("{id} was discarded")),
        }
        let replays = u32::try_from(self.0.replays).unwrap_or(0);
        (replays >= max_replays).then(|| {
            format!(
                "{replays} replays led to {id}, as many as dead_letters.max_replays allows: \
                 correct the cause, then send a new request or raise that limit"
            )
        })
    }
}
