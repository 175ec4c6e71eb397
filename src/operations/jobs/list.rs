//! Lists of jobs: live ones a page at a time in the order of due time and id, then those that have
//! ended, newest first, and how many there are.

use serde::Serialize;

use super::Jobs;
use super::listed::ListedJob;
use super::selection::{LOOKED_AT, Selection};
use crate::model::cursor::CursorScope;
use crate::model::filter::JobFilter;
use crate::model::ids::{JobId, ShardId};
use crate::operations::Result;
use crate::operations::context::Context;
use crate::operations::page::{self, PageRequest};
use crate::store::{EndPlace, JobCount, JobPlace, JobVersion};

/// The name of the list in its cursors.
const ENDPOINT: &str = "jobs";

/// One page of a list of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct JobPage {
    /// The jobs that have not ended, by due time and id, then those that have, newest first. A page
    /// may be short before the end.
    pub items: Vec<ListedJob>,
    /// The cursor of the next page; none at the end.
    pub next: Option<String>,
    /// How many jobs were read, if no index has what the filter asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<u64>,
}

impl Jobs<'_> {
    /// A page of the jobs that `filter` selects: those that have not ended in the order of due time
    /// and id, then those that have, newest first. A job that exists all the time and is not changed
    /// is on exactly one page, whatever happens to others. A page may be short before the end, since
    /// what no index has is looked for among at most 10,000 jobs for one: data, partition and the
    /// state `running`, and of ended jobs priority and error kind.
    ///
    /// # Errors
    /// [`Invalid`](crate::operations::Error::Invalid) for an app that was never registered and a limit that is not 1 to 1000,
    /// [`InvalidCursor`](crate::operations::Error::InvalidCursor) for one of another list or filter; [`Unavailable`](crate::operations::Error::Unavailable) when the database does not answer.
    pub async fn list(&self, filter: &JobFilter, page: &PageRequest) -> Result<JobPage> {
        let (filter, page) = (filter.clone(), page.clone());
        self.context
            .run(|context| async move {
                let scope = CursorScope::new(ENDPOINT, filter.canonical());
                let (limit, after) = page.read(&scope, Place::of_bytes)?;
                let selection = Selection::new(&context, filter).await?;
                selection.page(&context, after, limit).await.map(|listed| listed.into_page(&scope))
            })
            .await
    }

    /// How many jobs `filter` selects, counted up to [`JobCount::LIMIT`]. Where jobs must be read,
    /// as for a [`list`](Self::list), at most as many are, and those of them that it selects are
    /// counted.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn count(&self, filter: &JobFilter) -> Result<JobCount> {
        let filter = filter.clone();
        self.context
            .run(|context| async move {
                let selection = Selection::new(&context, filter).await?;
                let live = match selection.filter.selects_live() {
                    true => selection.count(&context).await?,
                    false => JobCount { jobs: 0, has_more: false },
                };
                if live.has_more {
                    return Ok(live);
                }
                let ended = selection.count_ended(&context).await?;
                let jobs = live.jobs + ended.jobs;
                let has_more = ended.has_more || jobs > JobCount::LIMIT;
                Ok(JobCount { jobs: jobs.min(JobCount::LIMIT), has_more })
            })
            .await
    }
}

/// A job that a bulk action is to treat, with the time of its admission, its revision and its shard.
pub(in crate::operations) type Target = (JobId, i64, u32, ShardId);

impl Context {
    /// How many live jobs `filter` selects, counted up to a limit, and the first `samples` of them.
    ///
    /// # Errors
    /// [`Invalid`](crate::operations::Error::Invalid) if its values do not fit each other, or its app was never registered.
    pub(in crate::operations) async fn live_jobs(
        &self,
        filter: JobFilter,
        samples: usize,
    ) -> Result<(JobCount, Vec<ListedJob>)> {
        let selection = Selection::new(self, filter).await?;
        let count = selection.count(self).await?;
        let found = selection.find(self, None, samples).await?;
        let jobs = found.jobs.into_iter().map(|live| live.listed(selection.now_ms));
        Ok((count, jobs.collect()))
    }

    /// Checks that `filter` can select jobs.
    ///
    /// # Errors
    /// As [`live_jobs`](Self::live_jobs).
    pub(in crate::operations) async fn check_selection(&self, filter: JobFilter) -> Result<()> {
        Selection::new(self, filter).await.map(drop)
    }

    /// The next live jobs, at most `limit`, that `filter` selected at `at_ms`, and the place where
    /// the next ones begin. Those that came or were moved later are left out, so that what is moved
    /// while it is walked through does not come again.
    pub(in crate::operations) async fn jobs_at(
        &self,
        filter: JobFilter,
        at_ms: i64,
        after: Option<JobPlace>,
        limit: usize,
    ) -> Result<(Vec<Target>, Option<JobPlace>)> {
        let selection = Selection::new(self, filter).await?;
        let selection = selection.at(at_ms);
        let (found, next) = selection.versions(self, after, limit).await?;
        let target = |job: JobVersion| (job.place.1, job.created_ms, job.revision, job.shard);
        Ok((found.into_iter().map(target).collect(), next))
    }
}

/// Where a page begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// After this live job.
    Live(JobPlace),
    /// After this job that has ended, or at the first of them.
    Ended(Option<EndPlace>),
}

/// The jobs of a page, and where the next one begins.
#[derive(Default)]
struct Listed {
    items: Vec<ListedJob>,
    next: Option<Place>,
    looked_at: Option<u64>,
}

impl Place {
    fn to_bytes(self) -> Vec<u8> {
        let (tag, bytes) = match self {
            Self::Live((due_ms, id)) => (0, page::bytes_of(due_ms, id.into_bytes())),
            Self::Ended(Some((ended_ms, id))) => (1, page::bytes_of(ended_ms, id.into_bytes())),
            Self::Ended(None) => (1, Vec::new()),
        };
        [&[tag], &*bytes].concat()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let read = |bytes| page::place_of(bytes).map(|(ms, id)| (ms, JobId::from_bytes(id)));
        match bytes.split_first()? {
            (0, bytes) => read(bytes).map(Self::Live),
            (1, []) => Some(Self::Ended(None)),
            (1, bytes) => read(bytes).map(|place| Self::Ended(Some(place))),
            _ => None,
        }
    }
}

impl Selection {
    async fn page(&self, context: &Context, after: Option<Place>, limit: usize) -> Result<Listed> {
        let (mut listed, mut looked_at) = (Listed::default(), 0);
        let live_after = match after {
            None => Some(None),
            Some(Place::Live(place)) => Some(Some(place)),
            Some(Place::Ended(_)) => None,
        };
        if let Some(after) = live_after.filter(|_| self.filter.selects_live()) {
            let found = self.find(context, after, limit).await?;
            listed.items = found.jobs.into_iter().map(|live| live.listed(self.now_ms)).collect();
            listed.next = found.next.map(Place::Live);
            looked_at = found.looked_at;
            listed.looked_at = found.is_scan.then_some(looked_at);
            if listed.next.is_some() {
                return Ok(listed);
            }
        }
        let after = match after {
            Some(Place::Ended(after)) => after,
            _ => None,
        };
        let rest = limit - listed.items.len();
        let most = LOOKED_AT.saturating_sub(looked_at);
        let ended = self.find_ended(context, after, rest, most).await?;
        listed.items.extend(ended.jobs);
        listed.next = ended.next.map(Place::Ended);
        if let Some(read) = ended.looked_at {
            listed.looked_at = Some(listed.looked_at.unwrap_or(0) + read);
        }
        Ok(listed)
    }
}

impl Listed {
    fn into_page(self, scope: &CursorScope) -> JobPage {
        let Self { items, next, looked_at } = self;
        JobPage { items, next: next.map(|place| scope.write(&place.to_bytes())), looked_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = (-5, JobId::from_bytes([7; 16]));
        for place in [Place::Live(place), Place::Ended(Some(place)), Place::Ended(None)] {
            let read = Place::of_bytes(&place.to_bytes()).map(|read| format!("{read:?}"));
            assert_eq!(read, Some(format!("{place:?}")));
        }
        for bytes in [&[][..], &[2], &[0], &[0; 24], &[1; 26]] {
            assert!(Place::of_bytes(bytes).is_none(), "{bytes:?}");
        }
    }
}
