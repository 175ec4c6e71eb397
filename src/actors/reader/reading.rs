//! One step of a reader: takes a batch, checks that it continues the known log, validates its records
//! by the rules and admits them. After a full batch, the next one is validated meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::instance::Instance;
use super::super::messages::ScanOutbox;
use super::admission::{Progress, RecordsAdmission};
use super::position::{self, Claim, Position};
use super::{Step, unavailable};
use crate::admission::Pending;
use crate::kafka::{BatchLimits, Error as KafkaError, PartitionQueue, TopicPartition};
use crate::model::ids::{Offset, derived_request_id};
use crate::model::record::RawRecord;
use crate::store::{LastRecord, Result as StoreResult};

/// How often the offset is committed to Kafka, where only monitoring tools need it.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// The state of a reader between its steps.
pub(super) struct Reading {
    instance: Arc<Instance>,
    partition: TopicPartition,
    /// Comes with the assignment; a restarted reader splits a new one.
    queue: Option<PartitionQueue>,
    position: Option<Position>,
    /// The next batch, if it was taken while the last one was admitted.
    ahead: Option<TakenBatch>,
    /// The last offset of the ledger row that was known.
    known: Option<Offset>,
    /// The last step reached the end of the log.
    at_end: bool,
    leaving: CancellationToken,
    claim: Arc<Claim>,
    committed_at: Instant,
    /// The offset that was committed to Kafka last.
    committed_offset: Option<Offset>,
}

impl Reading {
    pub(super) fn new(
        instance: Arc<Instance>,
        partition: TopicPartition,
        queue: Option<PartitionQueue>,
        leaving: CancellationToken,
        claim: Arc<Claim>,
    ) -> Self {
        let committed_at = Instant::now();
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
            committed_at,
            committed_offset: None,
        }
    }

    /// The offset of the ledger row, if it is known.
    pub(super) fn next_offset(&self) -> Option<Offset> {
        self.position.as_ref().map(|position| position.next)
    }

    /// The last offset of the ledger row that was known.
    pub(super) fn known_offset(&self) -> Option<Offset> {
        self.next_offset().or(self.known)
    }

    /// Whether the last step reached the end of the log.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    pub(super) async fn step(&mut self) -> Step {
        self.at_end = false;
        match self.try_step().await {
            Ok(records) => {
                // The records of the batch have been dropped, whatever the result.
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
        if self.ingest_is_paused() {
            self.await_resumption().await;
            return Ok(0);
        }
        // While a batch is available, the step does not wait for the queue, where a restart request
        // is noticed otherwise.
        if self.ahead.is_some() && self.claim.restart_requested().now_or_never().is_some() {
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
        if self.committed_at.elapsed() >= COMMIT_EVERY {
            self.commit();
        }
        Ok(count)
    }

    fn ingest_is_paused(&self) -> bool {
        *self.instance.ingest_paused.borrow()
    }

    /// Takes nothing while the ingest is paused. Reading then restarts at the ledger row, which may
    /// have been moved meanwhile; a batch that was taken ahead is read again.
    async fn await_resumption(&mut self) {
        self.known = self.known_offset();
        self.forget_position();
        let mut paused = self.instance.ingest_paused.subscribe();
        tokio::select! {
            // The sender lives in the instance, so this cannot fail.
            _ = paused.wait_for(|is_paused| !is_paused) => {}
            () = self.leaving.cancelled() => {}
        }
    }

    /// Makes the next step restart at the ledger row, since records may have been taken from the
    /// queue and not admitted.
    fn forget_position(&mut self) {
        self.position = None;
        self.ahead = None;
        if let Some(queue) = &mut self.queue {
            queue.finish_all();
        }
    }

    /// Starts a task that validates these records by the rules; `None` if there are none.
    fn judge(&self, records: Vec<RawRecord>) -> Option<TakenBatch> {
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
        Some(TakenBatch { judged, next, last, count })
    }

    /// Takes the records after a full batch and starts to validate them. After a smaller batch nothing
    /// is taken, so that the records that arrive meanwhile form one batch.
    fn look_ahead(&mut self, count: usize) {
        let Some(limits) = self.limits().filter(|limits| count >= limits.max_records) else {
            return;
        };
        let Some(queue) = &mut self.queue else { return };
        let records = queue.next_batch_ahead(limits);
        self.ahead = self.judge(records);
    }

    /// Handles a wait without records. At the end of the log the ledger row is moved past aborted
    /// transactions and control records, which would otherwise count as lag.
    async fn pause(&mut self) -> Result<(), Step> {
        let end = self.queue.as_mut().and_then(PartitionQueue::take_end);
        self.at_end = end.is_some();
        if let (Some(end), Some(position)) = (end, &mut self.position) {
            if end.stable > position.next {
                let row = position.row();
                let passed = self.instance.store.pass_ledger(&row, end.stable);
                match self.instance.bounded(passed).await {
                    Ok(true) => position.next = end.stable,
                    Ok(false) => {
                        return Err(Step::Unavailable("the ledger row was changed".into()));
                    }
                    Err(error) => return Err(unavailable(&error)),
                }
            }
            let lag = (end.high - position.next).max(0);
            self.instance.counters.set_lag(&self.partition, lag);
        }
        self.commit();
        Ok(())
    }

    /// Determines the position and seeks to it.
    async fn begin(&mut self) -> Result<(), Step> {
        let position = position::open(&self.instance, &self.partition, &self.claim).await?;
        self.seek(position.seek_offset()).await?;
        self.instance.partitions.insert(self.partition.clone(), position.ledger);
        self.instance.registry.notify(ScanOutbox);
        self.known = Some(position.next);
        self.position = Some(position);
        Ok(())
    }

    async fn seek(&mut self, offset: Offset) -> Result<(), Step> {
        let Some(intake) = self.instance.intake() else {
            return Err(Step::Unavailable("the intake has not started yet".into()));
        };
        intake.seek(&self.partition, offset).await.map_err(step_of)?;
        if self.queue.is_none() {
            self.queue = Some(intake.split(&self.partition).map_err(step_of)?);
        }
        Ok(())
    }

    /// The limits of one batch; `None` without Kafka.
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
                // Records that were taken from the queue are read again.
                self.known = self.known_offset();
                self.position = None;
                return Ok(Vec::new());
            }
            () = self.claim.restart_requested() => {
                tracing::info!(partition = %self.partition, "{}: restarting at the offset of its ledger row", self.partition);
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

    /// Checks the first records after a seek: the log has to be the known one, and to continue at
    /// our position.
    async fn check_first(&mut self, mut records: Vec<RawRecord>) -> Result<Vec<RawRecord>, Step> {
        let Some(position) = &mut self.position else { return Ok(Vec::new()) };
        let Some(first) = records.first() else { return Ok(records) };
        if let Some(known) = position.unverified.take()
            && first.offset == position.next - 1
            && LastRecord::of(first) != known
        {
            let lost = position::recreated(&self.instance, &self.partition, position).await;
            self.position = None;
            return lost.map(|()| Vec::new());
        }
        records.retain(|record| record.offset >= position.next);
        if position.has_new_gap(records.first().map(|first| first.offset)) {
            let next = position.next;
            self.seek(next).await?;
            return Ok(Vec::new());
        }
        Ok(records)
    }

    /// Admits a batch in a task of its own, which completes even if this actor stops.
    async fn admit(&mut self, taken: TakenBatch) -> Result<(), Step> {
        let TakenBatch { judged, next, last, count } = taken;
        let Some(position) = self.position.clone() else { return Ok(()) };
        let judged = judged.await.unwrap_or_else(|error| panic!("judging a batch: {error}"));
        // Nothing was counted or written, and the records are read again.
        let pending = judged.map_err(|error| unavailable(&error))?;
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
            Progress::Seek(position) => {
                self.claim.hold(position.ledger, position.reader);
                let next = position.next;
                self.forget_position();
                self.position = Some(position);
                self.seek(next).await?;
            }
            Progress::ClaimAgain => {
                return Err(Step::Unavailable("another reader has claimed the partition".into()));
            }
        }
        Ok(())
    }

    /// Commits the position to Kafka, unless it is unchanged.
    fn commit(&mut self) {
        self.committed_at = Instant::now();
        let (Some(position), Some(intake)) = (&self.position, self.instance.intake()) else {
            return;
        };
        if self.committed_offset != Some(position.next) {
            self.committed_offset = Some(position.next);
            intake.commit(&[(self.partition.clone(), position.next)]);
        }
    }
}

/// Records that were taken from the queue, and the task that validates them.
struct TakenBatch {
    judged: JoinHandle<StoreResult<Pending>>,
    /// The offset after the last of them.
    next: Offset,
    last: LastRecord,
    count: usize,
}

fn step_of(error: KafkaError) -> Step {
    match error {
        KafkaError::Revoked { .. } => Step::Revoked,
        other => Step::Unavailable(other.to_string()),
    }
}
