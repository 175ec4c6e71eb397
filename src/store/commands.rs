//! Commands to the owner of a shard, which are rows of a table.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use infinite_scheduler_entity::command;

use super::{Result, Store};
use crate::model::ids::{JobId, ShardId};

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

/// The kinds that this version supports.
pub(super) const KINDS: [&str; 1] = [LOOK];

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
}

pub(super) fn encode_ids(jobs: &[JobId]) -> String {
    serde_json::to_string(jobs).unwrap_or_default()
}

/// `None` if another version wrote them in an unknown form.
pub(super) fn decode_ids(args: &str) -> Option<Vec<JobId>> {
    serde_json::from_str(args).ok()
}
