//! What people do to dead letters, each by compare-and-set on what they saw.

use std::collections::HashMap;

use uuid::Uuid;

use super::LetterSummary;
use crate::model::audit::AuditEntry;
use crate::store::steps::Step;
use crate::store::{LetterState, Result, Store, audit};

/// Letters that one transaction changes.
const STEP: usize = 200;

const DEAD: i16 = LetterState::Dead.code();
const DISCARDED: i16 = LetterState::Discarded.code();

/// What became of a change to one letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as was asked for.
    Made,
    /// It was not touched, since it reads like this now: it is not dead, or was changed by
    /// somebody else since it was read.
    Refused(Box<LetterSummary>),
    /// There is no such letter any more.
    Gone,
}

impl Store {
    /// Puts a value beside the record's, for a replay to use; or takes it away. Only a dead
    /// letter that still is as it was `seen` is changed.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is away; ask what is there.
    pub async fn correct_letter(
        &self,
        seen: &LetterSummary,
        correction: Option<Vec<u8>>,
        entry: &AuditEntry,
    ) -> Result<Change> {
        // It must differ: whoever read the letter before must not replay the value of then.
        let changed_ms = Ord::max(entry.at_ms, seen.changed_ms.saturating_add(1));
        let update = format!(
            "update scheduler_dead_letter set correction = ?, changed_ms = ? \
             where id = ? and state = {DEAD} and changed_ms = ?"
        );
        let values =
            vec![correction.into(), changed_ms.into(), seen.id.into(), seen.changed_ms.into()];
        if self.transact(vec![Step::one(update, values), audit::step(entry)]).await? {
            return Ok(Change::Made);
        }
        let now = self.letters_by_id([seen.id]).await?.pop();
        Ok(now.map_or(Change::Gone, |now| Change::Refused(Box::new(now))))
    }

    /// Discards those letters that are dead and still as they were `seen`; says of each what
    /// became of it, in the same order. `entry` makes the audit's entry of one of them.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is away; the same call can be
    /// repeated.
    pub async fn discard_letters(
        &self,
        seen: &[LetterSummary],
        now_ms: i64,
        entry: impl Fn(&LetterSummary) -> AuditEntry + Send + Sync,
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::with_capacity(seen.len());
        for some in seen.chunks(STEP) {
            let discard = |letter| discard(letter, now_ms, &entry(letter));
            self.transact(some.iter().map(discard).collect()).await?;
            changes.extend(self.what_became_of(some).await?);
        }
        Ok(changes)
    }

    async fn what_became_of(&self, seen: &[LetterSummary]) -> Result<Vec<Change>> {
        let now = self.letters_by_id(seen.iter().map(|letter| letter.id)).await?;
        let mut now: HashMap<Uuid, LetterSummary> =
            now.into_iter().map(|letter| (letter.id, letter)).collect();
        let change = |letter: &LetterSummary| match now.remove(&letter.id) {
            None => Change::Gone,
            // By whom does not matter.
            Some(now) if now.state() == LetterState::Discarded => Change::Made,
            Some(now) => Change::Refused(Box::new(now)),
        };
        Ok(seen.iter().map(change).collect())
    }
}

fn discard(letter: &LetterSummary, now_ms: i64, entry: &AuditEntry) -> Step {
    let update = format!(
        "update scheduler_dead_letter set state = {DISCARDED}, changed_ms = ? \
         where id = ? and state = {DEAD} and changed_ms = ?"
    );
    let values = vec![now_ms.into(), letter.id.into(), letter.changed_ms.into()];
    Step::if_changed(update, values, audit::step(entry))
}
