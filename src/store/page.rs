//! Pages of lists in the database: one row more than was asked for shows whether there are more.

/// How many rows are read for a page of `limit` rows.
pub(super) fn one_more(limit: u64) -> u64 {
    limit.saturating_add(1)
}

/// Leaves the rows of the page. True if there are more.
pub(super) fn cut_to<T>(rows: &mut Vec<T>, limit: u64) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    has_more
}
