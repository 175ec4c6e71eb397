//! Actions on every job that a filter selects: their states, and what marks the change of a job as
//! part of one.

use serde::{Deserialize, Serialize};

use super::ids::InstanceId;

/// How far a bulk action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BulkState {
    /// It waits for an instance, or what matches is being counted.
    Counting,
    /// It is carried out.
    Running,
    /// It was stopped, and the jobs that are being changed are awaited.
    Stopping,
    /// It was stopped.
    Stopped,
    /// Every job that matched was treated.
    Finished,
}

impl BulkState {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counting => "counting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }

    /// Its number in the table.
    pub(crate) fn rank(self) -> i16 {
        match self {
            Self::Counting => 0,
            Self::Running => 1,
            Self::Stopping => 2,
            Self::Stopped => 3,
            Self::Finished => 4,
        }
    }

    /// The state of that number.
    pub(crate) fn of_rank(rank: i16) -> Option<Self> {
        let all = [Self::Counting, Self::Running, Self::Stopping, Self::Stopped, Self::Finished];
        all.into_iter().find(|state| state.rank() == rank)
    }

    /// Whether nothing more is changed by it.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Stopped | Self::Finished)
    }
}

/// What marks the change of a job as part of a bulk action. The job must be as it was when it was
/// found: so a step that is repeated changes and counts nothing twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkMark {
    /// The bulk action.
    pub bulk: i64,
    /// When the job that was found was admitted, epoch milliseconds.
    pub created_ms: i64,
    /// How often that job had been changed.
    pub revision: u32,
}

/// The bulk actions that an instance is to carry out: those that it has begun, and those that no
/// living instance has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BulkWork {
    /// The instance.
    pub(crate) me: InstanceId,
    /// The actions.
    pub(crate) bulks: Vec<i64>,
}
