//! A shard's mailbox: what others ask of its owner, by rows.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use infinite_scheduler_entity::command;

use super::{Result, Store};
use crate::model::ids::{JobId, ShardId};

/// Somebody who does not own the shard put these jobs into it: look whether they belong
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

/// Commands that wait in shards of ours and that this version cannot carry out. They stay for
/// an instance that can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCommands {
    /// What they ask for.
    pub kind: String,
    /// How many they are.
    pub count: u64,
}

/// The `kind` of a [`Look`].
pub(super) const LOOK: &str = "look";

/// The kinds that this version can carry out.
pub(super) const KINDS: [&str; 1] = [LOOK];

impl Store {
    /// Removes commands that were carried out. One that is carried out twice does no harm.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: they will be seen again.
    pub async fn finish_commands(&self, commands: &[i64]) -> Result<()> {
        let _turn = self.turn().await;
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

/// `None` if another version wrote them in another form.
pub(super) fn decode_ids(args: &str) -> Option<Vec<JobId>> {
    serde_json::from_str(args).ok()
}
