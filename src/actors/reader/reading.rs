//! One step: take a batch, check that the log goes on where we left off, have it judged and
//! admitted. Where there is more than a batch, the next one is judged meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::instance::Instance;
use super::super::messages::LookAround;
use super::admission::{Progress, RecordsAdmission};
use super::position::{self, Claim, Position};
use super::{Step, away};
use crate::admission::Pending;
use crate::kafka::{BatchLimits, Error as KafkaError, PartitionQueue, TopicPartition};
use crate::model::ids::{Offset, derived_request_id};
use crate::model::record::RawRecord;
use crate::store::{LastRecord, Result as StoreResult};

/// How often Kafka is told of our progress; only lag tools care.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// What a step works with.
pub(super) struct Reading {
    instance: Arc<Instance>,
    partition: TopicPartition,
    /// Given with the assignment; a reader that takes another's place splits its own.
    queue: Option<PartitionQueue>,
    position: Option<Position>,
    /// The batch behind the one that was admitted last, if it was taken by then.
    ahead: Option<Taken>,
    /// Where the row stood when that was last known.
    known: Option<Offset>,
    /// The last step came to the end of the log.
    at_end: bool,
    leaving: CancellationToken,
    claim: Arc<Claim>,
    committed: Instant,
    /// What Kafka was told last.
    told: Option<Offset>,
}

impl Reading {
    pub(super) fn new(
        instance: Arc<Instance>,
        partition: TopicPartition,
        queue: Option<PartitionQueue>,
        leaving: CancellationToken,
        claim: Arc<Claim>,
    ) -> Self {
        let committed = Instant::now();
        Self {
            instance,
            partition,
            queue,
            position: None,
            ahead: None,
            known: None,
            at_end: false,
            leaving,
            claim,
            committed,
            told: None,
        }
    }

    /// Where the row stands, if that is known.
    pub(super) fn next_offset(&self) -> Option<Offset> {
        self.position.as_ref().map(|position| position.next)
    }

    /// Where the row stood when that was last known.
    pub(super) fn known_offset(&self) -> Option<Offset> {
        self.next_offset().or(self.known)
    }

    /// Whether the last step came to the end of the log.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    pub(super) async fn step(&mut self) -> Step {
        self.at_end = false;
        match self.try_step().await {
            Ok(records) => {
                // Whatever became of the batch, its records are not here any more.
                if let Some(queue) = &mut self.queue {
                    queue.finish_batch();
                }
                Step::Read(records)
            }
            Err(step) => {
                self.known = self.known_offset();
                self.forget_position();
                step
            }
        }
    }

    async fn try_step(&mut self) -> Result<usize, Step> {
        if self.is_paused() {
            self.await_resumption().await;
            return Ok(0);
        }
        // With a batch in hand nobody waits for the queue, where this is noticed otherwise.
        if self.ahead.is_some() && self.claim.given_up().now_or_never().is_some() {
            self.forget_position();
        }
        if self.position.is_none() {
            self.begin().await?;
        }
        let taken = match self.ahead.take() {
            Some(ahead) => ahead,
            None => {
                let records = self.take().await?;
                let records = self.check_first(records).await?;
                match self.judge(records) {
                    Some(taken) => taken,
                    None => {
                        self.pause().await?;
                        return Ok(0);
                    }
                }
            }
        };
        let count = taken.count;
        self.admit(taken).await?;
        if self.committed.elapsed() >= COMMIT_EVERY {
            self.commit();
        }
        Ok(count)
    }

    fn is_paused(&self) -> bool {
        *self.instance.ingest_paused.borrow()
    }

    /// Takes nothing while the ingest is paused. Reading then begins again where the row stands:
    /// somebody may have moved it meanwhile, and what was taken ahead is forgotten.
    async fn await_resumption(&mut self) {
        self.known = self.known_offset();
        self.forget_position();
        let mut paused = self.instance.ingest_paused.subscribe();
        tokio::select! {
            // It ends with the instance, which we hold.
            _ = paused.wait_for(|is_paused| !is_paused) => {}
            () = self.leaving.cancelled() => {}
        }
    }

    /// Records may have been taken from the queue and not admitted: the next step begins again
    /// where the row stands.
    fn forget_position(&mut self) {
        self.position = None;
        self.ahead = None;
        if let Some(queue) = &mut self.queue {
            queue.finish_all();
        }
    }

    /// Begins to judge records, on a task of the runtime; `None` if there are none.
    fn judge(&self, records: Vec<RawRecord>) -> Option<Taken> {
        let (position, last) = (self.position.as_ref()?, records.last()?);
        let (next, last, count) = (last.offset + 1, LastRecord::of(last), records.len());
        let (cluster, ledger) = (position.cluster.clone(), position.ledger);
        let admission = self.instance.admission.clone();
        let judged = tokio::spawn(async move {
            let name = |record: &RawRecord| {
                let RawRecord { topic, partition, offset, .. } = record;
                derived_request_id(&cluster, topic, *partition, *offset)
            };
            admission.judge_records(records, ledger, name).await
        });
        Some(Taken { judged, next, last, count })
    }

    /// Takes what is there behind a batch that was full, and begins to judge it. A smaller batch
    /// was all that there was: what comes meanwhile is better taken together afterwards.
    fn look_ahead(&mut self, count: usize) {
        let Some(limits) = self.limits().filter(|limits| count >= limits.max_records) else {
            return;
        };
        let Some(queue) = &mut self.queue else { return };
        let records = queue.next_batch_ahead(limits);
        self.ahead = self.judge(records);
    }

    /// Nothing came for a while. At the end of the log, the row is moved past what nobody is
    /// shown: else it would seem that something is left to read.
    async fn pause(&mut self) -> Result<(), Step> {
        let end = self.queue.as_mut().and_then(PartitionQueue::take_end);
        self.at_end = end.is_some();
        if let (Some(end), Some(position)) = (end, &mut self.position) {
            if end.stable > position.next {
                let row = position.row();
                let passed = self.instance.store.pass_ledger(&row, end.stable);
                match self.instance.bounded(passed).await {
                    Ok(true) => position.next = end.stable,
                    Ok(false) => return Err(Step::Away("the ledger row was moved".into())),
                    Err(error) => return Err(away(&error)),
                }
            }
            let lag = (end.high - position.next).max(0);
            self.instance.counters.set_lag(&self.partition, lag);
        }
        self.commit();
        Ok(())
    }

    /// Finds out where to read and seeks there.
    async fn begin(&mut self) -> Result<(), Step> {
        let position = position::open(&self.instance, &self.partition, &self.claim).await?;
        self.seek(position.first_wanted()).await?;
        self.instance.partitions.insert(self.partition.clone(), position.ledger);
        self.instance.registry.hint(LookAround);
        self.known = Some(position.next);
        self.position = Some(position);
        Ok(())
    }

    async fn seek(&mut self, offset: Offset) -> Result<(), Step> {
        let Some(intake) = self.instance.intake() else {
            return Err(Step::Away("the intake is not there yet".into()));
        };
        intake.seek(&self.partition, offset).await.map_err(step_of)?;
        if self.queue.is_none() {
            self.queue = Some(intake.split(&self.partition).map_err(step_of)?);
        }
        Ok(())
    }

    /// How much is taken at once; `None` without Kafka.
    fn limits(&self) -> Option<BatchLimits> {
        let kafka = self.instance.kafka.as_ref()?;
        Some(BatchLimits {
            max_records: kafka.config.max_poll_records.get() as usize,
            max_bytes: self.instance.settings.max_batch_bytes,
            wait: Duration::from_millis(kafka.config.poll_timeout_ms.max(1)),
        })
    }

    async fn take(&mut self) -> Result<Vec<RawRecord>, Step> {
        let Some(limits) = self.limits() else { return Ok(Vec::new()) };
        let Some(queue) = &mut self.queue else { return Ok(Vec::new()) };
        let mut paused = self.instance.ingest_paused.subscribe();
        let batch = tokio::select! {
            batch = queue.next_batch(limits) => batch,
            () = self.leaving.cancelled() => return Ok(Vec::new()),
            _ = paused.wait_for(|is_paused| *is_paused) => {
                // What is in the queue's hands is read again.
                self.position = None;
                return Ok(Vec::new());
            }
            () = self.claim.given_up() => {
                tracing::info!(partition = %self.partition, "{}: beginning again where the ledger stands", self.partition);
                self.position = None;
                return Ok(Vec::new());
            }
        };
        batch.map_err(|error| {
            let KafkaError::Unreadable { problem, .. } = error else { return step_of(error) };
            self.instance.counters.add(&self.instance.counters.fetch_errors, 1);
            let at = self
                .known_offset()
                .map_or_else(String::new, |known| format!(" from offset {known}"));
            Step::Unreadable(format!(
                "cannot be read on{at} ({problem}), and what is there waits: correct that or, if \
                 the log is damaged, move on by `infinite-scheduler ingest seek`"
            ))
        })
    }

    /// The first records after a seek: is the log still the one that we know, and does it
    /// go on where we left off?
    async fn check_first(&mut self, mut records: Vec<RawRecord>) -> Result<Vec<RawRecord>, Step> {
        let Some(position) = &mut self.position else { return Ok(Vec::new()) };
        let Some(first) = records.first() else { return Ok(records) };
        if let Some(known) = position.unverified.take()
            && first.offset == position.next - 1
            && LastRecord::of(first) != known
        {
            let lost = position::remade(&self.instance, &self.partition, position).await;
            self.position = None;
            return lost.map(|()| Vec::new());
        }
        records.retain(|record| record.offset >= position.next);
        if position.meets_gap(records.first().map(|first| first.offset)) {
            let next = position.next;
            self.seek(next).await?;
            return Ok(Vec::new());
        }
        Ok(records)
    }

    /// On a task of the runtime: it goes on to its end even if this actor does not.
    async fn admit(&mut self, taken: Taken) -> Result<(), Step> {
        let Taken { judged, next, last, count } = taken;
        let Some(position) = self.position.clone() else { return Ok(()) };
        let judged = judged.await.unwrap_or_else(|error| panic!("judging a batch: {error}"));
        // The records are read again: nothing was counted or written.
        let pending = judged.map_err(|error| away(&error))?;
        let admission = RecordsAdmission {
            instance: self.instance.clone(),
            partition: self.partition.clone(),
            position,
            leaving: self.leaving.clone(),
        };
        let task = tokio::spawn(admission.run(pending, next, last));
        self.look_ahead(count);
        let progress = task.await.unwrap_or_else(|error| panic!("admitting a batch: {error}"));
        match progress? {
            Progress::At(position) => {
                self.claim.hold(position.ledger, position.reader);
                self.position = Some(position);
            }
            Progress::Elsewhere(position) => {
                self.claim.hold(position.ledger, position.reader);
                let next = position.next;
                self.forget_position();
                self.position = Some(position);
                self.seek(next).await?;
            }
            Progress::ClaimAgain => {
                return Err(Step::Away("another reader has claimed the partition".into()));
            }
        }
        Ok(())
    }

    /// Tells Kafka how far we are, unless it knows.
    fn commit(&mut self) {
        self.committed = Instant::now();
        let (Some(position), Some(intake)) = (&self.position, self.instance.intake()) else {
            return;
        };
        if self.told != Some(position.next) {
            self.told = Some(position.next);
            intake.commit(&[(self.partition.clone(), position.next)]);
        }
    }
}

/// Records that were taken from the queue, and what the rules make of them.
struct Taken {
    judged: JoinHandle<StoreResult<Pending>>,
    /// The offset behind them.
    next: Offset,
    last: LastRecord,
    count: usize,
}

fn step_of(error: KafkaError) -> Step {
    match error {
        KafkaError::Revoked { .. } => Step::Revoked,
        other => Step::Away(other.to_string()),
    }
}
