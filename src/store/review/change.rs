//! Corrects and discards dead letters, by compare-and-set on the row as it was read.

use std::collections::HashMap;

use uuid::Uuid;

use super::LetterSummary;
use crate::model::audit::AuditEntry;
use crate::store::steps::Step;
use crate::store::{LetterState, Result, Store, Told, audit, bulk};

/// The most dead letters that one transaction changes.
const STEP: usize = 200;

const DEAD: i16 = LetterState::Dead.code();
const DISCARDED: i16 = LetterState::Discarded.code();

/// The result of changing one dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was changed, or was discarded already.
    Made,
    /// It was not changed, because it is not in the state `Dead` or was changed since it was read.
    /// Contains the current version.
    Refused(Box<LetterSummary>),
    /// It no longer exists.
    Gone,
}

impl Store {
    /// Sets the corrected value of a dead letter, which a replay uses instead of the record's value;
    /// `None` removes it. The letter is changed only if it still is as `seen`.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if it is unknown whether it was changed; read it again.
    pub async fn correct_letter(
        &self,
        seen: &LetterSummary,
        correction: Option<Vec<u8>>,
        entry: &AuditEntry,
    ) -> Result<Change> {
        // It must differ from the last one, so that a replay that read the old value is refused.
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

    /// Discards those dead letters that still are as `seen`. Returns the result for each of them, in
    /// the same order. `told` is where it is written down who discarded one of them.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable; the same call can be
    /// repeated.
    pub async fn discard_letters(
        &self,
        seen: &[LetterSummary],
        now_ms: i64,
        told: impl Fn(&LetterSummary) -> Told + Send + Sync,
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::with_capacity(seen.len());
        for some in seen.chunks(STEP) {
            let discard = |letter| discard(letter, now_ms, &told(letter));
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
            // It does not matter who discarded it.
            Some(now) if now.state() == LetterState::Discarded => Change::Made,
            Some(now) => Change::Refused(Box::new(now)),
        };
        Ok(seen.iter().map(change).collect())
    }
}

fn discard(letter: &LetterSummary, now_ms: i64, told: &Told) -> Step {
    let told = match told {
        Told::Audit(entry) => audit::step(entry),
        Told::Bulk(id) => bulk::count(*id, 1),
    };
    let update = format!(
        "update scheduler_dead_letter set state = {DISCARDED}, changed_ms = ? \
         where id = ? and state = {DEAD} and changed_ms = ?"
    );
    let values = vec![now_ms.into(), letter.id.into(), letter.changed_ms.into()];
    Step::if_changed(update, values, told)
}
