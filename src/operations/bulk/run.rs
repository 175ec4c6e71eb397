//! Carries bulk actions out, step by step, on one instance at a time. Another one goes on where it
//! ended.
//!
//! A step is written down before it begins, and its jobs or letters are changed only as they were
//! found. So one that is repeated after a crash changes nothing twice, and what was changed has counted
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
use uuid::Uuid;

use super::BulkAction;
use crate::admission::Treated;
use crate::model::audit::{AuditSource, By};
use crate::model::bulk::{BulkState, BulkWork};
use crate::model::ids::{InstanceId, JobId};
use crate::operations::context::Context;
use crate::operations::dead_letters::LetterPlace;
use crate::operations::jobs::Target;
use crate::operations::{Error, JobCount, JobFilter, Operations, Result};
use crate::store::{BulkRow, JobPlace, StepEnd};

/// Jobs of one step, which are changed some hundred at a time in each shard: with the usual number
/// of shards, all of a shard at once.
const JOBS: usize = 3000;
/// Letters of one step.
const LETTERS: usize = 200;
/// Letters of a step that are replayed at the same time.
const AT_ONCE: usize = 32;
/// The wait before what failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// A step as it is written down.
#[derive(Debug, Deserialize, Serialize)]
struct Step {
    found: Found,
    next: Option<Place>,
}

/// A step that was found before its turn.
struct Ahead {
    after: Place,
    step: Step,
}

/// What a step treats.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum Found {
    Jobs(Vec<Target>),
    Letters(Vec<Uuid>),
}

/// A place in the order of the walk: a due time, or the creation of a letter, and an id.
type Place = LetterPlace;

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

/// Carries out the steps of a bulk action that no other living instance has, to its end or until
/// another one takes it over.
pub(super) async fn carry_out(context: Arc<Context>, me: InstanceId, id: i64) {
    match context.store().take_bulk(id, me, context.now_ms()).await {
        Ok(true) => {}
        // Another instance has it; else the next heartbeat tries again.
        Ok(false) | Err(_) => return,
    }
    tracing::info!(bulk = id, "bulk action {id} is carried out here");
    let mut ahead = None;
    while context.is_running() {
        match context.bulk_step(me, id, &mut ahead).await {
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
    pub(super) fn is_running(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.load(Ordering::Acquire))
    }

    /// Carries out one step. False if there is no other one for `me`.
    async fn bulk_step(&self, me: InstanceId, id: i64, ahead: &mut Option<Ahead>) -> Result<bool> {
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
        if row.state == BulkState::Counting {
            let JobCount { jobs, has_more } = match action.is_of_letters() {
                true => self.dead_letters_of(&filter, row.created_ms, 0).await?.0,
                false => self.live_jobs(filter, 0).await?.0,
            };
            let expected = jobs + u64::from(has_more);
            let counted = store.bulk_counted(id, me, expected, self.now_ms()).await;
            return counted.map(|()| true).map_err(of_store);
        }
        let began = Instant::now();
        let step = match read::<Step>(row.step.as_deref())? {
            Some(step) => step,
            None if row.state == BulkState::Stopping => {
                store.end_stopped_bulk(id, me, self.now_ms()).await.map_err(of_store)?;
                return Ok(true);
            }
            None => {
                let after = read::<Place>(row.place.as_deref())?;
                let step = match ahead.take().filter(|ahead| Some(ahead.after) == after) {
                    Some(ahead) => ahead.step,
                    None => self.next_step(&row, &action, filter.clone(), after).await?,
                };
                let (text, count) = (write(&step)?, step.found.len() as u64);
                let begun = store.begin_bulk_step(id, me, &text, count, self.now_ms()).await;
                if !begun.map_err(of_store)? {
                    return Ok(true);
                }
                step
            }
        };
        let treat = self.treat(&row, &action, &step.found);
        let look_ahead = self.look_ahead(&row, &action, filter, step.next);
        let (treated, found) = tokio::join!(treat, look_ahead);
        *ahead = found;
        let treated = treated?;
        let count = |what| treated.iter().filter(|treated| **treated == what).count() as u64;
        let end = StepEnd {
            treated_before: row.treated,
            done: count(Treated::Done),
            failed: count(Treated::Failed),
            place: step.next.as_ref().map(write).transpose()?,
        };
        store.end_bulk_step(id, me, &end, self.now_ms()).await.map_err(of_store)?;
        if let Some(rate) = row.rate {
            let lasts = Duration::from_secs_f64(step.found.len() as f64 / f64::from(rate.max(1)));
            sleep_until(began + lasts).await;
        }
        Ok(true)
    }

    /// Finds what the next step treats while this one is carried out. What the steps change is not
    /// found again.
    async fn look_ahead(
        &self,
        row: &BulkRow,
        action: &BulkAction,
        filter: JobFilter,
        after: Option<Place>,
    ) -> Option<Ahead> {
        let after = after.filter(|_| row.rate.is_none())?;
        let step = self.next_step(row, action, filter, Some(after)).await.ok()?;
        Some(Ahead { after, step })
    }

    async fn next_step(
        &self,
        row: &BulkRow,
        action: &BulkAction,
        filter: JobFilter,
        after: Option<Place>,
    ) -> Result<Step> {
        let limit = size(row.rate, if action.is_of_letters() { LETTERS } else { JOBS });
        if action.is_of_letters() {
            let (letters, next) = self.letters_at(&filter, row.created_ms, after, limit).await?;
            return Ok(Step { found: Found::Letters(letters), next });
        }
        let after = after.map(|(due_ms, id)| (due_ms, JobId::from_uuid(id)));
        let (jobs, next) = self.jobs_at(filter, row.created_ms, after, limit).await?;
        let next = next.map(|(due_ms, id): JobPlace| (due_ms, id.uuid()));
        Ok(Step { found: Found::Jobs(jobs), next })
    }

    /// Has what a step found changed, until it is known what became of each.
    async fn treat(
        &self,
        row: &BulkRow,
        action: &BulkAction,
        found: &Found,
    ) -> Result<Vec<Treated>> {
        let source = row.source.parse().unwrap_or(AuditSource::Handle);
        let by = By::new(row.who.as_str()).through(source);
        let by = match &row.reason {
            Some(reason) => by.because(reason.as_str()),
            None => by,
        };
        let context = Self { by, ..self.clone() };
        match (found, action) {
            (Found::Jobs(jobs), _) => context.treat_jobs(row.id, action, jobs).await,
            (Found::Letters(letters), BulkAction::Discard) => {
                context.discard_in_bulk(row.id, letters).await?;
                Ok(Vec::new())
            }
            (Found::Letters(letters), _) => {
                let treat = |letter: &Uuid| {
                    let (context, letter) = (&context, *letter);
                    async move { context.treat_letter(row.id, letter).await }
                };
                all(letters.iter().map(treat)).await
            }
        }
    }

    async fn treat_letter(&self, bulk: i64, letter: Uuid) -> Result<Treated> {
        loop {
            match self.replay_in_bulk(bulk, letter).await {
                Ok(true) => return Ok(Treated::Changed),
                Ok(false) => return Ok(Treated::Skipped),
                Err(Error::Refused(_) | Error::Invalid(_) | Error::Conflict(_)) => {
                    return Ok(Treated::Failed);
                }
                Err(error) if !self.is_running() => return Err(error),
                Err(error) => {
                    tracing::debug!(%letter, %error, "a letter of bulk action {bulk} is tried again");
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

impl Found {
    fn len(&self) -> usize {
        match self {
            Self::Jobs(jobs) => jobs.len(),
            Self::Letters(letters) => letters.len(),
        }
    }
}

/// What became of each, of which some are treated at the same time.
async fn all(
    each: impl Iterator<Item = impl Future<Output = Result<Treated>>>,
) -> Result<Vec<Treated>> {
    let treated: Vec<Result<Treated>> =
        stream::iter(each).buffer_unordered(AT_ONCE).collect().await;
    treated.into_iter().collect()
}

/// The size of a step: so many that it takes half a second at most at this rate.
fn size(rate: Option<u32>, most: usize) -> usize {
    let of_rate = rate.and_then(|rate| usize::try_from(rate / 2).ok());
    of_rate.unwrap_or(most).clamp(1, most)
}

fn read<T: serde::de::DeserializeOwned>(json: Option<&str>) -> Result<Option<T>> {
    let read = json.map(serde_json::from_str).transpose();
    read.map_err(|error| Error::Unusable(format!("scheduler_bulk cannot be read: {error}")))
}

fn write<T: Serialize>(value: &T) -> Result<String> {
    let unwritable = |error| Error::Unusable(format!("a step cannot be written: {error}"));
    serde_json::to_string(value).map_err(unwritable)
}
