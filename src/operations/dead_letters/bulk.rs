//! Bulk actions on dead letters, and their dry runs.
//!
//! Letters that are selected by name are all looked up before anything is changed, since a wrong id
//! is an error of the caller. Letters that are selected by a filter are counted first; the action
//! then applies to those that were counted, one page at a time.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Context, DeadLetters, GONE, explained, find, why_not};
use crate::model::audit::{AuditAction, AuditEntry};
use crate::operations::{
    Error, LetterCount, LetterFilter, LetterList, LetterName, LetterState, LetterSummary,
    PageRequest, Replayed, Result,
};
use crate::store::{Change, Names, Told};

/// How many letters are read and processed at a time.
const PAGE: usize = 200;

/// An action on dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterAction {
    /// Admits their requests again, or their corrections where they have one.
    Replay,
    /// Marks them as needing no further action.
    Discard,
}

/// The letters that an action applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterSelection {
    /// These letters, each once.
    Named(Vec<LetterName>),
    /// The letters that were counted.
    Counted(CountedLetters),
}

/// The dead letters that match a filter, as they were counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedLetters {
    filter: LetterFilter,
    counts: Vec<LetterCount>,
}

/// The result for one letter, or the one of its dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterOutcome {
    /// Its request was admitted.
    Replayed(Replayed),
    /// It was marked.
    Discarded,
}

/// The results for all letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkTally {
    /// Letters to which the action was applied, or would be.
    pub done: u64,
    /// Letters to which it could not be applied.
    pub failed: u64,
}

impl CountedLetters {
    /// How many there are of each kind.
    pub fn counts(&self) -> &[LetterCount] {
        &self.counts
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.count).sum()
    }
}

impl DeadLetters<'_> {
    /// Counts the dead letters that match `filter`, for [`apply`](Self::apply). The filter's states
    /// are ignored: actions apply only to letters in the state dead.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn select(&self, filter: LetterFilter) -> Result<CountedLetters> {
        // Excludes letters that are created after they were counted.
        let end = self.context.now_ms().saturating_add(1);
        let to_ms = filter.to_ms.map_or(end, |to| to.min(end));
        super::check(&filter)?;
        let filter = LetterFilter { states: vec![LetterState::Dead], to_ms: Some(to_ms), ..filter };
        // A filter that begins in the future matches none, which is no error.
        let is_empty = filter.from_ms.is_some_and(|from| from >= to_ms);
        let counts = if is_empty { Vec::new() } else { self.count(&filter).await? };
        Ok(CountedLetters { filter, counts })
    }

    /// Applies `action` to each of `letters`, or with `dry_run` only determines the results, and
    /// calls `on_letter` for each letter. A dry run of a replay assumes that all are admitted at
    /// the same time.
    ///
    /// If the caller drops the future, the current page is completed.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Invalid`] if a name does not identify one letter: nothing
    /// was changed; [`Error::Unavailable`] when the database does not answer: the reported letters
    /// are done.
    pub async fn apply(
        &self,
        action: LetterAction,
        letters: &LetterSelection,
        dry_run: bool,
        mut on_letter: impl FnMut(&LetterSummary, &Result<LetterOutcome>),
    ) -> Result<BulkTally> {
        let mut bulk = Bulk { action, dry_run, names: Names::default() };
        let mut tally = BulkTally::default();
        let mut report = |applied: Applied| {
            for (letter, outcome) in &applied {
                match outcome {
                    Ok(_) => tally.done += 1,
                    Err(_) => tally.failed += 1,
                }
                on_letter(letter, outcome);
            }
        };
        match letters {
            LetterSelection::Named(names) => {
                let letters = self.named(names).await?;
                let (_, applied) = self.apply_page(bulk, letters).await?;
                report(applied);
            }
            LetterSelection::Counted(counted) if counted.total() == 0 => {}
            LetterSelection::Counted(counted) => {
                let mut page = PageRequest { limit: PAGE, cursor: None };
                loop {
                    let LetterList { items, next } = self.list(&counted.filter, &page).await?;
                    let (going_on, applied) = self.apply_page(bulk, items).await?;
                    report(applied);
                    (bulk, page.cursor) = (going_on, next);
                    if page.cursor.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(tally)
    }

    async fn named(&self, names: &[LetterName]) -> Result<Vec<LetterSummary>> {
        let names = names.to_vec();
        self.context
            .run(move |context| async move {
                let mut letters = Vec::with_capacity(names.len());
                let mut seen = HashSet::new();
                for name in &names {
                    let letter = LetterSummary::from(&find(&context, name).await?);
                    if seen.insert(letter.id) {
                        letters.push(letter);
                    }
                }
                Ok(letters)
            })
            .await
    }

    async fn apply_page(
        &self,
        mut bulk: Bulk,
        letters: Vec<LetterSummary>,
    ) -> Result<(Bulk, Applied)> {
        self.context
            .run(move |context| async move {
                let outcomes = bulk.apply(&context, &letters).await?;
                Ok((bulk, letters.into_iter().zip(outcomes).collect()))
            })
            .await
    }
}

/// Letters with their results.
type Applied = Vec<(LetterSummary, Result<LetterOutcome>)>;

/// A bulk action in progress.
struct Bulk {
    action: LetterAction,
    dry_run: bool,
    /// The ids and keys that earlier letters of a dry run would have taken.
    names: Names,
}

impl Bulk {
    /// The result for each letter, in the same order.
    async fn apply(
        &mut self,
        context: &Arc<Context>,
        letters: &[LetterSummary],
    ) -> Result<Vec<Result<LetterOutcome>>> {
        match (self.action, self.dry_run) {
            (LetterAction::Replay, _) => Ok(self.replay(context, letters).await),
            (LetterAction::Discard, true) => Ok(letters.iter().map(preview_discard).collect()),
            (LetterAction::Discard, false) => discard(context, letters).await,
        }
    }

    async fn replay(
        &mut self,
        context: &Arc<Context>,
        letters: &[LetterSummary],
    ) -> Vec<Result<LetterOutcome>> {
        let mut outcomes = Vec::with_capacity(letters.len());
        let mut is_unavailable = false;
        for letter in letters {
            if letter.state() != LetterState::Dead {
                outcomes.push(Err(Error::Conflict(why_not(letter))));
                continue;
            }
            if is_unavailable {
                let why = "not tried, as the one before had no answer";
                outcomes.push(Err(Error::Unavailable(why.into())));
                continue;
            }
            let admission = &context.admission;
            let by = context.by.clone();
            let replayed = match self.dry_run {
                true => admission.preview_replay(letter.id, None, by, &mut self.names).await,
                false => admission.replay(letter.id, None, by, None).await,
            };
            let replayed = explained(context, letter.id, replayed).await;
            is_unavailable = matches!(replayed, Err(Error::Unavailable(_))) && !self.dry_run;
            outcomes.push(replayed.map(LetterOutcome::Replayed));
        }
        outcomes
    }
}

fn preview_discard(letter: &LetterSummary) -> Result<LetterOutcome> {
    match letter.state() {
        LetterState::Dead | LetterState::Discarded => Ok(LetterOutcome::Discarded),
        LetterState::Parked | LetterState::Replayed => Err(Error::Conflict(why_not(letter))),
    }
}

async fn discard(
    context: &Context,
    letters: &[LetterSummary],
) -> Result<Vec<Result<LetterOutcome>>> {
    let entry = |letter: &LetterSummary| {
        let entry = context.entry(AuditAction::DiscardDeadLetter, letter.id);
        AuditEntry { app: letter.app.clone(), ..entry }
    };
    let changes = context
        .store()
        .discard_letters(letters, context.now_ms(), |letter| Told::audit(entry(letter)))
        .await;
    let outcome = |change| match change {
        Change::Made => Ok(LetterOutcome::Discarded),
        Change::Refused(now) => Err(Error::Conflict(why_not(&now))),
        Change::Gone => Err(Error::NotFound(GONE.into())),
    };
    let changes = changes.map_err(|error| context.database_error(error))?;
    Ok(changes.into_iter().map(outcome).collect())
}
