//! Reads one partition: take a batch, judge it, admit it, go on behind it.
//!
//! One batch is admitted at a time. Behind a full one the next is judged meanwhile; what comes
//! after it gathers in librdkafka's queue.
//! Where reading stands is the ledger's row and nothing else.

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
use super::registry::{Answers, Scope};
use crate::health::ProblemKind;
use crate::kafka::{PartitionQueue, TopicPartition};
use crate::model::ids::Offset;
use crate::recovery::Backoff;

use lag::{Left, OpenTransaction};
use position::Claim;
use reading::Reading;

/// The reader of one partition.
pub(super) struct PartitionReader {
    instance: Arc<Instance>,
    partition: TopicPartition,
    /// Away while a step is under way.
    reading: Option<Reading>,
    leaving: CancellationToken,
    claim: Arc<Claim>,
    /// No step is due: somebody has to decide first.
    stopped: bool,
    /// Who waits for us to be gone.
    farewell: Option<oneshot::Sender<Option<Offset>>>,
    backoff: Backoff,
    figures: Figures,
    /// The transaction that holds the partition back.
    held: Option<OpenTransaction>,
    /// The last that was heard of the log is that it cannot be fetched.
    unreadable: bool,
}

/// What one reader has done.
#[derive(Clone, Copy, Default)]
struct Figures {
    records: u64,
    batches: u64,
    next_offset: Option<Offset>,
    /// The same, when it was last known.
    known_offset: Option<Offset>,
}

/// What came of a step.
enum Step {
    /// So many records are behind us.
    Read(usize),
    /// Something is away; again after a while.
    Away(String),
    /// The next record cannot be fetched; again after a while, in case somebody mends that.
    Unreadable(String),
    /// The partition must not be read: somebody has to decide.
    Stop(String),
    /// The partition is not ours any more: the Supervisor says goodbye, or has another
    /// reader for it already.
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
            farewell: None,
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
                // Silence does not show that what could not be fetched can be.
                let is_at_end = self.reading.as_ref().is_some_and(Reading::is_at_end);
                if records > 0 || is_at_end || !self.unreadable {
                    self.unreadable = false;
                    self.backoff.reset();
                    self.instance.health.clear(&self.about());
                }
                self.step(ctx);
            }
            Step::Away(why) => self.again(ProblemKind::PartitionWaiting, why, ctx),
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

    /// Reports why nothing is read, and reads on after a while.
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

    fn begin_again(&mut self, ctx: &mut Context<Self>) {
        self.claim.give_up();
        if std::mem::take(&mut self.stopped) {
            self.step(ctx);
        }
    }

    fn leave(&mut self, ctx: &mut Context<Self>) {
        if let Some(farewell) = self.farewell.take() {
            farewell.send(self.figures.known_offset).ok();
        }
        ctx.stop();
    }
}

fn away(error: &crate::store::Error) -> Step {
    Step::Away(error.to_string())
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

    fn answers(answers: Answers<Self>) -> Answers<Self> {
        answers.to::<Leave>().to::<LedgerSeen>().to::<JoinedAnew>()
    }
}

impl Handler<Leave> for PartitionReader {
    type Result = ResponseFuture<Option<Offset>>;

    fn handle(&mut self, _: Leave, ctx: &mut Context<Self>) -> Self::Result {
        let (farewell, gone) = oneshot::channel();
        self.farewell = Some(farewell);
        self.leaving.cancel();
        // A step that is under way ends first; one that waits need not.
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
            self.begin_again(ctx);
        }
    }
}

impl Handler<JoinedAnew> for PartitionReader {
    type Result = ();

    fn handle(&mut self, _: JoinedAnew, ctx: &mut Context<Self>) {
        self.begin_again(ctx);
    }
}

impl Handler<Report> for PartitionReader {
    type Result = ();

    fn handle(&mut self, _: Report, ctx: &mut Context<Self>) {
        let Some(intake) = self.instance.intake().cloned() else { return };
        let Some(next) = self.figures.known_offset else { return };
        let (partition, held) = (self.partition.clone(), self.held);
        let now_ms = self.instance.clock.now_ms();
        let look = async move { Left::behind(&intake, &partition, next, held, now_ms).await.ok() };
        ctx.spawn(look.into_actor(self).map(move |left, actor, _| actor.report(next, left)));
    }
}

impl PartitionReader {
    /// Says how far reading is, and what is left behind `next_offset`, if that is known.
    fn report(&mut self, next_offset: Offset, left: Option<Left>) {
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

impl Handler<Fault> for PartitionReader {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        panic!("a fault was asked for");
    }
}
