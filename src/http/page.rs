//! Pages of lists: `{"items", "next"}`, and the cursor by which the next page is asked for.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::query::Query;
use crate::operations::PageRequest;

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

/// The page that a query asks for.
pub(super) fn wanted(query: &Query) -> Result<PageRequest, Problem> {
    Ok(PageRequest { limit: query.limit()?, cursor: query.text("cursor").map(str::to_owned) })
}
