//! Reads one partition: take a batch, judge it, admit it, go on behind it.
//!
//! One batch is in hand at a time; the next one gathers in librdkafka's queue meanwhile.
//! Where reading stands is the ledger's row and nothing else.

mod admission;
mod position;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::directory::hint;
use super::messages::*;
use super::shared::Shared;
use crate::kafka::{BatchLimits, Error as KafkaError, PartitionQueue, TopicPartition};
use crate::model::record::RawRecord;
use crate::store::LastRecord;

use admission::{Admission, Progress};
use position::{Claim, Position};

/// The wait after a failure, doubling up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How often Kafka is told of our progress; only lag tools care.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// The reader of one partition.
pub(super) struct PartitionReader {
    shared: Arc<Shared>,
    partition: TopicPartition,
    /// Away while a step is under way.
    reading: Option<Reading>,
    leaving: CancellationToken,
    claim: Arc<Claim>,
    /// No step is due: somebody has to decide first.
    stopped: bool,
    /// Who waits for us to be gone.
    farewell: Option<oneshot::Sender<Option<i64>>>,
    wait: Duration,
    figures: Figures,
}

/// What one reader has done.
#[derive(Clone, Copy, Default)]
struct Figures {
    records: u64,
    batches: u64,
    next_offset: Option<i64>,
}

/// What a step works with.
struct Reading {
    shared: Arc<Shared>,
    partition: TopicPartition,
    /// Given with the assignment; a reader that takes another's place splits its own.
    queue: Option<PartitionQueue>,
    position: Option<Position>,
    leaving: CancellationToken,
    claim: Arc<Claim>,
    committed: std::time::Instant,
}

/// What came of a step.
enum Step {
    /// So many records are behind us.
    Read(usize),
    /// Something is away; again after a while.
    Away(String),
    /// The partition must not be read: somebody has to decide.
    Stop(String),
    /// The partition is not ours any more: the Supervisor says goodbye, or has another
    /// reader for it already.
    Revoked,
}

impl PartitionReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        partition: TopicPartition,
        queue: Option<PartitionQueue>,
    ) -> Self {
        let leaving = CancellationToken::new();
        let claim = Arc::new(Claim::default());
        let reading = Reading {
            shared: shared.clone(),
            partition: partition.clone(),
            queue,
            position: None,
            leaving: leaving.clone(),
            claim: claim.clone(),
            committed: std::time::Instant::now(),
        };
        Self {
            shared,
            partition,
            reading: Some(reading),
            leaving,
            claim,
            stopped: false,
            farewell: None,
            wait: RETRY.0,
            figures: Figures::default(),
        }
    }

    fn about(&self) -> String {
        format!("partition {}", self.partition)
    }

    fn step(&mut self, ctx: &mut Context<Self>) {
        let Some(mut reading) = self.reading.take() else { return };
        let step = async move {
            let step = reading.step().await;
            (reading, step)
        };
        ctx.spawn(step.into_actor(self).map(|(reading, step), actor, ctx| {
            actor.figures.next_offset = reading.position.as_ref().map(|position| position.next);
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
                self.wait = RETRY.0;
                self.shared.health.clear(&self.about());
                self.step(ctx);
            }
            Step::Away(why) => {
                self.shared.health.complain(&self.about(), why);
                let wait = self.wait.mul_f64(0.75 + fastrand::f64() / 4.0);
                ctx.run_later(wait, |actor, ctx| match actor.leaving.is_cancelled() {
                    true => actor.leave(ctx),
                    false => actor.step(ctx),
                });
                self.wait = (self.wait * 2).min(RETRY.1);
            }
            Step::Stop(why) => {
                self.stopped = true;
                self.shared.health.complain(&self.about(), why);
            }
            Step::Revoked => {}
        }
    }

    fn begin_again(&mut self, ctx: &mut Context<Self>) {
        self.claim.give_up();
        if std::mem::take(&mut self.stopped) {
            self.step(ctx);
        }
    }

    fn leave(&mut self, ctx: &mut Context<Self>) {
        if let Some(farewell) = self.farewell.take() {
            farewell.send(self.figures.next_offset).ok();
        }
        ctx.stop();
    }
}

impl Reading {
    async fn step(&mut self) -> Step {
        match self.try_step().await {
            Ok(records) => Step::Read(records),
            Err(step) => {
                // Records may have been taken from the queue and not admitted: the next step
                // begins again where the row stands.
                self.position = None;
                step
            }
        }
    }

    async fn try_step(&mut self) -> Result<usize, Step> {
        if self.position.is_none() {
            self.begin().await?;
        }
        let records = self.take().await?;
        let records = self.check_first(records).await?;
        let Some(last) = records.last() else { return Ok(0) };
        let next = last.offset + 1;
        let fingerprint = LastRecord::of(last);
        let count = records.len();
        self.admit(records, next, fingerprint).await?;
        self.commit();
        Ok(count)
    }

    /// Finds out where to read and seeks there.
    async fn begin(&mut self) -> Result<(), Step> {
        let position = position::open(&self.shared, &self.partition, &self.claim).await?;
        self.seek(position.first_wanted()).await?;
        self.shared.partitions.insert(self.partition.clone(), position.ledger);
        hint(self.shared.directory.retry_dlq(), LookAround);
        self.position = Some(position);
        Ok(())
    }

    async fn seek(&mut self, offset: i64) -> Result<(), Step> {
        let Some(intake) = self.shared.intake() else {
            return Err(Step::Away("the intake is not there yet".into()));
        };
        intake.seek(&self.partition, offset).await.map_err(step_of)?;
        if self.queue.is_none() {
            self.queue = Some(intake.split(&self.partition).map_err(step_of)?);
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<Vec<RawRecord>, Step> {
        let Some(kafka) = &self.shared.kafka else { return Ok(Vec::new()) };
        let Some(queue) = &mut self.queue else { return Ok(Vec::new()) };
        let limits = BatchLimits {
            max_records: kafka.config.max_poll_records.get() as usize,
            max_bytes: self.shared.settings.max_batch_bytes,
            wait: Duration::from_millis(kafka.config.poll_timeout_ms.max(1)),
        };
        let batch = tokio::select! {
            batch = queue.next_batch(limits) => batch,
            () = self.leaving.cancelled() => return Ok(Vec::new()),
            () = self.claim.given_up() => {
                tracing::info!(partition = %self.partition, "{}: beginning again where the ledger stands", self.partition);
                self.position = None;
                return Ok(Vec::new());
            }
        };
        batch.map_err(step_of)
    }

    /// The first records after a seek: is the log still the one that we know, and does it
    /// go on where we left off?
    async fn check_first(&mut self, mut records: Vec<RawRecord>) -> Result<Vec<RawRecord>, Step> {
        let Some(position) = &mut self.position else { return Ok(Vec::new()) };
        let Some(first) = records.first() else {
            // Nothing came for a while: everything was read.
            self.shared.counters.set_lag(&self.partition, 0);
            return Ok(records);
        };
        if let Some(known) = position.unverified.take()
            && first.offset == position.next - 1
            && LastRecord::of(first) != known
        {
            let lost = position::remade(&self.shared, &self.partition, position).await;
            self.position = None;
            return lost.map(|()| Vec::new());
        }
        records.retain(|record| record.offset >= position.next);
        let gap = records.first().is_some_and(|first| first.offset > position.next);
        if gap && !position.gap_confirmed {
            // Compaction and transactions leave gaps; so does a fetch that was cut off. The
            // log's own gap is there a second time.
            position.gap_confirmed = true;
            let next = position.next;
            self.seek(next).await?;
            return Ok(Vec::new());
        }
        if !records.is_empty() {
            position.gap_confirmed = true;
        }
        Ok(records)
    }

    /// On a task of the runtime: it goes on to its end even if this actor does not.
    async fn admit(
        &mut self,
        records: Vec<RawRecord>,
        next: i64,
        last: LastRecord,
    ) -> Result<(), Step> {
        let Some(position) = self.position.clone() else { return Ok(()) };
        let admission = Admission {
            shared: self.shared.clone(),
            partition: self.partition.clone(),
            position,
            leaving: self.leaving.clone(),
        };
        let task = tokio::spawn(admission.run(records, next, last));
        let progress = task.await.unwrap_or_else(|error| panic!("admitting a batch: {error}"));
        match progress? {
            Progress::At(position) => {
                self.claim.hold(position.ledger, position.reader);
                self.position = Some(position);
            }
            Progress::Elsewhere(position) => {
                self.claim.hold(position.ledger, position.reader);
                let next = position.next;
                self.position = Some(position);
                self.seek(next).await?;
            }
            Progress::ClaimAgain => {
                return Err(Step::Away("another reader has claimed the partition".into()));
            }
        }
        Ok(())
    }

    fn commit(&mut self) {
        if self.committed.elapsed() < COMMIT_EVERY {
            return;
        }
        self.committed = std::time::Instant::now();
        if let (Some(position), Some(intake)) = (&self.position, self.shared.intake()) {
            intake.commit(&[(self.partition.clone(), position.next)]);
        }
    }
}

fn step_of(error: KafkaError) -> Step {
    match error {
        KafkaError::Revoked { .. } => Step::Revoked,
        other => Step::Away(other.to_string()),
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
        self.shared.health.clear(&self.about());
        self.shared.counters.forget_lag(&self.partition);
    }
}

impl Handler<Leave> for PartitionReader {
    type Result = ResponseFuture<Option<i64>>;

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
        let Some(intake) = self.shared.intake().cloned() else { return };
        let (partition, figures) = (self.partition.clone(), self.figures);
        let shared = self.shared.clone();
        let look = async move {
            let Some(next_offset) = figures.next_offset else { return };
            let end = intake.watermarks(&partition).await.map(|(_, high)| high);
            let lag = end.map_or(-1, |high| (high - next_offset).max(0));
            shared.counters.set_lag(&partition, lag);
            tracing::info!(
                actor = "partition-reader",
                %partition,
                records = figures.records,
                batches = figures.batches,
                next_offset,
                lag,
                "{partition}: {} records read, lag {lag}",
                figures.records,
            );
        };
        ctx.spawn(look.into_actor(self));
    }
}

impl Handler<Fault> for PartitionReader {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        panic!("a fault was asked for");
    }
}
