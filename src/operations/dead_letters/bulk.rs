//! Doing something to several letters, with a dry run that says what would come of it.
//!
//! Letters that are named are all looked up before anything is done: a wrong id is a mistake in
//! what was asked. Those that a filter describes are counted first; what was counted is what is
//! then done, a page at a time.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Context, DeadLetters, GONE, explained, find, why_not};
use crate::model::audit::{AuditAction, AuditEntry};
use crate::operations::{
    Error, LetterCount, LetterFilter, LetterName, LetterState, LetterSummary, Replayed, Result,
};
use crate::store::{Change, Names};

/// Letters that are read, and treated, at once.
const PAGE: u64 = 200;

/// What is done to letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterAction {
    /// Their requests are admitted again, their corrections where they have one.
    Replay,
    /// They are marked: nothing is to be done about them.
    Discard,
}

/// To which letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterSelection {
    /// To these, each once.
    Named(Vec<LetterName>),
    /// To those that were counted.
    Counted(CountedLetters),
}

/// Dead letters that a filter describes, as they were counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedLetters {
    filter: LetterFilter,
    counts: Vec<LetterCount>,
}

/// What became of one letter, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterOutcome {
    /// Its request was admitted.
    Replayed(Replayed),
    /// It was marked.
    Discarded,
}

/// What became of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkTally {
    /// Letters that it was done to, or would be.
    pub done: u64,
    /// Letters that it was not done to, for a reason of their own.
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
    /// Counts the dead letters that `filter` describes, for [`carry_out`](Self::carry_out). Its
    /// states do not matter: nothing can be done to a letter that is not dead.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn select(&self, filter: LetterFilter) -> Result<CountedLetters> {
        // None is treated that comes after they were counted.
        let end = self.context.now_ms().saturating_add(1);
        let to_ms = filter.to_ms.map_or(end, |to| to.min(end));
        super::check(&filter)?;
        let filter = LetterFilter { states: vec![LetterState::Dead], to_ms: Some(to_ms), ..filter };
        // A filter that begins later than now describes none, which is no mistake.
        let is_empty = filter.from_ms.is_some_and(|from| from >= to_ms);
        let counts = if is_empty { Vec::new() } else { self.count(&filter).await? };
        Ok(CountedLetters { filter, counts })
    }

    /// Does `action` to each of `letters`, or says with `dry_run` what would come of it, and
    /// reports each letter to `on_letter`. A dry run of a replay takes all to be admitted at one
    /// moment.
    ///
    /// If the caller stops waiting, it ends with the page in hand.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Invalid`] if a name is not that of one letter: nothing was
    /// done; [`Error::Unavailable`] when the database does not answer: what was reported is done.
    pub async fn carry_out(
        &self,
        action: LetterAction,
        letters: &LetterSelection,
        dry_run: bool,
        mut on_letter: impl FnMut(&LetterSummary, &Result<LetterOutcome>),
    ) -> Result<BulkTally> {
        let mut bulk = Bulk { action, dry_run, names: Names::default() };
        let mut tally = BulkTally::default();
        let mut report = |treated: Treated| {
            for (letter, outcome) in &treated {
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
                let (_, treated) = self.treat(bulk, letters).await?;
                report(treated);
            }
            LetterSelection::Counted(counted) if counted.total() == 0 => {}
            LetterSelection::Counted(counted) => {
                let mut after = None;
                loop {
                    let page = self.list(&counted.filter, after, PAGE).await?;
                    let (going_on, treated) = self.treat(bulk, page.letters).await?;
                    report(treated);
                    (bulk, after) = (going_on, page.next);
                    if after.is_none() {
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

    async fn treat(&self, mut bulk: Bulk, letters: Vec<LetterSummary>) -> Result<(Bulk, Treated)> {
        self.context
            .run(move |context| async move {
                let outcomes = bulk.treat(&context, &letters).await?;
                Ok((bulk, letters.into_iter().zip(outcomes).collect()))
            })
            .await
    }
}

/// Letters, each with its outcome.
type Treated = Vec<(LetterSummary, Result<LetterOutcome>)>;

/// An action that is under way.
struct Bulk {
    action: LetterAction,
    dry_run: bool,
    /// What the letters before would have taken, in a dry run.
    names: Names,
}

impl Bulk {
    /// The outcome of each letter, in the same order.
    async fn treat(
        &mut self,
        context: &Arc<Context>,
        letters: &[LetterSummary],
    ) -> Result<Vec<Result<LetterOutcome>>> {
        match (self.action, self.dry_run) {
            (LetterAction::Replay, _) => Ok(self.replay(context, letters).await),
            (LetterAction::Discard, true) => Ok(letters.iter().map(foresee_discard).collect()),
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
                true => admission.foresee_replay(letter.id, None, by, &mut self.names).await,
                false => admission.replay(letter.id, None, by).await,
            };
            let replayed = explained(context, letter.id, replayed).await;
            is_unavailable = matches!(replayed, Err(Error::Unavailable(_))) && !self.dry_run;
            outcomes.push(replayed.map(LetterOutcome::Replayed));
        }
        outcomes
    }
}

fn foresee_discard(letter: &LetterSummary) -> Result<LetterOutcome> {
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
    let changes = context.store().discard_letters(letters, context.now_ms(), entry).await;
    let outcome = |change| match change {
        Change::Made => Ok(LetterOutcome::Discarded),
        Change::Refused(now) => Err(Error::Conflict(why_not(&now))),
        Change::Gone => Err(Error::NotFound(GONE.into())),
    };
    let changes = changes.map_err(|error| context.database_error(error))?;
    Ok(changes.into_iter().map(outcome).collect())
}
