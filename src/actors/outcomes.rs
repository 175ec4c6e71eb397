//! Writes the outcomes of attempts in batches, and reports them to the app schedulers after the
//! commit. `ends` computes outcomes, `writing` writes them, and `marking` the marks of attempts
//! that run for longer.
//!
//! There are two queues, divided by shard, so that one can be committed while the other fills. An
//! attempt stays in the in-flight table until its outcome is written, where a restarted actor finds
//! it. Marks take turns with the outcomes of their queue, so that none is written after the
//! outcome of its attempt.

mod ends;
mod marking;
mod writing;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::prelude::*;

use super::child::Child;
use super::in_flight::{Attempt, Ended};
use super::instance::Instance;
use super::messages::*;
use super::registry::Routes;
use crate::model::ids::{AppId, ShardId};
use crate::model::job::{Changes, Job};
use crate::store::{OrderingKey, Outcome, Written};

use ends::outcome_of;
use writing::{batch_of, next_batch, size_of, write_until_answered};

/// How many batches are written concurrently.
const WRITERS: usize = 2;

/// Computes outcomes and writes them.
pub(super) struct Outcomes {
    instance: Arc<Instance>,
    queues: [WriteQueue; WRITERS],
    written: u64,
}

#[derive(Default)]
struct WriteQueue {
    waiting: Vec<(Attempt, Outcome)>,
    writing: bool,
    /// There may be attempts to mark.
    may_mark: bool,
    /// The last batch was of marks: outcomes have the next turn.
    has_marked: bool,
}

impl Outcomes {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Self { instance, queues: Default::default(), written: 0 }
    }

    /// Collects the attempts that have ended, notifies the schedulers of free slots, and writes the
    /// outcomes.
    fn collect(&mut self, ctx: &mut Context<Self>) {
        let ended = self.instance.in_flight.collect();
        let mut not_started: HashMap<AppId, OutcomesWritten> = HashMap::new();
        let mut apps: BTreeSet<AppId> = BTreeSet::new();
        let mut outcomes = Vec::new();
        for mut attempt in ended {
            let Some(how) = attempt.ended.clone() else { continue };
            apps.insert(attempt.app.id);
            let outcome =
                attempt.outcome.take().or_else(|| outcome_of(&self.instance, &attempt, &how));
            match outcome {
                Some(outcome) => {
                    if outcome != Outcome::Succeeded {
                        outcomes.push((attempt.job.id, outcome.clone()));
                    }
                    let queue = queue_of(attempt.job.shard);
                    self.queues[queue].waiting.push((attempt, outcome));
                }
                None => {
                    let of_app = not_started.entry(attempt.app.id).or_default();
                    match *how {
                        Ended::OtherRow => of_app.unknown.push(attempt.job.id),
                        _ => of_app.put_back.push(attempt.job),
                    }
                }
            }
        }
        if !outcomes.is_empty() {
            self.instance.in_flight.keep_outcomes(outcomes);
        }
        for (app, written) in not_started {
            let put_back = written.put_back.iter().map(|job| job.id);
            self.instance.in_flight.remove(put_back.chain(written.unknown.iter().copied()));
            self.instance.registry.notify_scope(app, written);
        }
        for app in apps {
            self.instance.registry.notify_scope(app, Fire);
        }
        for queue in 0..WRITERS {
            self.write(queue, ctx);
        }
    }

    fn write(&mut self, queue: usize, ctx: &mut Context<Self>) {
        if self.queues[queue].writing || self.write_marks(queue, ctx) {
            return;
        }
        let WriteQueue { waiting, writing, .. } = &mut self.queues[queue];
        if waiting.is_empty() {
            return;
        }
        *writing = true;
        let attempts = next_batch(waiting, |(attempt, _)| attempt.fence, size_of);
        let instance = self.instance.clone();
        let batch = Arc::new(batch_of(&instance, &attempts));
        let done = tokio::spawn(async move { write_until_answered(&instance, &batch).await });
        ctx.spawn(done.into_actor(self).map(move |written, actor, ctx| {
            let written = written.unwrap_or_else(|error| panic!("writing outcomes: {error}"));
            actor.queues[queue].writing = false;
            actor.after_commit(attempts, &written);
            actor.collect(ctx);
        }));
    }

    /// Reports a confirmed commit to the schedulers. The attempts are removed from the in-flight
    /// table first: a scheduler that restarts in between must not find them there.
    fn after_commit(&mut self, attempts: Vec<(Attempt, Outcome)>, written: &Written) {
        self.written += attempts.len() as u64;
        let mut by_app: HashMap<AppId, OutcomesWritten> = HashMap::new();
        let mut to_publish: BTreeSet<ShardId> = BTreeSet::new();
        for (attempt, outcome) in attempts {
            let of_app = by_app.entry(attempt.app.id).or_default();
            let Attempt { job, app, .. } = attempt;
            if written.lost.contains(&job.shard) {
                of_app.unknown.push(job.id);
                continue;
            }
            if self.instance.publishes_verdicts() {
                to_publish.insert(job.shard);
            }
            match outcome {
                Outcome::Succeeded => {
                    app.figures.succeeded.fetch_add(1, Ordering::Relaxed);
                    of_app.finished.push(job.id);
                }
                Outcome::Buried(_) => {
                    app.figures.dead.fetch_add(1, Ordering::Relaxed);
                    to_publish.insert(job.shard);
                    of_app.finished.push(job.id);
                }
                Outcome::Cancelled(_) => {
                    app.figures.cancelled.fetch_add(1, Ordering::Relaxed);
                    of_app.finished.push(job.id);
                }
                Outcome::Retry { due_ms, attempts, error } => {
                    // One that was marked and handed back has the due time that it had.
                    if due_ms != job.due_ms {
                        app.figures.retried.fetch_add(1, Ordering::Relaxed);
                    }
                    let last_error = error.or_else(|| job.last_error.clone());
                    let changes = Changes { mark: None, ..job.changes.clone() };
                    let job = Job { due_ms, attempts, last_error, changes, ..Job::clone(&job) };
                    of_app.put_back.push(Arc::new(job));
                }
            }
        }
        for (app, of_app) in by_app {
            let in_flight = &self.instance.in_flight;
            in_flight.remove(of_app.finished.iter().chain(&of_app.unknown).copied());
            in_flight.remove(of_app.put_back.iter().map(|job| job.id));
            self.instance.registry.notify_scope(app, of_app);
        }
        for shard in to_publish {
            self.instance.registry.notify(PublishOutbox(OrderingKey::Shard(shard)));
        }
    }
}

fn queue_of(shard: ShardId) -> usize {
    shard.0.unsigned_abs() as usize % WRITERS
}

impl Actor for Outcomes {
    type Context = Context<Self>;

    /// Collects everything that the replaced actor had not written.
    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(marking::LOOK, Self::mark);
        self.instance.in_flight.collect_all();
        self.collect(ctx);
    }
}

impl Child for Outcomes {
    const KIND: &'static str = "outcomes";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes.handles::<CollectEnded>().handles::<MarkFirst>()
    }
}

impl Handler<CollectEnded> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: CollectEnded, ctx: &mut Context<Self>) {
        self.collect(ctx);
    }
}

impl Handler<MarkFirst> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: MarkFirst, ctx: &mut Context<Self>) {
        self.mark_now(ctx);
    }
}

impl Handler<Report> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        let waiting: usize = self.queues.iter().map(|queue| queue.waiting.len()).sum();
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
