//! What a filter selects of the jobs that have ended, newest first.

use std::collections::HashMap;

use super::listed::ListedJob;
use super::selection::{PAGE_BYTES, SCAN, Selection};
use crate::model::filter::ListState;
use crate::model::ids::{AppId, JobId};
use crate::operations::Result;
use crate::operations::context::Context;
use crate::store::{AttemptState, EndPlace, EndRange, EndWalk, EndedRow, JobCount};

/// Ended jobs that were found.
#[derive(Default)]
pub(super) struct EndedFound {
    pub(super) jobs: Vec<ListedJob>,
    /// The place after which the next ones begin, if there may be more; of the first one, none.
    pub(super) next: Option<Option<EndPlace>>,
    /// How many were read, if no index has what is asked.
    pub(super) looked_at: Option<u64>,
}

impl Selection {
    /// How many ended jobs it selects, counted up to a limit.
    pub(super) async fn count_ended(&self, context: &Context) -> Result<JobCount> {
        let range = self.end_range();
        if range.states.is_empty() {
            return Ok(JobCount { jobs: 0, has_more: false });
        }
        if self.filter.key.is_none() && !self.filter.reads_ended() {
            let counted = context.store().count_ends(&range).await;
            return counted.map_err(|error| context.database_error(error));
        }
        let most = usize::try_from(JobCount::LIMIT).unwrap_or(usize::MAX);
        let found = self.find_ended(context, None, most, JobCount::LIMIT).await?;
        Ok(JobCount { jobs: found.jobs.len() as u64, has_more: found.next.is_some() })
    }

    /// The ended jobs that it selects after a place, at most `limit`, of at most `most` that are
    /// read.
    pub(super) async fn find_ended(
        &self,
        context: &Context,
        after: Option<EndPlace>,
        limit: usize,
        most: u64,
    ) -> Result<EndedFound> {
        let range = self.end_range();
        match &self.filter.key {
            _ if range.states.is_empty() => Ok(EndedFound::default()),
            Some(key) => self.find_ended_by_key(context, &range, key, after, limit).await,
            None => self.walk_ended(context, range, after, limit, most).await,
        }
    }

    fn end_range(&self) -> EndRange {
        let state = |state| match state {
            ListState::Succeeded => Some(AttemptState::Succeeded),
            ListState::Dead => Some(AttemptState::Dead),
            ListState::Cancelled => Some(AttemptState::Cancelled),
            _ => None,
        };
        EndRange {
            apps: self.apps.iter().map(|app| app.id).collect(),
            states: self.filter.ended_states().into_iter().filter_map(state).collect(),
            from_ms: self.filter.from_ms,
            to_ms: self.filter.to_ms,
        }
    }

    /// The ends of the jobs that the key refers to.
    async fn find_ended_by_key(
        &self,
        context: &Context,
        range: &EndRange,
        key: &str,
        after: Option<EndPlace>,
        limit: usize,
    ) -> Result<EndedFound> {
        let ids = self.jobs_of_key(context, key).await?;
        let mut rows = Vec::new();
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let read = context.store().ends_by_id(rest, PAGE_BYTES).await;
            let (ends, looked_for) = read.map_err(|error| context.database_error(error))?;
            rest = &rest[looked_for..];
            rows.extend(ends);
        }
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.place()));
        rows.retain(|row| after.is_none_or(|after| row.place() < after));
        let mut found = EndedFound::default();
        let mut last = after;
        for row in rows {
            let place = row.place();
            let Some(job) = self.listed(range, row) else { continue };
            if found.jobs.len() == limit {
                found.next = Some(last);
                break;
            }
            last = Some(place);
            found.jobs.push(job);
        }
        Ok(found)
    }

    async fn walk_ended(
        &self,
        context: &Context,
        range: EndRange,
        after: Option<EndPlace>,
        limit: usize,
        most: u64,
    ) -> Result<EndedFound> {
        let of_store = |error| context.database_error(error);
        let store = context.store();
        let is_scan = self.filter.reads_ended();
        let at_once = |found: &EndedFound| match is_scan {
            true => SCAN,
            false => limit - found.jobs.len(),
        };
        let mut found = EndedFound::default();
        let mut walk = EndWalk::new(&range, after, at_once(&found));
        let (mut looked_at, mut bytes, mut last) = (0, 0, after);
        let is_full = |found: &EndedFound, looked_at: u64, bytes: usize| {
            found.jobs.len() >= limit || bytes >= PAGE_BYTES || looked_at >= most
        };
        'pages: while !is_full(&found, looked_at, bytes) {
            let places = walk.next(store, at_once(&found)).await.map_err(of_store)?;
            if places.is_empty() {
                found.looked_at = is_scan.then_some(looked_at);
                return Ok(found);
            }
            let mut rest = &places[..];
            while !rest.is_empty() {
                let ids: Vec<JobId> = rest.iter().map(|(_, id)| *id).collect();
                let (rows, looked_for) =
                    store.ends_by_id(&ids, PAGE_BYTES).await.map_err(of_store)?;
                let mut rows: HashMap<EndPlace, EndedRow> =
                    rows.into_iter().map(|row| (row.place(), row)).collect();
                let (now, later) = rest.split_at(looked_for);
                rest = later;
                for place in now {
                    if is_full(&found, looked_at, bytes) {
                        found.next = Some(last);
                        break 'pages;
                    }
                    last = Some(*place);
                    looked_at += 1;
                    // It may have been removed meanwhile.
                    let Some(row) = rows.remove(place) else { continue };
                    let size = row.size();
                    let Some(job) = self.listed(&range, row) else { continue };
                    bytes += size;
                    found.jobs.push(job);
                }
                if is_full(&found, looked_at, bytes) && !rest.is_empty() {
                    found.next = Some(last);
                    break 'pages;
                }
            }
        }
        if found.next.is_none() && walk.has_more(store).await.map_err(of_store)? {
            found.next = Some(last);
        }
        found.looked_at = is_scan.then_some(looked_at);
        Ok(found)
    }

    /// The job as lists show it, if the filter selects it.
    fn listed(&self, range: &EndRange, row: EndedRow) -> Option<ListedJob> {
        let filter = &self.filter;
        let of_partition = self
            .ledgers
            .as_ref()
            .is_none_or(|ledgers| row.ledger.is_some_and(|ledger| ledgers.contains(&ledger)));
        let has_kind =
            filter.error_kind.is_none_or(|kind| row.kind.as_deref() == Some(kind.as_str()));
        let is_selected = of_partition
            && has_kind
            && range.states.contains(&row.state)
            && range.from_ms.is_none_or(|from_ms| row.ended_ms >= from_ms)
            && range.to_ms.is_none_or(|to_ms| row.ended_ms < to_ms)
            && filter.priority.is_none_or(|priority| row.priority == priority)
            && filter.holds_for(row.data.as_str());
        let app = is_selected.then(|| self.name_of(row.app)).flatten()?;
        Some(ListedJob::of_ended(row, app))
    }

    fn name_of(&self, id: AppId) -> Option<&str> {
        self.apps.iter().find(|app| app.id == id).map(|app| app.name.as_str())
    }
}
