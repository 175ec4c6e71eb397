//! What a filter selects of the live jobs: found by index where there is one, else among those that
//! are read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::listed::ListedJob;
use super::running::{Running, RunningAttempt};
use crate::model::filter::{JobFilter, ListState};
use crate::model::ids::{JobId, KeyId, LedgerId, ShardId};
use crate::model::job::{Job, Priority};
use crate::model::suggest::nearest;
use crate::operations::context::Context;
use crate::operations::page::PageRequest;
use crate::operations::{Error, Result};
use crate::store::{AppShards, JobCount, JobPlace, JobVersion, JobWalk, VersionWalk, WalkRange};

/// Jobs that are read for one page at most, where no index has what the filter asks.
pub(super) const LOOKED_AT: u64 = JobCount::LIMIT;
/// Jobs that are read at once then.
pub(super) const SCAN: usize = 500;
/// A page ends after about so many bytes.
pub(super) const PAGE_BYTES: usize = 8 << 20;

/// What a filter selects at one moment.
pub(super) struct Selection {
    pub(super) filter: JobFilter,
    pub(super) now_ms: i64,
    pub(super) apps: Vec<AppShards>,
    names: HashMap<ShardId, Arc<str>>,
    /// The ledger rows of the filter's partition.
    pub(super) ledgers: Option<HashSet<LedgerId>>,
    /// Jobs that were admitted or moved later, epoch milliseconds, are not selected.
    until_ms: Option<i64>,
}

/// A live job that was found.
pub(super) struct LiveJob {
    pub(super) job: Job,
    /// The name of its app.
    app: Arc<str>,
    running: Option<RunningAttempt>,
}

/// Live jobs that were found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) jobs: Vec<LiveJob>,
    pub(super) next: Option<JobPlace>,
    /// The jobs that were read.
    pub(super) looked_at: u64,
    pub(super) is_scan: bool,
}

impl LiveJob {
    /// As lists show it.
    pub(super) fn listed(self, now_ms: i64) -> ListedJob {
        ListedJob::new(self.job, &self.app, self.running, now_ms)
    }
}

impl Selection {
    pub(super) async fn new(context: &Context, filter: JobFilter) -> Result<Self> {
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

    /// What it selected at `at_ms`, of what has not changed since.
    pub(super) fn at(self, at_ms: i64) -> Self {
        Self { now_ms: at_ms, until_ms: Some(at_ms), ..self }
    }

    /// The job, if the filter selects it.
    fn select(&self, job: Job, running: &mut Running) -> Option<LiveJob> {
        let app = self.names.get(&job.shard)?.clone();
        let running = running.remove(&job.id);
        let of_partition = self.ledgers.as_ref().is_none_or(|ledgers| {
            job.origin.as_ref().is_some_and(|origin| ledgers.contains(&origin.ledger))
        });
        let is_new = self.is_too_new(job.created_ms, job.changes.moved_ms);
        let matches = self.filter.matches(&job, self.now_ms, running.is_some());
        (of_partition && !is_new && matches).then_some(LiveJob { job, app, running })
    }

    /// Whether the place of a job, and when it was admitted or moved, says that it is selected.
    fn is_by_place(&self) -> bool {
        let Self { filter, .. } = self;
        filter.key.is_none() && filter.state.is_none() && !filter.reads_jobs()
    }

    fn is_too_new(&self, created_ms: i64, moved_ms: Option<i64>) -> bool {
        let is_later = |ms| self.until_ms.is_some_and(|until_ms| ms > until_ms);
        is_later(created_ms) || moved_ms.is_some_and(is_later)
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

    /// How many live jobs it selects, counted up to a limit.
    pub(super) async fn count(&self, context: &Context) -> Result<JobCount> {
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

    /// The live jobs that it selects after a place, at most `limit`.
    pub(super) async fn find(
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

    /// The versions of the live jobs that it selects after a place, at most `limit`, and the place
    /// where the next ones begin.
    pub(super) async fn versions(
        &self,
        context: &Context,
        after: Option<JobPlace>,
        limit: usize,
    ) -> Result<(Vec<JobVersion>, Option<JobPlace>)> {
        if !self.is_by_place() {
            let found = self.find(context, after, limit).await?;
            let version = |LiveJob { job, .. }: &LiveJob| JobVersion {
                place: job.key(),
                shard: job.shard,
                created_ms: job.created_ms,
                revision: job.changes.revision,
                moved_ms: job.changes.moved_ms,
            };
            return Ok((found.jobs.iter().map(version).collect(), found.next));
        }
        let of_store = |error| context.database_error(error);
        let store = context.store();
        let mut walk = VersionWalk::new(&self.range(), after, limit);
        let (mut selected, mut looked_at, mut last) = (Vec::with_capacity(limit), 0, after);
        while selected.len() < limit && looked_at < LOOKED_AT {
            // Exactly as many as are wanted, so that none is left over.
            let found = walk.next(store, limit - selected.len()).await.map_err(of_store)?;
            let Some(end) = found.last() else { return Ok((selected, None)) };
            last = Some(end.place);
            looked_at += found.len() as u64;
            let is_old = |job: &JobVersion| !self.is_too_new(job.created_ms, job.moved_ms);
            selected.extend(found.into_iter().filter(is_old));
        }
        let has_more = walk.has_more(store).await.map_err(of_store)?;
        Ok((selected, last.filter(|_| has_more)))
    }

    /// The ids of the jobs that the key refers to, one of each app at most.
    pub(super) async fn jobs_of_key(&self, context: &Context, key: &str) -> Result<Vec<JobId>> {
        let keys: Vec<KeyId> = self.apps.iter().map(|app| KeyId::derive(&app.name, key)).collect();
        let ids = context.store().jobs_of_keys(&keys).await;
        ids.map_err(|error| context.database_error(error))
    }

    /// The jobs that the key refers to.
    async fn find_by_key(
        &self,
        context: &Context,
        key: &str,
        after: Option<JobPlace>,
        limit: usize,
    ) -> Result<Found> {
        let of_store = |error| context.database_error(error);
        let ids = self.jobs_of_key(context, key).await?;
        let mut found = Found::default();
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let read = context.store().jobs_by_id(rest, PAGE_BYTES).await;
            let (jobs, looked_for) = read.map_err(of_store)?;
            rest = &rest[looked_for..];
            let mut running = context.running_among(&jobs).await?;
            let jobs = jobs.into_iter().filter(|job| after.is_none_or(|after| job.key() > after));
            found.jobs.extend(jobs.filter_map(|job| self.select(job, &mut running)));
        }
        found.jobs.sort_unstable_by_key(|live| live.job.key());
        if found.jobs.len() > limit {
            found.jobs.truncate(limit);
            found.next = found.jobs.last().map(|live| live.job.key());
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
        let mut found = Found { is_scan, ..Found::default() };
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
                    let Some(live) = self.select(job, &mut running) else { continue };
                    bytes += live.job.size();
                    found.jobs.push(live);
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

fn unknown_app(wanted: &str, apps: &[AppShards]) -> Error {
    let guess = match nearest(wanted, apps.iter().map(|app| app.name.as_str())) {
        Some(guess) => format!("did you mean {guess}?"),
        None => "none was".to_owned(),
    };
    Error::Invalid(format!("app \"{wanted}\" was never registered: {guess}"))
}
