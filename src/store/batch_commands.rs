//! Commands by which the runner of a bulk action has the owner of a shard change some of its jobs.

use infinite_scheduler_entity::command;
use sea_orm::EntityTrait;
use serde::{Deserialize, Serialize};

use super::commands::{BATCH, ChangeRequest, DONE, answered, encode};
use super::{Result, Store};
use crate::model::audit::By;
use crate::model::bulk::BulkMark;
use crate::model::change::JobChange;
use crate::model::ids::{JobId, ShardId};

/// A bulk action's changes of several jobs of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchRequest {
    /// The bulk action.
    pub bulk: i64,
    /// Who asked for it.
    pub by: By,
    /// The jobs.
    pub jobs: Vec<BatchJob>,
    /// The change of those that have none of their own.
    pub change: Option<JobChange>,
}

/// One of the jobs of a [`BatchRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchJob {
    /// The job.
    pub job: JobId,
    /// When the job was admitted that was found, epoch milliseconds.
    pub created_ms: i64,
    /// How often that job had been changed.
    pub revision: u32,
    /// Its own change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<JobChange>,
}

/// A program that does not own the shard asks for a part of a bulk action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchCommand {
    /// The command's row.
    pub command: i64,
    /// The shard.
    pub shard: ShardId,
    /// What is asked for.
    pub request: BatchRequest,
    /// After which it is not to be carried out any more, epoch milliseconds.
    pub deadline_ms: Option<i64>,
}

/// What became of the jobs of a [`BatchRequest`], without those whose changes counted themselves
/// and those that were not as they were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// Jobs that were as was asked already.
    pub done: u64,
    /// Jobs that could not be changed.
    pub failed: u64,
}

impl BatchRequest {
    /// The change of one of its jobs; `None` if it says none.
    pub fn of(&self, job: &BatchJob) -> Option<ChangeRequest> {
        let BatchJob { job: id, created_ms, revision, ref change } = *job;
        Some(ChangeRequest {
            job: id,
            created_ms,
            change: change.clone().or_else(|| self.change.clone())?,
            if_match: None,
            by: self.by.clone(),
            bulk: Some(BulkMark { bulk: self.bulk, created_ms, revision }),
        })
    }
}

impl Store {
    /// Asks the owner of `shard` for a part of a bulk action, which is not carried out after
    /// `deadline_ms`. Returns the command's id.
    ///
    /// # Errors
    /// As [`send_command`](Self::send_command).
    pub async fn send_batch(
        &self,
        shard: ShardId,
        request: &BatchRequest,
        now_ms: i64,
        deadline_ms: i64,
    ) -> Result<i64> {
        self.send(shard, BATCH, encode(request)?, now_ms, Some(deadline_ms)).await
    }

    /// The answer to a part of a bulk action; `None` while it waits.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer.
    pub async fn batch_answer(&self, id: i64) -> Result<Option<BatchAnswer>> {
        let row = command::Entity::find_by_id(id).one(&self.inner.pool).await?;
        let answer = row.filter(|row| row.state == DONE).and_then(|row| row.answer);
        Ok(answer.and_then(|answer| serde_json::from_str(&answer).ok()))
    }

    /// Writes the answer to a part of a bulk action, unless it was withdrawn or answered before.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: the same can be written again.
    pub async fn answer_batch(&self, id: i64, with: &BatchAnswer) -> Result<()> {
        self.transact(vec![answered(id, with)]).await.map(drop)
    }
}

/// `None` if another version wrote it in an unknown form.
pub(super) fn decode_batch(args: &str) -> Option<BatchRequest> {
    serde_json::from_str(args).ok()
}
