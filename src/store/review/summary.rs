//! A dead letter as it is listed: without the columns that may be large.

use infinite_scheduler_entity::dead_letter;
use sea_orm::DerivePartialModel;
use sea_orm::sea_query::{Expr, ExprTrait};
use uuid::Uuid;

use super::LetterRow;
use crate::store::LetterState;

/// A letter without its record's key, value and headers.
#[derive(Clone, Debug, PartialEq, Eq, DerivePartialModel)]
#[sea_orm(entity = "dead_letter::Entity")]
pub struct LetterSummary {
    /// The letter.
    pub id: Uuid,
    /// The error kind.
    pub kind: String,
    /// The error message.
    pub message: String,
    /// The app, where known.
    pub app: Option<String>,
    /// The request id, where known.
    pub request_id: Option<String>,
    /// The failed job or, after a replay, the job of the replay.
    pub job: Option<Uuid>,
    /// The topic of its record.
    pub topic: Option<String>,
    /// The partition of its record.
    pub number: Option<i32>,
    /// The offset of its record.
    pub source_offset: Option<i64>,
    /// Its record's own time, epoch milliseconds.
    pub source_time_ms: Option<i64>,
    /// The number of attempts.
    pub attempts: i32,
    /// When it was created or parked, epoch milliseconds.
    pub created_ms: i64,
    /// When it came into its state, or was corrected, epoch milliseconds.
    pub changed_ms: i64,
    /// When a parked record is retried, epoch milliseconds.
    pub due_ms: Option<i64>,
    /// The number of consecutive replays that led to it.
    pub replays: i32,
    /// The dead letter whose replay failed and became this one.
    pub replay_of: Option<Uuid>,
    /// Whether it has a corrected value.
    #[sea_orm(from_expr = "Expr::col(dead_letter::Column::Correction).is_not_null()")]
    pub corrected: bool,
    #[sea_orm(from_col = "state")]
    code: i16,
}

impl LetterSummary {
    /// Its state.
    pub fn state(&self) -> LetterState {
        LetterState::of(self.code)
    }
}

impl From<&LetterRow> for LetterSummary {
    fn from(row: &LetterRow) -> Self {
        let row = row.clone();
        Self {
            id: row.id,
            kind: row.kind,
            message: row.message,
            app: row.app,
            request_id: row.request_id,
            job: row.job,
            topic: row.topic,
            number: row.number,
            source_offset: row.source_offset,
            source_time_ms: row.source_time_ms,
            attempts: row.attempts,
            created_ms: row.created_ms,
            changed_ms: row.changed_ms,
            due_ms: row.due_ms,
            replays: row.replays,
            replay_of: row.replay_of,
            corrected: row.correction.is_some(),
            code: row.state,
        }
    }
}
