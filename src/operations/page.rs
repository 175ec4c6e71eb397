//! Pages of lists, and the cursors between them.

use super::{Error, Result};
use crate::model::cursor::{CursorScope, InvalidCursor};

/// Items of a page when nothing is said, and at most.
const LIMITS: (usize, usize) = (100, 1000);

/// Which page of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Its items at most: 1 to 1000.
    pub limit: usize,
    /// The `next` of the page before; none for the first page.
    pub cursor: Option<String>,
}

/// The bytes of a place in an order of a time and an id, as a cursor has them.
pub(super) fn bytes_of<const N: usize>(ms: i64, id: [u8; N]) -> Vec<u8> {
    [&ms.to_be_bytes()[..], &id].concat()
}

/// The time and id that [`bytes_of`] wrote.
pub(super) fn place_of<const N: usize>(bytes: &[u8]) -> Option<(i64, [u8; N])> {
    let (ms, id) = bytes.split_first_chunk::<8>()?;
    Some((i64::from_be_bytes(*ms), id.try_into().ok()?))
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: LIMITS.0, cursor: None }
    }
}

impl PageRequest {
    /// The largest limit.
    pub(crate) const LARGEST: usize = LIMITS.1;

    /// The limit, and the place of the cursor, which `decode` reads from its bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit that is not 1 to 1000, [`Error::InvalidCursor`] for a cursor
    /// that is not one of `scope`.
    pub(super) fn read<T>(
        &self,
        scope: &CursorScope,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<(usize, Option<T>)> {
        if !(1..=LIMITS.1).contains(&self.limit) {
            let problem =
                format!("limit is {}: give a whole number from 1 to {}", self.limit, LIMITS.1);
            return Err(Error::Invalid(problem));
        }
        let Some(cursor) = &self.cursor else { return Ok((self.limit, None)) };
        let place = scope.read(cursor).and_then(|bytes| decode(&bytes).ok_or(InvalidCursor));
        match place {
            Ok(place) => Ok((self.limit, Some(place))),
            Err(error) => Err(Error::InvalidCursor(error.to_string())),
        }
    }
}
