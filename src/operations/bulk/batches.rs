//! Has the jobs of a step changed: those of one shard together, by its owner, or here where nobody
//! owns it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use super::BulkAction;
use crate::admission::{ChangeReply, Treated, treated};
use crate::model::change::JobChange;
use crate::model::ids::{Epoch, JobId, ShardId};
use crate::operations::context::Context;
use crate::operations::jobs::Target;
use crate::operations::{Error, Result};
use crate::store::{BatchAnswer, BatchJob, BatchRequest, LocatedJob, LocatedShard, StoredJob};

/// Jobs that one transaction changes at most.
const AT_ONCE: usize = 500;
/// Shards whose jobs are changed at the same time. Each takes a connection, which what fires
/// meanwhile needs, too.
const SHARDS: usize = 4;
/// The wait before what has no owner yet, or no answer, is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the owner of a shard, which is another instance, is waited for.
const OWNER: Duration = Duration::from_secs(10);
/// How often its answer is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// What became of some jobs.
#[derive(Default)]
struct Outcome {
    treated: Vec<Treated>,
    /// Jobs whose shard changed hands, or whose owner did not answer.
    left: Vec<BatchJob>,
}

impl Context {
    /// Has jobs changed, until it is known what became of each that does not count itself.
    pub(super) async fn treat_jobs(
        &self,
        bulk: i64,
        action: &BulkAction,
        jobs: &[Target],
    ) -> Result<Vec<Treated>> {
        let (change, own, mut all) = self.changes(action, jobs).await?;
        let mut left: BTreeMap<ShardId, Vec<BatchJob>> = BTreeMap::new();
        for (job, created_ms, revision, shard) in jobs {
            let change = match (own.get(job), &change) {
                (None, None) => continue,
                (own, _) => own.cloned(),
            };
            let job = BatchJob { job: *job, created_ms: *created_ms, revision: *revision, change };
            left.entry(*shard).or_default().push(job);
        }
        let request = |jobs| {
            let change = change.clone();
            BatchRequest { bulk, by: self.by.clone(), jobs, change }
        };
        while !left.is_empty() {
            let shards: Vec<ShardId> = left.keys().copied().collect();
            let located = self.store().locate_shards(&shards).await;
            let located = located.map_err(|error| self.database_error(error))?;
            let works = located.into_iter().filter_map(|shard| {
                let jobs = left.remove(&shard.id)?;
                let request = &request;
                Some(async move { (shard.id, self.treat_shard(shard, jobs, request).await) })
            });
            let works: Vec<_> = works.collect();
            let mut done = stream::iter(works).buffer_unordered(SHARDS);
            let mut again = BTreeMap::new();
            while let Some((shard, outcome)) = done.next().await {
                let Outcome { treated, left } = outcome?;
                all.extend(treated);
                if !left.is_empty() {
                    again.insert(shard, left);
                }
            }
            drop(done);
            // A shard that is not in the database any more has no jobs either.
            left = again;
            if !left.is_empty() {
                if !self.is_running() {
                    return Err(Error::ShutDown);
                }
                sleep(AGAIN).await;
            }
        }
        Ok(all)
    }

    /// The change of all jobs, or those of single ones, and what became of jobs that get none.
    async fn changes(
        &self,
        action: &BulkAction,
        jobs: &[Target],
    ) -> Result<(Option<JobChange>, HashMap<JobId, JobChange>, Vec<Treated>)> {
        match action {
            BulkAction::Cancel => {
                return Ok((Some(JobChange::Cancel { stop: false }), HashMap::new(), Vec::new()));
            }
            BulkAction::Run => return Ok((Some(JobChange::Run), HashMap::new(), Vec::new())),
            _ => {}
        }
        let of_store = |error| self.database_error(error);
        let mut shards: Vec<ShardId> = jobs.iter().map(|(.., shard)| *shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let shards = self.store().locate_shards(&shards).await.map_err(of_store)?;
        let shards: HashMap<ShardId, LocatedShard> =
            shards.into_iter().map(|shard| (shard.id, shard)).collect();
        let (mut changes, mut treated) = (HashMap::new(), Vec::new());
        for some in jobs.chunks(AT_ONCE) {
            let ids: Vec<JobId> = some.iter().map(|(job, ..)| *job).collect();
            let stored = self.store().stored_jobs(&ids).await.map_err(of_store)?;
            let mut stored: HashMap<JobId, StoredJob> =
                stored.into_iter().map(|stored| (stored.job.id, stored)).collect();
            for (id, created_ms, revision, shard) in some {
                let is_as_found = |stored: &StoredJob| {
                    let job = &stored.job;
                    !stored.is_tombstone
                        && (job.created_ms, job.changes.revision) == (*created_ms, *revision)
                };
                let found = stored.remove(id).filter(is_as_found).zip(shards.get(shard));
                let Some((stored, shard)) = found else {
                    treated.push(Treated::Skipped);
                    continue;
                };
                let Some(operation) = action.on(*id) else { continue };
                match self.change_by(&operation, &located(stored, shard)) {
                    Ok(change) => drop(changes.insert(*id, change)),
                    Err(Error::Refused(_) | Error::Invalid(_)) => treated.push(Treated::Failed),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok((None, changes, treated))
    }

    async fn treat_shard(
        &self,
        shard: LocatedShard,
        jobs: Vec<BatchJob>,
        request: &(impl Fn(Vec<BatchJob>) -> BatchRequest + Sync),
    ) -> Result<Outcome> {
        let (mut outcome, mut shard) = (Outcome::default(), shard);
        for some in jobs.chunks(AT_ONCE) {
            let asked = Arc::new(request(some.to_vec()));
            if let Some(replies) = self.admission.ask_own_batch(&shard, asked.clone()).await
                && outcome.add(some, &replies)
            {
                continue;
            }
            match shard.free_at {
                Some(epoch) => {
                    let replies = self.admission.change_free_batch(&shard, epoch, &asked).await;
                    if !outcome.add(some, &replies) {
                        // Somebody has taken it meanwhile.
                        outcome.left.extend_from_slice(some);
                        continue;
                    }
                    let is_changed = |reply: &ChangeReply| treated(reply) == Some(Treated::Changed);
                    if replies.iter().any(is_changed) {
                        // What was written has the next epoch.
                        shard.free_at = Some(Epoch(epoch.0 + 1));
                    }
                }
                None => match self.ask_owner(&shard, &asked).await? {
                    Some(BatchAnswer { done, failed }) => {
                        let times = |what, times: u64| (0..times).map(move |_| what);
                        outcome.treated.extend(times(Treated::Done, done));
                        outcome.treated.extend(times(Treated::Failed, failed));
                    }
                    None => outcome.left.extend_from_slice(some),
                },
            }
        }
        Ok(outcome)
    }

    /// Asks the owner of a shard by a row, and waits; `None` without an answer.
    async fn ask_owner(
        &self,
        shard: &LocatedShard,
        request: &BatchRequest,
    ) -> Result<Option<BatchAnswer>> {
        let of_store = |error| self.database_error(error);
        let (store, now_ms, deadline) = (self.store(), self.now_ms(), Instant::now() + OWNER);
        let wait_ms = i64::try_from(OWNER.as_millis()).unwrap_or(i64::MAX);
        let deadline_ms = now_ms.saturating_add(wait_ms);
        let sent = store.send_batch(shard.id, request, now_ms, deadline_ms).await;
        let command = sent.map_err(of_store)?;
        loop {
            if let Some(answer) = store.batch_answer(command).await.map_err(of_store)? {
                return Ok(Some(answer));
            }
            if Instant::now() < deadline && self.is_running() {
                sleep(LOOK).await;
                continue;
            }
            return match store.withdraw_command(command).await.map_err(of_store)? {
                true => Ok(None),
                // It was answered at the last moment, or withdrawn by an owner that saw it late.
                false => store.batch_answer(command).await.map_err(of_store),
            };
        }
    }
}

impl Outcome {
    /// Adds what became of `jobs`. False if all are left, since the shard was not ours.
    fn add(&mut self, jobs: &[BatchJob], replies: &[ChangeReply]) -> bool {
        let treated: Vec<Option<Treated>> = replies.iter().map(treated).collect();
        if treated.iter().all(Option::is_none) {
            return false;
        }
        for (job, treated) in jobs.iter().zip(treated) {
            match treated {
                Some(treated) => self.treated.push(treated),
                None => self.left.push(job.clone()),
            }
        }
        true
    }
}

fn located(stored: StoredJob, shard: &LocatedShard) -> LocatedJob {
    LocatedJob {
        stored,
        app: shard.app,
        app_name: shard.app_name.clone(),
        rules: shard.rules.clone(),
        is_paused: shard.is_paused,
        free_at: shard.free_at,
    }
}
