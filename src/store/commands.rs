//! Commands to the owner of a shard, which are rows of a table, and their answers.

use infinite_scheduler_entity::command;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::{Deserialize, Serialize};

use super::steps::Step;
use super::{Error, OrderingKey, Result, Store, outbox};
use crate::model::audit::By;
use crate::model::bulk::BulkMark;
use crate::model::change::{Answer, JobChange};
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Job;

/// Another process inserted these jobs into the shard: its owner reads those that are due soon
/// into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The command's row.
    pub command: i64,
    /// The shard.
    pub shard: ShardId,
    /// The jobs.
    pub jobs: Vec<JobId>,
}

/// A program that does not own the shard asks for a change of a job in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeCommand {
    /// The command's row.
    pub command: i64,
    /// The shard.
    pub shard: ShardId,
    /// What is asked for.
    pub request: ChangeRequest,
    /// After which it is not to be carried out any more, epoch milliseconds.
    pub deadline_ms: Option<i64>,
}

/// A change of one job on request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeRequest {
    /// The job.
    pub job: JobId,
    /// When the job was admitted that is meant, epoch milliseconds: its request may come again.
    pub created_ms: i64,
    /// The change.
    pub change: JobChange,
    /// It is to be made only if the job still is in this state.
    pub if_match: Option<String>,
    /// Who asks for it.
    pub by: By,
    /// The bulk action that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk: Option<BulkMark>,
}

impl ChangeRequest {
    /// Whether it means this job. A version orders an operation against every job of its name, and
    /// one without means the job that existed when it was asked for.
    pub fn is_of(&self, job: &Job) -> bool {
        let has_version =
            matches!(&self.change, JobChange::Named(named) if named.version.is_some());
        has_version || job.created_ms == self.created_ms
    }
}

/// How a request for a change is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeAnswer {
    /// What is true of the job now.
    Answered(Answer),
    /// The change is refused, and nothing changed.
    Refused(String),
    /// It is in conflict with the live job, and nothing changed.
    Conflict(String),
    /// The job is not in the state that was named but in this one, and nothing changed.
    NotMatched(String),
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandState {
    /// It waits for the owner of its shard.
    Waiting,
    /// It was carried out.
    Answered(ChangeAnswer),
    /// The caller withdrew it before it was carried out.
    Withdrawn,
}

/// A change of a job that was asked for by a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The command's row.
    pub id: i64,
    /// What was asked for.
    pub request: ChangeRequest,
    /// What became of it.
    pub state: CommandState,
    /// When it was asked for, epoch milliseconds.
    pub created_ms: i64,
}

/// Commands to shards of this instance that its version does not support. They are kept for an
/// instance that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCommands {
    /// The kind of the commands.
    pub kind: String,
    /// Their number.
    pub count: u64,
}

/// The `kind` of a [`Look`].
pub(super) const LOOK: &str = "look";

/// The `kind` of a part of a bulk action.
pub(super) const BATCH: &str = "bulk";

/// The kinds that this version supports: a [`Look`], a part of a bulk action, and those
/// of [`JobChange::kind`].
pub(super) const KINDS: [&str; 7] = [LOOK, BATCH, "cancel", "run", "reschedule", "edit", "named"];

const WAITING: i16 = 0;
pub(super) const DONE: i16 = 1;
const WITHDRAWN: i16 = 2;
/// Rows that one step of the clean-up removes.
const STEP: u64 = 500;

impl Store {
    /// Removes commands that were executed. Executing a command twice is harmless.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable; the commands are then observed
    /// again.
    pub async fn finish_commands(&self, commands: &[i64]) -> Result<()> {
        let _permit = self.write_permit().await;
        command::Entity::delete_many()
            .filter(command::Column::Id.is_in(commands.iter().copied()))
            .exec(&self.inner.pool)
            .await?;
        Ok(())
    }

    /// Asks the owner of `shard` for a change. It sees the command within about
    /// a heartbeat. Returns the command's id.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: unknown whether it was asked.
    pub async fn send_command(
        &self,
        shard: ShardId,
        request: &ChangeRequest,
        now_ms: i64,
        deadline_ms: Option<i64>,
    ) -> Result<i64> {
        self.send(shard, request.change.kind(), encode(request)?, now_ms, deadline_ms).await
    }

    pub(super) async fn send(
        &self,
        shard: ShardId,
        kind: &str,
        args: String,
        now_ms: i64,
        deadline_ms: Option<i64>,
    ) -> Result<i64> {
        let row = command::ActiveModel {
            id: NotSet,
            shard: Set(shard.0),
            kind: Set(kind.to_owned()),
            args: Set(args),
            state: Set(WAITING),
            answer: Set(None),
            created_ms: Set(now_ms),
            deadline_ms: Set(deadline_ms),
        };
        let _permit = self.write_permit().await;
        Ok(command::Entity::insert(row).exec(&self.inner.pool).await?.last_insert_id)
    }

    /// What became of a change that was asked for by a command; `None` if there is no such
    /// command, or not any more.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer, or a newer version wrote
    /// the row.
    pub async fn operation(&self, id: i64) -> Result<Option<Operation>> {
        let row = command::Entity::find_by_id(id).one(&self.inner.pool).await?;
        let is_change = |row: &command::Model| row.kind != LOOK && row.kind != BATCH;
        let Some(row) = row.filter(is_change) else { return Ok(None) };
        let unreadable = |error| {
            let why = format!("operation {id} cannot be read: {error}; a newer version wrote it");
            Error::Unavailable(why)
        };
        let request = serde_json::from_str(&row.args).map_err(unreadable)?;
        let state = match (row.state, row.answer) {
            (DONE, Some(answer)) => {
                CommandState::Answered(serde_json::from_str(&answer).map_err(unreadable)?)
            }
            (WITHDRAWN, _) => CommandState::Withdrawn,
            _ => CommandState::Waiting,
        };
        Ok(Some(Operation { id, request, state, created_ms: row.created_ms }))
    }

    /// Withdraws a command. False: it was carried out, or withdrawn, before.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: unknown whether it was withdrawn.
    pub async fn withdraw_command(&self, id: i64) -> Result<bool> {
        let update = "update scheduler_command set state = 2 where id = ? and state = 0";
        self.transact(vec![Step::one(update, vec![id.into()])]).await
    }

    /// Writes the answer to a command that changed nothing, with verdicts. False: it was withdrawn, or answered
    /// before.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: the same can be written again.
    pub async fn answer_command(
        &self,
        id: i64,
        with: &ChangeAnswer,
        verdicts: Option<(OrderingKey, String)>,
    ) -> Result<bool> {
        let verdicts = verdicts.map(|(key, packed)| outbox::insert_verdicts(key, packed));
        self.transact([answer(id, with)].into_iter().chain(verdicts).collect()).await
    }

    /// Sends a command to another shard, where its job is now.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: the command may still be in its shard.
    pub async fn forward_command(&self, id: i64, shard: ShardId) -> Result<()> {
        let update = "update scheduler_command set shard = ? where id = ? and state = 0";
        self.transact(vec![Step::any(update, vec![shard.0.into(), id.into()])]).await?;
        Ok(())
    }

    /// Removes some commands that were answered or withdrawn and are from before `until_ms`; true
    /// if there may be more.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer; the step can be repeated.
    pub async fn forget_commands(&self, until_ms: i64) -> Result<bool> {
        let over: Vec<i64> = command::Entity::find()
            .select_only()
            .column(command::Column::Id)
            .filter(command::Column::State.is_in([DONE, WITHDRAWN]))
            .filter(command::Column::CreatedMs.lte(until_ms))
            .order_by_asc(command::Column::Id)
            .limit(STEP)
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        if over.is_empty() {
            return Ok(false);
        }
        let has_more = over.len() as u64 == STEP;
        self.finish_commands(&over).await?;
        Ok(has_more)
    }
}

/// Asks the owner of `shard` for a change, however long that takes.
pub(super) fn send(shard: ShardId, request: &ChangeRequest, now_ms: i64) -> Step {
    let insert = "insert into scheduler_command (shard, kind, args, state, created_ms) \
                  values (?, ?, ?, 0, ?)";
    // A request of names, numbers and texts always serializes.
    let (kind, args) = (request.change.kind(), serde_json::to_string(request).unwrap_or_default());
    let values = vec![shard.0.into(), kind.into(), args.into(), now_ms.into()];
    Step::any(insert, values)
}

/// Answers a command that still waits.
pub(super) fn answer(id: i64, with: &ChangeAnswer) -> Step {
    answered(id, with)
}

pub(super) fn answered(id: i64, with: &impl Serialize) -> Step {
    let update = "update scheduler_command set state = 1, answer = ? where id = ? and state = 0";
    // An answer of names, numbers and texts always serializes.
    let text = serde_json::to_string(with).unwrap_or_default();
    Step::one(update, vec![text.into(), id.into()])
}

pub(super) fn encode_ids(jobs: &[JobId]) -> String {
    serde_json::to_string(jobs).unwrap_or_default()
}

/// `None` if another version wrote them in an unknown form.
pub(super) fn decode_ids(args: &str) -> Option<Vec<JobId>> {
    serde_json::from_str(args).ok()
}

/// As [`decode_ids`].
pub(super) fn decode_change(args: &str) -> Option<ChangeRequest> {
    serde_json::from_str(args).ok()
}

pub(super) fn encode(request: &impl Serialize) -> Result<String> {
    serde_json::to_string(request)
        .map_err(|error| Error::Refused(format!("the change cannot be written: {error}")))
}
