//! Pages of lists: `{"items", "next"}`, and the cursor by which the next page is asked for.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::query::Query;
use crate::model::cursor::CursorScope;

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

    /// A page after which the list continues at `next`.
    pub(super) fn new(items: Vec<T>, next: Option<String>) -> Self {
        Self { items, next }
    }
}

/// The cursors of one list.
#[derive(Debug)]
pub(super) struct Cursors<'a> {
    scope: CursorScope,
    given: Option<&'a str>,
}

impl<'a> Cursors<'a> {
    /// The cursors of the list at `endpoint` with the filter of `query`.
    pub(super) fn new(endpoint: &'static str, query: &'a Query) -> Self {
        let scope = CursorScope::new(endpoint, query.filter());
        Self { scope, given: query.text("cursor") }
    }

    /// The cursor of this place.
    pub(super) fn write(&self, place: &[u8]) -> String {
        self.scope.write(place)
    }

    /// The place of the request's cursor, if it has one.
    pub(super) fn place(&self) -> Result<Option<Vec<u8>>, Problem> {
        Ok(self.given.map(|cursor| self.scope.read(cursor)).transpose()?)
    }
}
