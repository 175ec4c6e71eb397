//! The operations on dead letters: listing, counting, finding, correcting, discarding, expiry.
//!
//! How dead letters are written is in `letters`, and how they are published in `outbox`.

mod change;
mod expire;
mod filter;
mod find;
mod replay;
mod summary;

pub use change::Change;
pub use filter::{LetterCount, LetterCursor, LetterFilter, LetterPage};
pub use find::{InvalidLetterName, LetterName, Lookup, ReplayChain};
pub use replay::LetterToReplay;
pub use summary::LetterSummary;

pub use infinite_scheduler_entity::dead_letter::Model as LetterRow;
