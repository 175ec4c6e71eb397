//! Carries bulk actions out, step by step, on one instance at a time. Another one goes on where it
//! ended.
//!
//! A step is written down before it begins, and its jobs are changed only as they were found. So
//! one that is repeated after a crash changes nothing twice, and what was changed has counted
//! itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::BulkAction;
use crate::model::audit::{AuditSource, By};
use crate::model::bulk::{BulkMark, BulkState, BulkWork};
use crate::model::ids::{InstanceId, JobId};
use crate::operations::context::Context;
use crate::operations::jobs::Target;
use crate::operations::{ChangeResult, Error, JobFilter, Operations, Result};
use crate::store::{BulkRow, JobPlace, StepEnd};

/// Jobs of one step.
const STEP: usize = 200;
/// Jobs of a step that are changed at the same time.
const AT_ONCE: usize = 32;
/// The wait before what failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// A step as it is written down.
#[derive(Debug, Deserialize, Serialize)]
struct Step {
    jobs: Vec<Target>,
    next: Option<JobPlace>,
}

/// What became of a job of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treated {
    /// It was changed, and counted with that.
    Changed,
    /// It was as was asked.
    Done,
    /// It could not be changed.
    Failed,
    /// It is not as it was found.
    Skipped,
}

impl Operations {
    /// Carries out what `work` says for as long as the scheduler runs.
    pub(crate) fn run_bulks(&self, mut work: watch::Receiver<BulkWork>) {
        let context = self.context.clone();
        drop(self.context.runtime.spawn(async move {
            let mut runs: HashMap<(InstanceId, i64), JoinHandle<()>> = HashMap::new();
            while work.changed().await.is_ok() {
                let BulkWork { me, bulks } = work.borrow_and_update().clone();
                runs.retain(|_, run| !run.is_finished());
                for id in bulks {
                    runs.entry((me, id))
                        .or_insert_with(|| tokio::spawn(carry_out(context.clone(), me, id)));
                }
            }
        }));
    }
}

async fn carry_out(context: Arc<Context>, me: InstanceId, id: i64) {
    match context.store().take_bulk(id, me, context.now_ms()).await {
        Ok(true) => {}
        // Another instance has it; else the next heartbeat tries again.
        Ok(false) | Err(_) => return,
    }
    tracing::info!(bulk = id, "bulk action {id} is carried out here");
    while context.is_running() {
        match context.bulk_step(me, id).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(bulk = id, %error, "a step of bulk action {id} is tried again");
                sleep(AGAIN).await;
            }
        }
    }
}

impl Context {
    fn is_running(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.load(Ordering::Acquire))
    }

    /// Carries out one step. False if there is no other one for `me`.
    async fn bulk_step(&self, me: InstanceId, id: i64) -> Result<bool> {
        let of_store = |error| self.database_error(error);
        let store = self.store();
        let Some(row) = store.bulk(id).await.map_err(of_store)? else { return Ok(false) };
        if row.runner != Some(me) || row.state.is_ended() {
            return Ok(false);
        }
        let (Some(action), Ok(filter)) =
            (BulkAction::read(&row.action, &row.args), JobFilter::from_json(&row.filter))
        else {
            let what = &row.action;
            tracing::warn!(bulk = id, "bulk action {id} ({what}) is one of a newer version");
            return Ok(false);
        };
        let began = Instant::now();
        let step = match read::<Step>(row.step.as_deref())? {
            Some(step) => step,
            None if row.state == BulkState::Stopping => {
                store.end_stopped_bulk(id, me, self.now_ms()).await.map_err(of_store)?;
                return Ok(true);
            }
            None => {
                let after = read::<JobPlace>(row.place.as_deref())?;
                let found = self.jobs_at(filter, row.created_ms, after, size(row.rate)).await?;
                let (jobs, next) = found;
                let step = Step { jobs, next };
                let (text, count) = (write(&step)?, step.jobs.len() as u64);
                let begun = store.begin_bulk_step(id, me, &text, count, self.now_ms()).await;
                if !begun.map_err(of_store)? {
                    return Ok(true);
                }
                step
            }
        };
        let treated = self.treat(&row, &action, &step.jobs).await?;
        let count = |what| treated.iter().filter(|treated| **treated == what).count() as u64;
        let end = StepEnd {
            settled_before: row.settled,
            done: count(Treated::Done),
            failed: count(Treated::Failed),
            place: step.next.as_ref().map(write).transpose()?,
        };
        store.end_bulk_step(id, me, &end, self.now_ms()).await.map_err(of_store)?;
        if let Some(rate) = row.rate {
            let lasts = Duration::from_secs_f64(step.jobs.len() as f64 / f64::from(rate.max(1)));
            sleep_until(began + lasts).await;
        }
        Ok(true)
    }

    /// Has the jobs of a step changed, until it is known what became of each.
    async fn treat(
        &self,
        row: &BulkRow,
        action: &BulkAction,
        jobs: &[Target],
    ) -> Result<Vec<Treated>> {
        let source = row.source.parse().unwrap_or(AuditSource::Handle);
        let by = By::new(row.who.as_str()).through(source);
        let by = match &row.reason {
            Some(reason) => by.because(reason.as_str()),
            None => by,
        };
        let context = Self { by, ..self.clone() };
        let treat = |target: &Target| {
            let (context, target) = (&context, *target);
            async move { context.treat_one(row.id, action, target).await }
        };
        let treated: Vec<Result<Treated>> =
            stream::iter(jobs.iter().map(treat)).buffer_unordered(AT_ONCE).collect().await;
        treated.into_iter().collect()
    }

    async fn treat_one(
        &self,
        bulk: i64,
        action: &BulkAction,
        (job, created_ms, revision): (JobId, i64, u32),
    ) -> Result<Treated> {
        let mark = BulkMark { bulk, created_ms, revision };
        loop {
            let answered = self.operate(action.on(job).of_bulk(mark)).await;
            return match answered {
                Ok(answer) if answer.changed => Ok(Treated::Changed),
                Ok(answer) => Ok(match answer.result {
                    // Another operation had done that.
                    ChangeResult::Cancelled => Treated::Skipped,
                    _ if answer.done => Treated::Done,
                    ChangeResult::Running => Treated::Failed,
                    _ => Treated::Skipped,
                }),
                Err(Error::NotMatched(_)) => Ok(Treated::Skipped),
                Err(Error::Refused(_) | Error::Invalid(_)) => Ok(Treated::Failed),
                Err(error) if !self.is_running() => Err(error),
                Err(error) => {
                    tracing::debug!(%job, %error, "a job of bulk action {bulk} is tried again");
                    sleep(AGAIN).await;
                    continue;
                }
            };
        }
    }
}

/// The jobs of a step: so many that it takes half a second at most at this rate.
fn size(rate: Option<u32>) -> usize {
    let of_rate = rate.and_then(|rate| usize::try_from(rate / 2).ok());
    of_rate.unwrap_or(STEP).clamp(1, STEP)
}

fn read<T: serde::de::DeserializeOwned>(json: Option<&str>) -> Result<Option<T>> {
    let read = json.map(serde_json::from_str).transpose();
    read.map_err(|error| Error::Unusable(format!("scheduler_bulk cannot be read: {error}")))
}

fn write<T: Serialize>(value: &T) -> Result<String> {
    let unwritable = |error| Error::Unusable(format!("a step cannot be written: {error}"));
    serde_json::to_string(value).map_err(unwritable)
}
