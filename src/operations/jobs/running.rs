//! Which jobs run, by the marks in their rows.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::ids::{InstanceId, JobId, ShardId};
use crate::model::job::Job;
use crate::operations::context::Context;
use crate::operations::{Result, rfc3339_ms};

/// An attempt that runs. Attempts of less than a second are not seen by other instances.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunningAttempt {
    /// Its number; the first is 1.
    pub attempt: u32,
    /// When it started, epoch milliseconds.
    pub started_ms: i64,
    /// The name of the instance that runs it.
    pub instance: String,
}

/// The attempts that run, by their jobs.
pub(super) type Running = HashMap<JobId, RunningAttempt>;

impl Context {
    /// The attempts that run among these jobs: those whose mark is of the living owner of their
    /// shard. A former owner may have been killed, or its attempt was handed back.
    pub(super) async fn running_among(&self, jobs: &[Job]) -> Result<Running> {
        let marked: Vec<_> = jobs.iter().filter_map(|job| Some((job, job.changes.mark?))).collect();
        let shards: BTreeSet<ShardId> = marked.iter().map(|(job, _)| job.shard).collect();
        let owners = self.store().living_owners(shards).await;
        let owners = owners.map_err(|error| self.database_error(error))?;
        let owners: HashMap<(ShardId, InstanceId), String> =
            owners.into_iter().map(|(shard, owner, name)| ((shard, owner), name)).collect();
        let running = marked.into_iter().filter_map(|(job, mark)| {
            let attempt = job.attempts.saturating_add(1);
            let instance = owners.get(&(job.shard, mark.by))?.clone();
            Some((job.id, RunningAttempt { attempt, started_ms: mark.started_ms, instance }))
        });
        Ok(running.collect())
    }
}

/// The JSON form of a [`RunningAttempt`].
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RunningAttempt)]
pub(super) struct WireRunning<'a> {
    attempt: u32,
    started_time: String,
    instance: &'a str,
}

impl<'a> From<&'a RunningAttempt> for WireRunning<'a> {
    fn from(running: &'a RunningAttempt) -> Self {
        Self {
            attempt: running.attempt,
            started_time: rfc3339_ms(running.started_ms),
            instance: &running.instance,
        }
    }
}
