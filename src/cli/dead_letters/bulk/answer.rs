//! The answer of `replay` and `discard` for programs.

use serde::Serialize;
use uuid::Uuid;

use super::why;
use crate::model::ids::JobId;
use crate::operations::{
    Error as OperationError, LetterOutcome, LetterSummary, Replayed, Result as OperationResult,
};

/// What became of one letter, or would with `--dry-run`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    id: Uuid,
    /// `replayed`, `duplicate`, `discarded`, or `failed`.
    result: &'static str,
    /// The job that the letter's request became, or of which it is a duplicate.
    job_id: Option<JobId>,
    /// The request of which it is a duplicate.
    duplicate_of: Option<String>,
    /// The kind of a refusal, as in `invalid-field`.
    kind: Option<String>,
    /// Why the letter stays as it was.
    error: Option<String>,
}

/// The fields of the document besides its list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fields {
    pub(super) action: &'static str,
    pub(super) dry_run: bool,
    /// Letters that were selected.
    pub(super) matched: u64,
    /// Letters on which the action was carried out, or would be.
    pub(super) done: u64,
    /// Letters that stay as they were.
    pub(super) failed: u64,
}

impl Answer {
    pub(super) fn of(letter: &LetterSummary, outcome: &OperationResult<LetterOutcome>) -> Self {
        let answer = Self {
            id: letter.id,
            result: "failed",
            job_id: None,
            duplicate_of: None,
            kind: None,
            error: None,
        };
        match outcome {
            Ok(LetterOutcome::Discarded) => Self { result: "discarded", ..answer },
            Ok(LetterOutcome::Replayed(Replayed::Accepted { job_id })) => {
                Self { result: "replayed", job_id: Some(*job_id), ..answer }
            }
            Ok(LetterOutcome::Replayed(Replayed::Operated { job_id })) => {
                Self { result: "operated", job_id: Some(*job_id), ..answer }
            }
            Ok(LetterOutcome::Replayed(Replayed::Duplicate { job_id, of })) => Self {
                result: "duplicate",
                job_id: Some(*job_id),
                duplicate_of: Some(of.clone()),
                ..answer
            },
            Err(error) => {
                let kind = match error {
                    OperationError::Refused(refusal) => Some(refusal.kind.to_string()),
                    _ => None,
                };
                Self { kind, error: Some(why(error)), ..answer }
            }
        }
    }
}
