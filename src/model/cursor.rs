//! Cursors: the place in a list at which its next page begins, as an opaque text.
//!
//! A cursor belongs to an endpoint and a filter, which a checksum over all three makes sure of. The
//! checksum has no secret: a cursor opens nothing that its bearer could not read from the start of
//! the list, so that it guards against mistakes only. It depends neither on an instance nor on a
//! process, and does not expire.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Bytes of the checksum.
const CHECKSUM: usize = 8;

/// The list that cursors belong to.
#[derive(Clone, Debug)]
pub(crate) struct CursorScope {
    endpoint: &'static str,
    filter: String,
}

/// A text that is not a cursor of this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cursor is not one of this list with this filter: give the `next` of the page before \
     unchanged, with the same filter, or begin without a cursor"
)]
pub(crate) struct InvalidCursor;

impl CursorScope {
    /// The list at `endpoint` with `filter`, which is the same text for the same filter.
    pub(crate) fn new(endpoint: &'static str, filter: String) -> Self {
        Self { endpoint, filter }
    }

    /// The cursor of `place`.
    pub(crate) fn write(&self, place: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode([place, &self.checksum(place)].concat())
    }

    /// The place of a cursor.
    ///
    /// # Errors
    /// If it is of another list or filter, or was changed.
    pub(crate) fn read(&self, cursor: &str) -> Result<Vec<u8>, InvalidCursor> {
        let mut place = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| InvalidCursor)?;
        let at = place.len().checked_sub(CHECKSUM).ok_or(InvalidCursor)?;
        let checksum = place.split_off(at);
        if checksum == self.checksum(&place) { Ok(place) } else { Err(InvalidCursor) }
    }

    fn checksum(&self, place: &[u8]) -> [u8; CHECKSUM] {
        let mut hash = Sha256::new();
        for part in [b"cursor 1", self.endpoint.as_bytes(), self.filter.as_bytes(), place] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut short = [0; CHECKSUM];
        short.copy_from_slice(&hash.finalize()[..CHECKSUM]);
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_by_the_list_that_wrote_it_and_by_no_other() {
        let list = CursorScope::new("jobs", "a".into());
        let cursor = list.write(b"place");
        assert_eq!(list.clone().read(&cursor).as_deref(), Ok(&b"place"[..]));
        let others = [("jobs", "b"), ("letters", "a"), ("jobsa", ""), ("job", "sa")];
        for (endpoint, filter) in others {
            let other = CursorScope::new(endpoint, filter.into());
            assert_eq!(other.read(&cursor), Err(InvalidCursor), "{endpoint} {filter}");
        }
        assert_eq!(list.read(&list.write(b"")).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn a_cursor_with_another_character_is_none() {
        let list = CursorScope::new("jobs", "a".into());
        let cursor = list.write(b"a place of some bytes");
        for at in 0..cursor.len() {
            for other in ["A", "z", "_", "+", "=", " ", ""] {
                if &cursor[at..=at] != other {
                    let changed = format!("{}{other}{}", &cursor[..at], &cursor[at + 1..]);
                    assert_eq!(list.read(&changed), Err(InvalidCursor), "{changed}");
                }
            }
        }
        for text in ["", "AAAA", "é", &format!("{cursor}A"), &format!("{cursor}=")] {
            assert_eq!(list.read(text), Err(InvalidCursor), "{text}");
        }
    }
}
