//! Dead letters as people meet them: listed, counted, found, corrected and discarded.
//!
//! This is what `operations` asks. How a letter comes to be and how it is published is in
//! `letters`.

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
