//! Reads one partition: takes a batch, validates its records by the rules, admits it, and continues
//! after it.
//!
//! One batch is admitted at a time. After a full batch the next one is validated meanwhile; further
//! records wait in librdkafka's queue. The position is stored in the partition's ledger row and
//! nowhere else.

mod admission;
mod position;
mod reading;
mod lag;

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::child::Child;
use super::instance::Instance;
use super::messages::*;
use super::registry::{Routes, Scope};
use crate::health::ProblemKind;
use crate::kafka::{PartitionQueue, TopicPartition};
use crate::model::ids::Offset;
use crate::recovery::Backoff;

use lag::{Backlog, OpenTransaction};
use position::Claim;
use reading::Reading;

/// The reader of one partition.
pub(super) struct PartitionReader {
    instance: Arc<Instance>,
    partition: TopicPartition,
    /// `None` while a step is running.
    reading: Option<Reading>,
    leaving: CancellationToken,
    claim: Arc<Claim>,
    /// Reading has stopped until an operator decides how to continue.
    stopped: bool,
    /// The sender of the `StopReading` that is not answered yet.
    on_stopped: Option<oneshot::Sender<Option<Offset>>>,
    backoff: Backoff,
    figures: Figures,
    /// The transaction that holds the partition back.
    held: Option<OpenTransaction>,
    /// The last fetch failed.
    unreadable: bool,
}

/// The counters of one reader.
#[derive(Clone, Copy, Default)]
struct Figures {
    records: u64,
    batches: u64,
    next_offset: Option<Offset>,
    /// The last value of `next_offset` that was known.
    known_offset: Option<Offset>,
}

/// The result of one step.
enum Step {
    /// This many records were admitted.
    Read(usize),
    /// A service is unavailable; the step is repeated after a wait.
    Unavailable(String),
    /// The next record cannot be fetched; the step is repeated after a wait, in case the cause is
    /// removed.
    Unreadable(String),
    /// The partition must not be read until an operator decides how to continue.
    Stop(String),
    /// The partition is not assigned to this instance any more. The Supervisor stops this reader,
    /// or has started another one.
    Revoked,
}

impl PartitionReader {
    pub(super) fn new(
        instance: Arc<Instance>,
        partition: TopicPartition,
        queue: Option<PartitionQueue>,
    ) -> Self {
        let leaving = CancellationToken::new();
        let claim = Arc::new(Claim::default());
        let reading = Reading::new(
            instance.clone(),
            partition.clone(),
            queue,
            leaving.clone(),
            claim.clone(),
        );
        Self {
            instance,
            partition,
            reading: Some(reading),
            leaving,
            claim,
            stopped: false,
            on_stopped: None,
            backoff: Backoff::default(),
            figures: Figures::default(),
            held: None,
            unreadable: false,
        }
    }

    fn about(&self) -> String {
        format!("partition {}", self.partition)
    }

    fn about_transaction(&self) -> String {
        format!("transaction on {}", self.partition)
    }

    fn step(&mut self, ctx: &mut Context<Self>) {
        let Some(mut reading) = self.reading.take() else { return };
        let step = async move {
            let step = reading.step().await;
            (reading, step)
        };
        ctx.spawn(step.into_actor(self).map(|(reading, step), actor, ctx| {
            actor.figures.next_offset = reading.next_offset();
            actor.figures.known_offset = reading.known_offset();
            actor.reading = Some(reading);
            actor.after(step, ctx);
        }));
    }

    fn after(&mut self, step: Step, ctx: &mut Context<Self>) {
        if self.leaving.is_cancelled() {
            return self.leave(ctx);
        }
        match step {
            Step::Read(records) => {
                self.figures.records += records as u64;
                self.figures.batches += u64::from(records > 0);
                // That no record came does not show that the log can be fetched again.
                let is_at_end = self.reading.as_ref().is_some_and(Reading::is_at_end);
                if records > 0 || is_at_end || !self.unreadable {
                    self.unreadable = false;
                    self.backoff.reset();
                    self.instance.health.clear(&self.about());
                }
                self.step(ctx);
            }
            Step::Unavailable(why) => self.again(ProblemKind::PartitionWaiting, why, ctx),
            Step::Unreadable(why) => {
                self.unreadable = true;
                self.again(ProblemKind::FetchFailed, why, ctx);
            }
            Step::Stop(why) => {
                self.stopped = true;
                self.instance.health.report(&self.about(), ProblemKind::PartitionStopped, why);
            }
            Step::Revoked => {}
        }
    }

    /// Reports why nothing is read, and schedules the next step.
    fn again(&mut self, kind: ProblemKind, why: String, ctx: &mut Context<Self>) {
        self.instance.health.report(&self.about(), kind, why);
        let wait = self.backoff.failed(self.instance.recoveries());
        let instance = self.instance.clone();
        let waited = async move { instance.wait_or_recovery(wait).await };
        ctx.spawn(waited.into_actor(self).map(
            |(), actor, ctx| match actor.leaving.is_cancelled() {
                true => actor.leave(ctx),
                false => actor.step(ctx),
            },
        ));
    }

    fn restart(&mut self, ctx: &mut Context<Self>) {
        self.claim.request_restart();
        if std::mem::take(&mut self.stopped) {
            self.step(ctx);
        }
    }

    fn leave(&mut self, ctx: &mut Context<Self>) {
        if let Some(on_stopped) = self.on_stopped.take() {
            on_stopped.send(self.figures.known_offset).ok();
        }
        ctx.stop();
    }
}

fn unavailable(error: &crate::store::Error) -> Step {
    Step::Unavailable(error.to_string())
}

impl Actor for PartitionReader {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.step(ctx);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.instance.health.clear(&self.about());
        self.instance.health.clear(&self.about_transaction());
        self.instance.counters.forget_lag(&self.partition);
        self.instance.counters.set_held(&self.partition, None);
    }
}

impl Child for PartitionReader {
    const KIND: &'static str = "partition-reader";

    fn scope(&self) -> Scope {
        self.partition.clone().into()
    }

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes.handles::<StopReading>().handles::<LedgerSeen>().handles::<Rejoined>()
    }
}

impl Handler<StopReading> for PartitionReader {
    type Result = ResponseFuture<Option<Offset>>;

    fn handle(&mut self, _: StopReading, ctx: &mut Context<Self>) -> Self::Result {
        let (on_stopped, gone) = oneshot::channel();
        self.on_stopped = Some(on_stopped);
        self.leaving.cancel();
        // A running step ends first; a wait is interrupted.
        if self.reading.is_some() {
            self.leave(ctx);
        }
        Box::pin(async move { gone.await.unwrap_or(None) })
    }
}

impl Handler<LedgerSeen> for PartitionReader {
    type Result = ();

    fn handle(&mut self, seen: LedgerSeen, ctx: &mut Context<Self>) {
        if self.claim.is_lost(&seen) {
            self.restart(ctx);
        }
    }
}

impl Handler<Rejoined> for PartitionReader {
    type Result = ();

    fn handle(&mut self, _: Rejoined, ctx: &mut Context<Self>) {
        self.restart(ctx);
    }
}

impl Handler<Report> for PartitionReader {
    type Result = ();

    fn handle(&mut self, _: Report, ctx: &mut Context<Self>) {
        let Some(intake) = self.instance.intake().cloned() else { return };
        let Some(next) = self.figures.known_offset else { return };
        let (partition, held) = (self.partition.clone(), self.held);
        let now_ms = self.instance.clock.now_ms();
        let look =
            async move { Backlog::after(&intake, &partition, next, held, now_ms).await.ok() };
        ctx.spawn(look.into_actor(self).map(move |left, actor, _| actor.report(next, left)));
    }
}

impl PartitionReader {
    /// Logs the counters, and reports a transaction that holds the partition back.
    fn report(&mut self, next_offset: Offset, left: Option<Backlog>) {
        let Self { partition, figures, instance, .. } = &*self;
        let lag = left.map_or(-1, |left| left.lag);
        let held = left.and_then(|left| left.held);
        let held_back = held
            .map(|held| format!(", held back by a transaction open since {}", held.since()))
            .unwrap_or_default();
        instance.counters.set_lag(partition, lag);
        instance.counters.set_held(partition, held.map(|held| held.since_ms));
        tracing::info!(
            actor = "partition-reader",
            %partition,
            records = figures.records,
            batches = figures.batches,
            next_offset = next_offset.0,
            lag,
            "{partition}: {} records read, lag {lag}{held_back}",
            figures.records,
        );
        let now_ms = instance.clock.now_ms();
        match held.filter(|held| held.is_long(now_ms)) {
            Some(held) => {
                let why = format!(
                    "{lag} records from offset {} on wait for a transaction that is open since \
                     {}: end it, or its producer",
                    held.first,
                    held.since()
                );
                let kind = ProblemKind::TransactionOpen;
                instance.health.report(&self.about_transaction(), kind, why);
            }
            None => instance.health.clear(&self.about_transaction()),
        }
        self.held = held;
    }
}
