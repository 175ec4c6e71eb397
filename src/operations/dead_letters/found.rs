//! Dead letters as bulk actions treat them: found a part at a time, replayed and discarded.

use uuid::Uuid;

use super::{Context, explained};
use crate::model::filter::JobFilter;
use crate::operations::{Error, JobCount, LetterFilter, LetterState, LetterSummary, Result};
use crate::store::{LetterCursor, Told};

/// The place of a letter in the order of a walk: its creation, and its id.
pub(in crate::operations) type LetterPlace = (i64, Uuid);

impl Context {
    /// How many dead letters `filter` selects, counted up to a limit, and the newest `samples` of
    /// them.
    pub(in crate::operations) async fn dead_letters_of(
        &self,
        filter: &JobFilter,
        at_ms: i64,
        samples: usize,
    ) -> Result<(JobCount, Vec<LetterSummary>)> {
        let of_store = |error| self.database_error(error);
        let filter = dead_at(filter, at_ms);
        let counted = self.store().count_some_letters(&filter, JobCount::LIMIT + 1).await;
        let counted = counted.map_err(of_store)?;
        let has_more = counted > JobCount::LIMIT;
        let page = self.store().letters(&filter, None, samples as u64).await.map_err(of_store)?;
        Ok((JobCount { jobs: counted.min(JobCount::LIMIT), has_more }, page.letters))
    }

    /// The next dead letters, at most `limit`, that `filter` selected at `at_ms`, newest first, and
    /// the place where the next ones begin. Those that came later are left out.
    pub(in crate::operations) async fn letters_at(
        &self,
        filter: &JobFilter,
        at_ms: i64,
        after: Option<LetterPlace>,
        limit: usize,
    ) -> Result<(Vec<Uuid>, Option<LetterPlace>)> {
        let filter = dead_at(filter, at_ms);
        let after = after.map(|(created_ms, id)| LetterCursor { created_ms, id });
        let found = self.store().letters(&filter, after, limit as u64).await;
        let found = found.map_err(|error| self.database_error(error))?;
        let next = found.next.map(|next| (next.created_ms, next.id));
        Ok((found.letters.into_iter().map(|letter| letter.id).collect(), next))
    }

    /// Replays a letter as a part of a bulk action, which counts it in the same transaction. False
    /// if it is no dead letter any more.
    ///
    /// # Errors
    /// As [`DeadLetters::replay`](super::DeadLetters::replay).
    pub(in crate::operations) async fn replay_in_bulk(
        &self,
        bulk: i64,
        letter: Uuid,
    ) -> Result<bool> {
        let replayed = self.admission.replay(letter, None, self.by.clone(), Some(bulk)).await;
        match explained(self, letter, replayed).await {
            Ok(_) => Ok(true),
            Err(error @ Error::Conflict(_)) => {
                let now = self.store().letters_by_id([letter]).await;
                let now = now.map_err(|error| self.database_error(error))?.pop();
                match now.is_some_and(|now| now.state() == LetterState::Dead) {
                    true => Err(error),
                    false => Ok(false),
                }
            }
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Discards those of the letters that are dead, as a part of a bulk action, which counts each
    /// in the same transaction.
    pub(in crate::operations) async fn discard_in_bulk(
        &self,
        bulk: i64,
        letters: &[Uuid],
    ) -> Result<()> {
        let of_store = |error| self.database_error(error);
        let found = self.store().letters_by_id(letters.iter().copied()).await;
        let mut found = found.map_err(of_store)?;
        found.retain(|letter| letter.state() == LetterState::Dead);
        let told = |_: &LetterSummary| Told::Bulk(bulk);
        let changed = self.store().discard_letters(&found, self.now_ms(), told).await;
        changed.map(drop).map_err(of_store)
    }
}

fn dead_at(filter: &JobFilter, at_ms: i64) -> LetterFilter {
    let end_ms = at_ms.saturating_add(1);
    LetterFilter {
        states: vec![LetterState::Dead],
        app: filter.app.clone(),
        kind: filter.error_kind.map(|kind| kind.as_str().to_owned()),
        from_ms: filter.from_ms,
        to_ms: Some(filter.to_ms.map_or(end_ms, |to_ms| to_ms.min(end_ms))),
        contains: None,
        partition: filter.partition.clone(),
    }
}
