//! Dead letters: list, show, correct, replay and discard.
//!
//! `bulk` applies an action to several letters, `edit` corrects one, and `wire` is their JSON form.

mod bulk;
mod edit;
mod found;
mod wire;

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use super::admission::NotReplayed;
use super::context::Context;
use super::page::{self, PageRequest};
use super::{
    Error, LetterCount, LetterFilter, LetterName, LetterState, LetterSummary, ReplayChain,
    Replayed, Result, TopicPartition, rfc3339_s,
};
use crate::model::cursor::CursorScope;
use crate::store::{LetterCursor, LetterRow, Lookup, Names};

pub use bulk::{BulkTally, CountedLetters, LetterAction, LetterOutcome, LetterSelection};
pub use edit::{Edit, Edited};
pub(super) use found::LetterPlace;
pub(crate) use wire::{Shown as WireLetter, Summary as WireLetterSummary};

/// Requests that could not become jobs, and jobs that failed permanently.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetters<'a> {
    context: &'a Arc<Context>,
}

/// Some dead letters, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LetterList {
    /// The letters.
    pub items: Vec<LetterSummary>,
    /// The cursor of the next page; none at the end.
    pub next: Option<String>,
}

/// Everything about one letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShownLetter {
    /// The fields that a list shows.
    pub summary: LetterSummary,
    /// Whether it is on the DLQ topic, acknowledged by the broker.
    pub published: bool,
    /// The key of its record.
    pub key: Option<Vec<u8>>,
    /// The value of its record, or the body that its job was fired with.
    pub value: Option<Vec<u8>>,
    /// The headers of its record, as JSON: pairs of a name and a value, which is a string, `null`
    /// or `{"hex": ".."}`.
    pub headers: String,
    /// The value that a replay uses instead of the record's.
    pub correction: Option<Vec<u8>>,
    /// Earlier and later letters of the same request, if replays of it failed again.
    pub chain: ReplayChain,
}

impl<'a> DeadLetters<'a> {
    pub(super) fn new(context: &'a Arc<Context>) -> Self {
        Self { context }
    }

    /// A page of the letters that match `filter`, newest first. A new letter does not shift the
    /// following pages.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a filter that can match none and a limit that is not 1 to 1000,
    /// [`Error::InvalidCursor`] for one of another list or filter; [`Error::Unavailable`] when the
    /// database does not answer.
    pub async fn list(&self, filter: &LetterFilter, page: &PageRequest) -> Result<LetterList> {
        check(filter)?;
        let scope = CursorScope::new("dead-letters", canonical(filter));
        let (limit, after) = page.read(&scope, place_of)?;
        let filter = filter.clone();
        self.context
            .run(move |context| async move {
                let found = context.store().letters(&filter, after, limit as u64).await;
                let found = found.map_err(|error| context.database_error(error))?;
                let next = found.next.map(|next| {
                    scope.write(&page::bytes_of(next.created_ms, next.id.into_bytes()))
                });
                Ok(LetterList { items: found.letters, next })
            })
            .await
    }

    /// How many letters match `filter`, by state and kind; only counts above zero.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn count(&self, filter: &LetterFilter) -> Result<Vec<LetterCount>> {
        check(filter)?;
        let filter = filter.clone();
        self.context
            .run(move |context| async move {
                let counts = context.store().count_letters(&filter).await;
                counts.map_err(|error| context.database_error(error))
            })
            .await
    }

    /// Everything about one letter.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such letter, [`Error::Invalid`] if several ids begin with
    /// the name; [`Error::Unavailable`] when the database does not answer.
    pub async fn show(&self, letter: &LetterName) -> Result<ShownLetter> {
        let name = letter.clone();
        self.context
            .run(move |context| async move {
                let row = find(&context, &name).await?;
                let summary = LetterSummary::from(&row);
                let store = context.store();
                let of_store = |error| context.database_error(error);
                let waits = store.awaits_publishing(row.id).await.map_err(of_store)?;
                let chain = store.replay_chain(&summary).await.map_err(of_store)?;
                Ok(ShownLetter {
                    // A parked record is not published before it is dead.
                    published: !waits && summary.state() != LetterState::Parked,
                    summary,
                    key: row.record_key,
                    value: row.record_value,
                    headers: row.headers,
                    correction: row.correction,
                    chain,
                })
            })
            .await
    }

    /// Admits the request of a dead letter again, or `value` instead of it, like any other request.
    /// If the request is refused, the letter is unchanged.
    ///
    /// # Errors
    /// [`Error::Refused`] with what is wrong with the request; [`Error::Conflict`] if the letter's
    /// state does not allow a replay, with the job if it was replayed before; [`Error::NotFound`]
    /// if there is no such letter; [`Error::Unavailable`] when the database does not answer: the
    /// replay may be repeated, which does not create a second job.
    pub async fn replay(&self, letter: Uuid, value: Option<Vec<u8>>) -> Result<Replayed> {
        self.context
            .run(move |context| async move {
                let replayed =
                    context.admission.replay(letter, value, context.by.clone(), None).await;
                explained(&context, letter, replayed).await
            })
            .await
    }

    /// The result that [`replay`](Self::replay) would have now. Nothing is written.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub async fn preview_replay(&self, letter: Uuid, value: Option<Vec<u8>>) -> Result<Replayed> {
        self.context
            .run(move |context| async move {
                let mut names = Names::default();
                let by = context.by.clone();
                let admission = &context.admission;
                let preview = admission.preview_replay(letter, value, by, &mut names).await;
                explained(&context, letter, preview).await
            })
            .await
    }
}

/// A text that is the same for the same filter.
fn canonical(filter: &LetterFilter) -> String {
    let LetterFilter { states, app, kind, from_ms, to_ms, contains, partition } = filter;
    let mut states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    states.sort_unstable();
    states.dedup();
    let partition =
        partition.as_ref().map(|TopicPartition { topic, partition }| (topic, partition.0));
    json!([states, app, kind, from_ms, to_ms, contains, partition]).to_string()
}

fn place_of(bytes: &[u8]) -> Option<LetterCursor> {
    let (created_ms, id) = page::place_of(bytes)?;
    Some(LetterCursor { created_ms, id: Uuid::from_bytes(id) })
}

fn check(filter: &LetterFilter) -> Result<()> {
    match (filter.from_ms, filter.to_ms) {
        (Some(from), Some(to)) if from >= to => {
            let (from, to) = (rfc3339_s(from), rfc3339_s(to));
            Err(Error::Invalid(format!("from ({from}) must be before to ({to})")))
        }
        _ => Ok(()),
    }
}

async fn find(context: &Context, name: &LetterName) -> Result<LetterRow> {
    let found = context.store().find_letter(name).await;
    match found.map_err(|error| context.database_error(error))? {
        Lookup::Found(letter) => Ok(*letter),
        Lookup::Unknown => Err(Error::NotFound(format!("there is no dead letter {name}"))),
        Lookup::Ambiguous(ids) => {
            let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
            Err(Error::Invalid(format!(
                "several dead letters begin with {name}: give more digits, as in {}",
                ids.join(", ")
            )))
        }
    }
}

/// Converts the result of a replay. If the letter's state did not allow it, the error describes
/// that state.
async fn explained(
    context: &Context,
    letter: Uuid,
    replayed: Result<Replayed, NotReplayed>,
) -> Result<Replayed> {
    let why = match replayed {
        Ok(replayed) => return Ok(replayed),
        Err(NotReplayed::Failed(error)) => return Err(error),
        Err(NotReplayed::NotPossible(why)) => why,
    };
    let now = context.store().letters_by_id([letter]).await;
    match now.map_err(|error| context.database_error(error))?.pop() {
        None => Err(Error::NotFound(why)),
        Some(now) if now.state() == LetterState::Dead => Err(Error::Conflict(why)),
        Some(now) => Err(Error::Conflict(why_not(&now))),
    }
}

/// Why a letter in this state cannot be changed.
fn why_not(letter: &LetterSummary) -> String {
    match letter.state() {
        LetterState::Parked => {
            let when = letter.due_ms.map(|due| format!(", next at {}", rfc3339_s(due)));
            let when = when.unwrap_or_default();
            format!(
                "it is parked: its record is tried again by itself{when}; wait until it is dead"
            )
        }
        LetterState::Replayed => {
            let job = letter.job.map(|job| format!(" as job {job}")).unwrap_or_default();
            format!("it was replayed{job} at {}", rfc3339_s(letter.changed_ms))
        }
        LetterState::Discarded => format!("it was discarded at {}", rfc3339_s(letter.changed_ms)),
        LetterState::Dead => "it was changed at the same time: look at it again".into(),
    }
}

const GONE: &str = "it does not exist any more";
