//! Lists of jobs: a page at a time in the order of due time and id, and how many there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::Jobs;
use super::listed::ListedJob;
use super::running::{Running, RunningAttempt};
use crate::model::cursor::CursorScope;
use crate::model::filter::{JobFilter, ListState};
use crate::model::ids::{JobId, KeyId, LedgerId, ShardId};
use crate::model::job::{Job, Priority};
use crate::model::suggest::nearest;
use crate::operations::context::Context;
use crate::operations::page::{self, PageRequest};
use crate::operations::{Error, Result};
use crate::store::{AppShards, JobCount, JobPlace, JobWalk, WalkRange};

/// The name of the list in its cursors.
const ENDPOINT: &str = "jobs";
/// Jobs that are read for one page at most, where no index has what the filter asks.
const LOOKED_AT: u64 = JobCount::LIMIT;
/// Jobs that are read at once then.
const SCAN: usize = 500;
/// A page ends after about so many bytes.
const PAGE_BYTES: usize = 8 << 20;

/// One page of a list of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct JobPage {
    /// The jobs, by due time and id. A page may be short before the end.
    pub items: Vec<ListedJob>,
    /// The cursor of the next page; none at the end.
    pub next: Option<String>,
    /// How many jobs were read, if no index has what the filter asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<u64>,
}

impl Jobs<'_> {
    /// A page of the jobs that `filter` selects, in the order of due time and id. A job that exists
    /// all the time and is not changed is on exactly one page, whatever happens to others. A page
    /// may be short before the end, since a filter by partition, by data or by the state `running`
    /// reads at most 10,000 jobs for one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an app that was never registered and a limit that is not 1 to 1000,
    /// [`Error::InvalidCursor`] for one of another list or filter; [`Error::Unavailable`] when the database does not answer.
    pub async fn list(&self, filter: &JobFilter, page: &PageRequest) -> Result<JobPage> {
        let (filter, page) = (filter.clone(), page.clone());
        self.context
            .run(|context| async move {
                let scope = CursorScope::new(ENDPOINT, filter.canonical());
                let (limit, after) = page.read(&scope, place_of)?;
                let selection = Selection::new(&context, filter).await?;
                let found = selection.find(&context, after, limit).await?;
                Ok(found.into_page(&scope))
            })
            .await
    }

    /// How many jobs `filter` selects, counted up to [`JobCount::LIMIT`]. A filter by partition, by
    /// data or by the state `running` reads at most as many jobs, and counts those of them that it selects.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn count(&self, filter: &JobFilter) -> Result<JobCount> {
        let filter = filter.clone();
        self.context
            .run(|context| async move {
                let selection = Selection::new(&context, filter).await?;
                selection.count(&context).await
            })
            .await
    }
}

/// A job that a bulk action is to treat.
pub(in crate::operations) type Target = (JobId, i64, u32);

impl Context {
    /// Checks that `filter` can select jobs.
    ///
    /// # Errors
    /// [`Error::Invalid`] if its values do not fit each other, or its app was never registered.
    pub(in crate::operations) async fn check_selection(&self, filter: JobFilter) -> Result<()> {
        Selection::new(self, filter).await.map(drop)
    }

    /// The next jobs, at most `limit`, that `filter` selected at `at_ms`, each with the moment of
    /// its admission and its revision, and the place where the next ones begin. Those that came or
    /// were moved later are left out, so that what is moved while it is walked through does not
    /// come again.
    pub(in crate::operations) async fn jobs_at(
        &self,
        filter: JobFilter,
        at_ms: i64,
        after: Option<JobPlace>,
        limit: usize,
    ) -> Result<(Vec<Target>, Option<JobPlace>)> {
        let selection = Selection::new(self, filter).await?;
        let selection = Selection { now_ms: at_ms, until_ms: Some(at_ms), ..selection };
        let found = selection.find(self, after, limit).await?;
        let target = |Listed { job, .. }: &Listed| (job.id, job.created_ms, job.changes.revision);
        Ok((found.jobs.iter().map(target).collect(), found.next))
    }
}

fn place_of(bytes: &[u8]) -> Option<JobPlace> {
    let (due_ms, id) = page::place_of(bytes)?;
    Some((due_ms, JobId::from_bytes(id)))
}

/// What a filter selects at one moment.
struct Selection {
    filter: JobFilter,
    now_ms: i64,
    apps: Vec<AppShards>,
    names: HashMap<ShardId, Arc<str>>,
    /// The ledger rows of the filter's partition.
    ledgers: Option<HashSet<LedgerId>>,
    /// Jobs that were admitted or moved later, epoch milliseconds, are not selected.
    until_ms: Option<i64>,
}

/// A job that is selected.
struct Listed {
    job: Job,
    app: Arc<str>,
    running: Option<RunningAttempt>,
}

/// The jobs of a page.
#[derive(Default)]
struct Found {
    jobs: Vec<Listed>,
    now_ms: i64,
    next: Option<JobPlace>,
    /// The jobs that were read.
    looked_at: u64,
    is_scan: bool,
}

impl Selection {
    async fn new(context: &Context, filter: JobFilter) -> Result<Self> {
        filter.check().map_err(|error| Error::Invalid(error.to_string()))?;
        let of_store = |error| context.database_error(error);
        let mut apps = context.store().apps_with_shards().await.map_err(of_store)?;
        if let Some(wanted) = &filter.app {
            let Some(place) = apps.iter().position(|app| app.name == *wanted) else {
                return Err(unknown_app(wanted, &apps));
            };
            apps = vec![apps.swap_remove(place)];
        }
        let ledgers = match &filter.partition {
            Some(partition) => {
                let rows = context.store().ledgers_of(partition).await.map_err(of_store)?;
                Some(rows.into_iter().collect())
            }
            None => None,
        };
        let mut names = HashMap::new();
        for app in &apps {
            let name: Arc<str> = app.name.as_str().into();
            names.extend(app.shards.iter().map(|shard| (*shard, name.clone())));
        }
        Ok(Self { now_ms: context.now_ms(), filter, apps, names, ledgers, until_ms: None })
    }

    /// The job, if the filter selects it.
    fn select(&self, job: Job, running: &mut Running) -> Option<Listed> {
        let app = self.names.get(&job.shard)?.clone();
        let running = running.remove(&job.id);
        let of_partition = self.ledgers.as_ref().is_none_or(|ledgers| {
            job.origin.as_ref().is_some_and(|origin| ledgers.contains(&origin.ledger))
        });
        let is_new = self.until_ms.is_some_and(|until_ms| {
            job.created_ms > until_ms || job.changes.moved_ms.is_some_and(|ms| ms > until_ms)
        });
        let is_selected =
            of_partition && !is_new && self.filter.matches(&job, self.now_ms, running.is_some());
        is_selected.then_some(Listed { job, app, running })
    }

    fn range(&self) -> WalkRange {
        let (from_ms, to_ms) = self.filter.due_range(self.now_ms);
        WalkRange {
            shards: self.apps.iter().flat_map(|app| app.shards.iter().copied()).collect(),
            priorities: match self.filter.priority {
                Some(priority) => vec![priority],
                None => Priority::ALL.to_vec(),
            },
            from_ms,
            to_ms,
            idle: self.filter.state == Some(ListState::Due),
        }
    }

    async fn count(&self, context: &Context) -> Result<JobCount> {
        if self.filter.key.is_none() && !self.filter.reads_jobs() {
            let counted = context.store().count_jobs(&self.range()).await;
            return counted.map_err(|error| context.database_error(error));
        }
        let (mut jobs, mut looked_at, mut after) = (0, 0, None);
        loop {
            let found = self.find(context, after, PageRequest::LARGEST).await?;
            jobs += found.jobs.len() as u64;
            looked_at += found.looked_at;
            after = found.next;
            if after.is_none() || looked_at >= LOOKED_AT {
                return Ok(JobCount { jobs, has_more: after.is_some() });
            }
        }
    }

    async fn find(
        &self,
        context: &Context,
        after: Option<JobPlace>,
        limit: usize,
    ) -> Result<Found> {
        match &self.filter.key {
            Some(key) => self.find_by_key(context, key, after, limit).await,
            None => self.walk(context, after, limit).await,
        }
    }

    /// The jobs that the key refers to, one of each app at most.
    async fn find_by_key(
        &self,
        context: &Context,
        key: &str,
        after: Option<JobPlace>,
        limit: usize,
    ) -> Result<Found> {
        let of_store = |error| context.database_error(error);
        let keys: Vec<KeyId> = self.apps.iter().map(|app| KeyId::derive(&app.name, key)).collect();
        let ids = context.store().jobs_of_keys(&keys).await.map_err(of_store)?;
        let mut found = Found { now_ms: self.now_ms, ..Found::default() };
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let read = context.store().jobs_by_id(rest, PAGE_BYTES).await;
            let (jobs, looked_for) = read.map_err(of_store)?;
            rest = &rest[looked_for..];
            let mut running = context.running_among(&jobs).await?;
            let jobs = jobs.into_iter().filter(|job| after.is_none_or(|after| job.key() > after));
            found.jobs.extend(jobs.filter_map(|job| self.select(job, &mut running)));
        }
        found.jobs.sort_unstable_by_key(|listed| listed.job.key());
        if found.jobs.len() > limit {
            found.jobs.truncate(limit);
            found.next = found.jobs.last().map(|listed| listed.job.key());
        }
        Ok(found)
    }

    async fn walk(
        &self,
        context: &Context,
        after: Option<JobPlace>,
        limit: usize,
    ) -> Result<Found> {
        let of_store = |error| context.database_error(error);
        let store = context.store();
        let is_scan = self.filter.reads_jobs();
        let at_once = |found: &Found| match (is_scan, self.until_ms) {
            (true, _) => SCAN,
            // Many that came later may follow.
            (false, Some(_)) => limit,
            (false, None) => limit - found.jobs.len(),
        };
        let mut found = Found { now_ms: self.now_ms, is_scan, ..Found::default() };
        let mut walk = JobWalk::new(&self.range(), after, at_once(&found));
        let (mut bytes, mut last) = (0, after);
        let is_full = |found: &Found, bytes: usize| {
            found.jobs.len() >= limit || bytes >= PAGE_BYTES || found.looked_at >= LOOKED_AT
        };
        while !is_full(&found, bytes) {
            let places = walk.next(store, at_once(&found)).await.map_err(of_store)?;
            if places.is_empty() {
                return Ok(found);
            }
            let mut rest = &places[..];
            while !rest.is_empty() {
                let ids: Vec<JobId> = rest.iter().map(|(_, id)| *id).collect();
                let read = store.jobs_by_id(&ids, PAGE_BYTES).await;
                let (jobs, looked_for) = read.map_err(of_store)?;
                let mut running = context.running_among(&jobs).await?;
                let mut jobs: HashMap<JobId, Job> =
                    jobs.into_iter().map(|job| (job.id, job)).collect();
                let (now, later) = rest.split_at(looked_for);
                rest = later;
                for place in now {
                    if is_full(&found, bytes) {
                        found.next = last;
                        return Ok(found);
                    }
                    last = Some(*place);
                    found.looked_at += 1;
                    // One that was rescheduled meanwhile is listed where it is now.
                    let job = jobs.remove(&place.1).filter(|job| job.key() == *place);
                    let Some(job) = job else { continue };
                    let Some(listed) = self.select(job, &mut running) else { continue };
                    bytes += listed.job.size();
                    found.jobs.push(listed);
                }
                if is_full(&found, bytes) && !rest.is_empty() {
                    found.next = last;
                    return Ok(found);
                }
            }
        }
        if walk.has_more(store).await.map_err(of_store)? {
            found.next = last;
        }
        Ok(found)
    }
}

impl Found {
    fn into_page(self, scope: &CursorScope) -> JobPage {
        let now_ms = self.now_ms;
        let item = |Listed { job, app, running }| ListedJob::new(job, &app, running, now_ms);
        JobPage {
            items: self.jobs.into_iter().map(item).collect(),
            next: self
                .next
                .map(|place| scope.write(&page::bytes_of(place.0, place.1.into_bytes()))),
            looked_at: self.is_scan.then_some(self.looked_at),
        }
    }
}

fn unknown_app(wanted: &str, apps: &[AppShards]) -> Error {
    let guess = match nearest(wanted, apps.iter().map(|app| app.name.as_str())) {
        Some(guess) => format!("did you mean {guess}?"),
        None => "none was".to_owned(),
    };
    Error::Invalid(format!("app \"{wanted}\" was never registered: {guess}"))
}
