//! Finds a dead letter by its id or the beginning of it, and the letters that it is linked to.

use std::fmt;
use std::str::FromStr;

use infinite_scheduler_entity::dead_letter::{Column, Entity};
use infinite_scheduler_entity::outbox;
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{LetterRow, LetterSummary};
use crate::store::{LetterState, Result, Store};

/// The fewest digits of an id that are accepted.
const FEWEST_DIGITS: usize = 8;
/// The most ids that are returned for an ambiguous name.
const SHOWN: u64 = 5;
/// The most links of a chain of replays that are followed in each direction. `max_replays` is much
/// lower.
const LONGEST_CHAIN: usize = 100;

/// The id of a dead letter, or the beginning of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterName {
    first: Uuid,
    last: Uuid,
}

/// A text that is not the id of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the id of a dead letter: give its UUID, or at least the first {FEWEST_DIGITS} \
     hexadecimal digits of it"
)]
pub struct InvalidLetterName;

impl FromStr for LetterName {
    type Err = InvalidLetterName;

    fn from_str(text: &str) -> Result<Self, InvalidLetterName> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let right = digits.chars().all(|c| c.is_ascii_hexdigit());
        if !right || !(FEWEST_DIGITS..=32).contains(&digits.len()) {
            return Err(InvalidLetterName);
        }
        let filled = |digits: String| Uuid::try_parse(&digits).map_err(|_| InvalidLetterName);
        Ok(Self {
            first: filled(format!("{digits:0<32}"))?,
            last: filled(format!("{digits:f<32}"))?,
        })
    }
}

impl fmt::Display for LetterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first.to_string(), self.last.to_string());
        let alike = first.chars().zip(last.chars()).take_while(|(one, other)| one == other);
        let alike: String = alike.map(|(c, _)| c).collect();
        f.write_str(alike.trim_end_matches('-'))
    }
}

impl From<Uuid> for LetterName {
    fn from(id: Uuid) -> Self {
        Self { first: id, last: id }
    }
}

/// The result of looking up a [`LetterName`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The letter.
    Found(Box<LetterRow>),
    /// Several letters, some of which are given.
    Ambiguous(Vec<Uuid>),
    /// No letter.
    Unknown,
}

/// The dead letters that are linked to one by replays that failed again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayChain {
    /// Those whose replays led to it, oldest first.
    pub before: Vec<LetterSummary>,
    /// Those that resulted from its own replay, oldest first.
    pub after: Vec<LetterSummary>,
}

impl Store {
    /// Finds the dead letter with this id or beginning.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn find_letter(&self, name: &LetterName) -> Result<Lookup> {
        let ids: Vec<Uuid> = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::Id.between(name.first, name.last))
            .order_by_asc(Column::Id)
            .limit(SHOWN)
            .into_tuple()
            .all(&self.inner.pool)
            .await?;
        let [id] = ids[..] else {
            return Ok(if ids.is_empty() { Lookup::Unknown } else { Lookup::Ambiguous(ids) });
        };
        let row = Entity::find_by_id(id).one(&self.inner.pool).await?;
        Ok(row.map_or(Lookup::Unknown, |row| Lookup::Found(Box::new(row))))
    }

    /// The summaries of those of `ids` that exist, in no particular order.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn letters_by_id(
        &self,
        ids: impl IntoIterator<Item = Uuid>,
    ) -> Result<Vec<LetterSummary>> {
        let query = Entity::find().filter(Column::Id.is_in(ids));
        Ok(query.into_partial_model().all(&self.inner.pool).await?)
    }

    /// Whether the letter is still to be published to the DLQ topic.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn awaits_publishing(&self, letter: Uuid) -> Result<bool> {
        let rows = outbox::Entity::find().filter(outbox::Column::Letter.eq(letter));
        Ok(rows.count(&self.inner.pool).await? > 0)
    }

    /// The letters whose replays led to `letter`, and those that its own replay led to. The chain ends
    /// at a letter that has expired.
    ///
    /// # Errors
    /// [`crate::store::Error::Unavailable`] if the database is unavailable.
    pub async fn replay_chain(&self, letter: &LetterSummary) -> Result<ReplayChain> {
        let mut chain = ReplayChain::default();
        let mut above = letter.replay_of;
        while let Some(id) = above
            && chain.before.len() < LONGEST_CHAIN
        {
            let found = self.letters_by_id([id]).await?.pop();
            above = found.as_ref().and_then(|letter| letter.replay_of);
            chain.before.extend(found);
        }
        chain.before.reverse();
        let mut below = vec![letter.clone()];
        while let Some(parent) = below.pop()
            && chain.after.len() < LONGEST_CHAIN
        {
            let children = self.letters_of_replay(&parent).await?;
            below.extend(children.iter().cloned());
            chain.after.extend(children);
        }
        chain.after.sort_by_key(|letter| letter.created_ms);
        Ok(chain)
    }

    async fn letters_of_replay(&self, parent: &LetterSummary) -> Result<Vec<LetterSummary>> {
        if parent.state() != LetterState::Replayed {
            return Ok(Vec::new());
        }
        let query = Entity::find()
            .filter(Column::ReplayOf.eq(parent.id))
            // There is an index by time, but none by `replay_of`.
            .filter(Column::CreatedMs.gte(parent.created_ms));
        Ok(query.into_partial_model().all(&self.inner.pool).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_uuid_or_how_it_begins() {
        let whole = "0198c0de-1234-8abc-9def-0123456789ab";
        let id: Uuid = whole.parse().unwrap();
        assert_eq!(whole.parse(), Ok(LetterName::from(id)));
        assert_eq!(whole.to_uppercase().replace('-', "").parse(), Ok(LetterName::from(id)));
        for (text, first, last) in [
            (
                "0198c0de",
                "0198c0de-0000-0000-0000-000000000000",
                "0198c0de-ffff-ffff-ffff-ffffffffffff",
            ),
            (
                "0198C0DE-123",
                "0198c0de-1230-0000-0000-000000000000",
                "0198c0de-123f-ffff-ffff-ffffffffffff",
            ),
        ] {
            let (first, last) = (first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(text.parse(), Ok(LetterName { first, last }), "{text}");
        }
        for text in ["", "0198c0d", "0198c0dg", "r-1", "0198c0de-1234-8abc-9def-0123456789ab0"] {
            assert_eq!(text.parse::<LetterName>(), Err(InvalidLetterName), "{text}");
        }
    }
}
