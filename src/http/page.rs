//! Pages of lists: `{"items", "next"}`, and the cursor by which the next page is asked for.
//!
//! A cursor is a place in the order of a list, with a checksum over it, the endpoint and the
//! filter. The checksum has no secret: a cursor opens nothing that its bearer could not read
//! by walking the list from the start, so that it need not be proof against forgery, only
//! against mistakes. Therefore it works on every instance, after a restart and for as long as the
//! form stays the same.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::problem::Problem;
use super::query::Query;

/// Bytes of the checksum.
const CHECKSUM: usize = 8;

/// Some items of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items.
    items: Vec<T>,
    /// The `cursor` of the next page; null at the end.
    next: Option<String>,
}

impl<T> Page<T> {
    /// A list that has one page.
    pub(super) fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }

    /// A page after which the list goes on behind `next`.
    pub(super) fn new(items: Vec<T>, next: Option<String>) -> Self {
        Self { items, next }
    }
}

/// A list whose cursors are made and read.
#[derive(Debug)]
pub(super) struct List<'a> {
    endpoint: &'static str,
    query: &'a Query,
}

impl<'a> List<'a> {
    /// The list at `endpoint` by the filter of `query`.
    pub(super) fn new(endpoint: &'static str, query: &'a Query) -> Self {
        Self { endpoint, query }
    }

    /// The cursor of this place.
    pub(super) fn cursor(&self, place: &[u8]) -> String {
        let mut bytes = place.to_vec();
        bytes.extend(self.checksum(place));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place of the request's cursor, if it has one.
    pub(super) fn place(&self) -> Result<Option<Vec<u8>>, Problem> {
        let Some(cursor) = self.query.text("cursor") else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
        let split = bytes.len().checked_sub(CHECKSUM).map(|at| bytes.split_at(at));
        match split {
            Some((place, checksum)) if checksum == self.checksum(place) => Ok(Some(place.to_vec())),
            _ => Err(invalid_cursor()),
        }
    }

    fn checksum(&self, place: &[u8]) -> [u8; CHECKSUM] {
        let mut hash = Sha256::new();
        for part in [b"cursor 1", self.endpoint.as_bytes(), self.query.filter().as_bytes(), place] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut short = [0; CHECKSUM];
        short.copy_from_slice(&hash.finalize()[..CHECKSUM]);
        short
    }
}

/// The cursor is of another list or filter, or was changed.
pub(super) fn invalid_cursor() -> Problem {
    let detail = "cursor is not one of this list with this filter: give the `next` of the page \
                  before unchanged, with the same filter, or begin without a cursor";
    Problem::bad("invalid-cursor", detail)
}
