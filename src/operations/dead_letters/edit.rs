//! Corrects one dead letter: a correction is a value that a replay uses instead of the record's.

use serde_json::json;
use uuid::Uuid;

use super::{Context, DeadLetters, GONE, find, why_not};
use crate::model::audit::{AuditAction, AuditEntry};
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::ScheduleJobRequest;
use crate::operations::{Error, LetterName, LetterState, LetterSummary, Result};
use crate::store::Change;

/// A change of a letter's correction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// The value that replaces the record's; `None` removes the correction.
    pub correction: Option<Vec<u8>>,
    /// Accepts a value that is not a valid request.
    pub force: bool,
    /// Confirms that an existing correction may be overwritten.
    pub replace: bool,
    /// Only determines the result.
    pub dry_run: bool,
}

/// The result of an edit, or of its dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edited {
    /// The letter.
    pub letter: Uuid,
    /// Whether it had a correction before.
    pub had_correction: bool,
    /// Whether it has one now.
    pub has_correction: bool,
}

impl DeadLetters<'_> {
    /// Sets or removes the correction of a dead letter. The record's own value is unchanged.
    ///
    /// # Errors
    /// [`Error::Refused`] if the correction is not a request that could be admitted, as far as that
    /// can be checked without its app; [`Error::Unconfirmed`] if another correction would be lost;
    /// [`Error::Conflict`] if the letter is not dead, or was changed at the same time;
    /// [`Error::NotFound`] if there is no such letter; [`Error::Unavailable`] when the database
    /// does not answer.
    pub async fn edit(&self, letter: &LetterName, edit: Edit) -> Result<Edited> {
        if let Some(correction) = edit.correction.as_deref().filter(|_| !edit.force) {
            check(correction, self.context.admission.max_record_bytes())?;
        }
        let name = letter.clone();
        self.context.run(move |context| async move { change(&context, &name, edit).await }).await
    }
}

async fn change(context: &Context, name: &LetterName, edit: Edit) -> Result<Edited> {
    let letter = LetterSummary::from(&find(context, name).await?);
    let id = letter.id;
    if letter.state() != LetterState::Dead {
        let why = why_not(&letter);
        return Err(Error::Conflict(format!("dead letter {id} cannot be edited: {why}")));
    }
    if letter.corrected && !edit.replace {
        let why = format!("dead letter {id} has a correction already, which would be lost");
        return Err(Error::Unconfirmed(why));
    }
    let edited = Edited {
        letter: id,
        had_correction: letter.corrected,
        has_correction: edit.correction.is_some(),
    };
    if edit.dry_run {
        return Ok(edited);
    }
    let entry = AuditEntry {
        app: letter.app.clone(),
        details: json!({
            "hadCorrection": edited.had_correction,
            "hasCorrection": edited.has_correction,
        }),
        ..context.entry(AuditAction::EditDeadLetter, id)
    };
    let change = context.store().correct_letter(&letter, edit.correction, &entry).await;
    match change.map_err(|error| context.database_error(error))? {
        Change::Made => Ok(edited),
        Change::Refused(now) => {
            Err(Error::Conflict(format!("dead letter {id} was not edited: {}", why_not(&now))))
        }
        Change::Gone => Err(Error::NotFound(format!("dead letter {id} was not edited: {GONE}"))),
    }
}

fn check(correction: &[u8], max_bytes: usize) -> Result<(), Refusal> {
    let size = correction.len();
    if size > max_bytes {
        let why = format!("{size} bytes, and max_record_bytes is {max_bytes}");
        return Err(Refusal::new(ErrorKind::RecordTooLarge, why));
    }
    ScheduleJobRequest::from_json(correction).map(drop)
}
