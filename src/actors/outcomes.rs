//! What became of attempts: written in batches, and only then told to the scheduler of the
//! app. `ends` says what the end of an attempt means, `writing` writes.
//!
//! Two lanes, split by shard, so that one commit is under way while the other gathers.
//! What ended and is not written stays in the in-flight table: a fresh actor begins there.

mod ends;
mod writing;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::prelude::*;

use super::child::Child;
use super::in_flight::Flight;
use super::instance::Instance;
use super::messages::*;
use super::registry::Answers;
use crate::model::ids::{AppId, ShardId};
use crate::model::job::Job;
use crate::store::{Lane, Outcome, Written};

use ends::outcome_of;
use writing::{batch_of, next_batch, write_until_answered};

/// Batches that are written at the same time.
const LANES: usize = 2;
/// Judges and writes.
pub(super) struct Outcomes {
    instance: Arc<Instance>,
    lanes: [WriteLane; LANES],
    written: u64,
}

#[derive(Default)]
struct WriteLane {
    waiting: Vec<(Flight, Outcome)>,
    writing: bool,
}

impl Outcomes {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Self { instance, lanes: Default::default(), written: 0 }
    }

    /// Takes what has ended, tells the schedulers that there is room, and writes.
    fn collect(&mut self, ctx: &mut Context<Self>) {
        let ended = self.instance.in_flight.collect();
        let mut not_started: HashMap<AppId, Vec<Arc<Job>>> = HashMap::new();
        let mut apps: BTreeSet<AppId> = BTreeSet::new();
        let mut judged = Vec::new();
        for mut flight in ended {
            let Some(how) = flight.ended.clone() else { continue };
            apps.insert(flight.app.id);
            let outcome =
                flight.judged.take().or_else(|| outcome_of(&self.instance, &flight, &how));
            match outcome {
                Some(outcome) => {
                    if outcome != Outcome::Succeeded {
                        judged.push((flight.job.id, outcome.clone()));
                    }
                    let lane = flight.job.shard.0.unsigned_abs() as usize % LANES;
                    self.lanes[lane].waiting.push((flight, outcome));
                }
                None => not_started.entry(flight.app.id).or_default().push(flight.job),
            }
        }
        if !judged.is_empty() {
            self.instance.in_flight.keep(judged);
        }
        for (app, put_back) in not_started {
            self.instance.in_flight.settle(put_back.iter().map(|job| job.id));
            let settled = Settled { put_back, ..Settled::default() };
            self.instance.registry.hint_to(app, settled);
        }
        for app in apps {
            self.instance.registry.hint_to(app, Fire);
        }
        for lane in 0..LANES {
            self.write(lane, ctx);
        }
    }

    fn write(&mut self, lane: usize, ctx: &mut Context<Self>) {
        let WriteLane { waiting, writing } = &mut self.lanes[lane];
        if *writing || waiting.is_empty() {
            return;
        }
        *writing = true;
        let flights =
            next_batch(waiting, |(flight, _)| flight.fence, |(_, outcome)| outcome.size());
        let instance = self.instance.clone();
        let batch = Arc::new(batch_of(&instance, &flights));
        let done = tokio::spawn(async move { write_until_answered(&instance, &batch).await });
        ctx.spawn(done.into_actor(self).map(move |written, actor, ctx| {
            let written = written.unwrap_or_else(|error| panic!("writing outcomes: {error}"));
            actor.lanes[lane].writing = false;
            actor.settle(flights, &written);
            actor.collect(ctx);
        }));
    }

    /// The commit is confirmed: the in-flight table is cleared first, the schedulers are
    /// looked up and told after that.
    fn settle(&mut self, flights: Vec<(Flight, Outcome)>, written: &Written) {
        self.written += flights.len() as u64;
        let mut by_app: HashMap<AppId, Settled> = HashMap::new();
        let mut lanes: BTreeSet<ShardId> = BTreeSet::new();
        for (flight, outcome) in flights {
            let settled = by_app.entry(flight.app.id).or_default();
            let Flight { job, app, .. } = flight;
            if written.lost.contains(&job.shard) {
                settled.unknown.push(job.id);
                continue;
            }
            if self.instance.tells_verdicts() {
                lanes.insert(job.shard);
            }
            match outcome {
                Outcome::Succeeded => {
                    app.figures.succeeded.fetch_add(1, Ordering::Relaxed);
                    settled.finished.push(job.id);
                }
                Outcome::Buried(_) => {
                    app.figures.dead.fetch_add(1, Ordering::Relaxed);
                    lanes.insert(job.shard);
                    settled.finished.push(job.id);
                }
                Outcome::Cancelled(_) => {
                    app.figures.cancelled.fetch_add(1, Ordering::Relaxed);
                    settled.finished.push(job.id);
                }
                Outcome::Retry { due_ms, attempts, error } => {
                    app.figures.retried.fetch_add(1, Ordering::Relaxed);
                    let last_error = error.or_else(|| job.last_error.clone());
                    let job = Job { due_ms, attempts, last_error, ..Job::clone(&job) };
                    settled.put_back.push(Arc::new(job));
                }
            }
        }
        for (app, settled) in by_app {
            let in_flight = &self.instance.in_flight;
            in_flight.settle(settled.finished.iter().chain(&settled.unknown).copied());
            in_flight.settle(settled.put_back.iter().map(|job| job.id));
            self.instance.registry.hint_to(app, settled);
        }
        for shard in lanes {
            self.instance.registry.hint(PublishLane(Lane::Shard(shard)));
        }
    }
}

impl Actor for Outcomes {
    type Context = Context<Self>;

    /// Begins with what a predecessor left unwritten.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.instance.in_flight.collect_all();
        self.collect(ctx);
    }
}

impl Child for Outcomes {
    const KIND: &'static str = "outcomes";

    fn answers(answers: Answers<Self>) -> Answers<Self> {
        answers.to::<Collect>()
    }
}

impl Handler<Collect> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: Collect, ctx: &mut Context<Self>) {
        self.collect(ctx);
    }
}

impl Handler<Report> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        let waiting: usize = self.lanes.iter().map(|lane| lane.waiting.len()).sum();
        tracing::info!(
            actor = "outcomes",
            running = self.instance.in_flight.running(),
            in_flight = self.instance.in_flight.len(),
            waiting,
            written = self.written,
            "{} outcomes written, {waiting} waiting",
            self.written,
        );
    }
}

impl Handler<Fault> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        panic!("a fault was asked for");
    }
}
