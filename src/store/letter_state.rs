//! The states of a dead letter, and their numbers in the table.

use std::fmt;

/// The state of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LetterState {
    /// It is not retried; an operator may replay or discard it.
    Dead,
    /// Its record may still become a job, and is retried automatically.
    Parked,
    /// Its value was submitted again as a request.
    Replayed,
    /// An operator decided that nothing is to be done about it.
    Discarded,
}

impl LetterState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Dead, Self::Parked, Self::Replayed, Self::Discarded];

    /// Its number in the table.
    pub const fn code(self) -> i16 {
        match self {
            Self::Dead => 0,
            Self::Parked => 1,
            Self::Replayed => 2,
            Self::Discarded => 3,
        }
    }

    /// The state with this number. An unknown number cannot occur, because the schema of a newer
    /// version is refused; it would count as discarded, so that nothing is done to its letter.
    pub(super) fn of(code: i16) -> Self {
        Self::ALL.into_iter().find(|state| state.code() == code).unwrap_or(Self::Discarded)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Parked => "parked",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

impl fmt::Display for LetterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
