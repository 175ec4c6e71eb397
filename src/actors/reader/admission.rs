//! Admits one batch of a partition, in smaller parts if necessary. After a lost answer the
//! partition's ledger row shows whether a part was committed.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::instance::Instance;
use super::super::messages::ScanOutbox;
use super::Step;
use super::position::Position;
use crate::admission::{Admission, Conclusion, LostAnswer, Pending, Tries, TryPolicy, Written};
use crate::health::ProblemKind;
use crate::kafka::TopicPartition;
use crate::model::ids::{Offset, ReaderToken};
use crate::recovery::Backoff;
use crate::store::{Advance, BatchSource, Error as StoreError, LastRecord, LedgerRow};

/// The wait before the lease, or a job that is being cancelled, is checked again.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// The admission of one batch.
pub(super) struct RecordsAdmission {
    pub(super) instance: Arc<Instance>,
    pub(super) partition: TopicPartition,
    pub(super) position: Position,
    pub(super) leaving: CancellationToken,
}

/// Where reading continues.
pub(super) enum Progress {
    /// After the batch.
    At(Position),
    /// At the offset of the ledger row, which differs from the end of the batch.
    Seek(Position),
    /// Another reader claimed the row, so this one has to claim it again.
    ClaimAgain,
}

/// The failed tries of a batch.
struct Failures {
    /// The largest number of records that are admitted together.
    size: usize,
    failed: u32,
    backoff: Backoff,
}

/// The tries to admit one part of a batch.
struct PartTries<'a> {
    of: &'a mut RecordsAdmission,
    failures: &'a mut Failures,
    /// The number of records.
    count: usize,
    /// The offset after the last of them.
    next: Offset,
    /// The last record of the whole batch, if it is among them.
    last: Option<LastRecord>,
    /// One of their keys is in the cache.
    reads_first: bool,
}

/// The result for one part.
enum PartEnd {
    /// It was admitted.
    Done,
    /// It has to be tried in smaller parts.
    Smaller,
    /// The record at this place waits for a cancellation that an earlier one asked for.
    Before(usize),
    /// The admission of the batch ends, and reading continues elsewhere.
    Stop(Progress),
}

impl RecordsAdmission {
    pub(super) async fn run(
        mut self,
        mut pending: Pending,
        next: Offset,
        last: LastRecord,
    ) -> Result<Progress, Step> {
        let backoff = Backoff::default();
        let mut failures = Failures { size: pending.len(), failed: 0, backoff };
        let mut before = None;
        while !pending.is_empty() {
            let rest = pending.split_off(before.take().unwrap_or(failures.size));
            let begins = rest.first_offset();
            let next = begins.unwrap_or(next);
            let last = begins.is_none().then_some(last);
            match self.admit(&mut pending, next, last, &mut failures).await? {
                PartEnd::Done => pending = rest,
                PartEnd::Smaller => pending.append(rest),
                PartEnd::Before(0) => {
                    pending.append(rest);
                    self.wait_shortly().await?;
                }
                PartEnd::Before(at) => {
                    pending.append(rest);
                    before = Some(at);
                }
                PartEnd::Stop(progress) => return Ok(progress),
            }
        }
        Ok(Progress::At(self.position))
    }

    async fn wait_shortly(&self) -> Result<(), Step> {
        tokio::select! {
            () = tokio::time::sleep(SHORT_WAIT) => Ok(()),
            () = self.leaving.cancelled() => Err(Step::Revoked),
        }
    }

    /// Admits consecutive records, until it is known whether they were committed.
    async fn admit(
        &mut self,
        pending: &mut Pending,
        next: Offset,
        last: Option<LastRecord>,
        failures: &mut Failures,
    ) -> Result<PartEnd, Step> {
        let instance = self.instance.clone();
        let reads_first = instance.admission.seen_lately(pending).await;
        let count = pending.len();
        let mut policy = PartTries { of: self, failures, count, next, last, reads_first };
        match instance.admission.admit_until_known(pending, &mut policy).await {
            Conclusion::Decided(_) => {
                self.position.next = next;
                Ok(PartEnd::Done)
            }
            Conclusion::Fenced(_) => {
                instance.counters.add(&instance.counters.fenced, 1);
                self.compare_row(next, count).await
            }
            Conclusion::Ended(end) => end,
            Conclusion::Waits(at) => Ok(PartEnd::Before(at)),
            Conclusion::Cancelled => Err(Step::Revoked),
        }
    }

    /// Claims the row again. This waits for a transaction of ours that is still running, so that
    /// afterwards the row shows whether it committed. Returns `None` if another reader has claimed
    /// the row, or the partition has to be opened again.
    async fn reclaim(&mut self, failures: &mut Failures) -> Result<Option<LedgerRow>, Step> {
        let instance = self.instance.clone();
        let (database, store) = (&instance.database, &instance.store);
        loop {
            if self.leaving.is_cancelled() {
                // The next reader of the partition will find out what was committed. The schedulers
                // of this instance read the shards again once the server must have ended the
                // transaction.
                return Err(Step::Revoked);
            }
            let wait = failures.backoff.failed(database.recovery().recoveries());
            tokio::select! {
                () = database.recovery().wait(wait) => {}
                () = self.leaving.cancelled() => continue,
            }
            let token = ReaderToken::random();
            let Position { ledger, reader, .. } = self.position;
            match database.bounded(store.reclaim_ledger(ledger, reader, token)).await {
                // Another reader may have claimed the row between our claim and our read.
                Ok(Some(row)) if row.reader == token => return Ok(Some(row)),
                Ok(Some(_)) => return Ok(None),
                // The answer to this claim may have been lost as well. Then the token in the row is
                // unknown, and the partition has to be opened again.
                Ok(None) => match store.read_ledger(ledger).await {
                    Ok(_) => return Ok(None),
                    Err(error) => tracing::debug!(%error, "the ledger cannot be read"),
                },
                Err(error) => tracing::debug!(%error, "the ledger cannot be claimed"),
            }
        }
    }

    /// Handles a row that did not have the expected token or offset.
    async fn compare_row(&mut self, next: Offset, count: usize) -> Result<PartEnd, Step> {
        let row = self.instance.store.read_ledger(self.position.ledger).await;
        let row = row.map_err(|error| Step::Unavailable(error.to_string()))?;
        if row.reader != self.position.reader {
            let partition = &self.partition;
            tracing::warn!(%partition, "{partition} was claimed by another reader, or moved by an operator");
            return Ok(PartEnd::Stop(Progress::ClaimAgain));
        }
        Ok(self.resume_at_row(row.next_offset, next, count))
    }

    /// Continues at the row's offset, which a transaction of ours wrote whose answer was lost.
    fn resume_at_row(&mut self, row_next: Offset, next: Offset, count: usize) -> PartEnd {
        // That transaction may have written letters, verdicts and parked records.
        self.instance.registry.notify(ScanOutbox);
        self.position.next = row_next;
        if row_next == next {
            let counters = &self.instance.counters.admission;
            counters.add(&counters.received, count);
            return PartEnd::Done;
        }
        PartEnd::Stop(Progress::Seek(self.position.clone()))
    }
}

impl TryPolicy for PartTries<'_> {
    type End = Result<PartEnd, Step>;

    fn source(&self, _: &Tries) -> BatchSource {
        BatchSource::Records(Advance {
            ledger: self.of.position.ledger,
            reader: self.of.position.reader,
            expected: self.of.position.next,
            next: self.next,
            last: self.last,
        })
    }

    fn reads_first(&self, _: &Tries) -> bool {
        self.reads_first
    }

    fn leaving(&self) -> Option<&CancellationToken> {
        Some(&self.of.leaving)
    }

    /// Waits while this instance has no valid lease.
    async fn before_try(&mut self, _: &Admission, _: &Tries) -> ControlFlow<Self::End> {
        while !self.of.instance.has_lease() {
            if self.of.leaving.is_cancelled() {
                return ControlFlow::Break(Err(Step::Revoked));
            }
            tokio::time::sleep(SHORT_WAIT).await;
        }
        ControlFlow::Continue(())
    }

    /// The answer is lost, but the transaction may have committed: the row shows it.
    async fn after_error(
        &mut self,
        _: &Admission,
        error: StoreError,
        _: &Tries,
    ) -> LostAnswer<Self::End> {
        let instance = self.of.instance.clone();
        let about = format!("partition {}", self.of.partition);
        let kind = Instance::problem(&error, ProblemKind::PartitionWaiting);
        instance.health.report(&about, kind, format!("cannot be written: {error}"));
        let counters = &instance.counters.admission;
        counters.add(&counters.retried, 1);
        let ended = |written, end| LostAnswer { written, next: ControlFlow::Break(end) };
        let row = match self.of.reclaim(self.failures).await {
            Ok(Some(row)) => row,
            Ok(None) => {
                return ended(Written::Something, Ok(PartEnd::Stop(Progress::ClaimAgain)));
            }
            Err(left) => return ended(Written::Unknown, Err(left)),
        };
        self.of.position.reader = row.reader;
        if row.next_offset != self.of.position.next {
            let end = self.of.resume_at_row(row.next_offset, self.next, self.count);
            return ended(Written::Something, Ok(end));
        }
        self.failures.failed += 1;
        // A server that answers and rejects the batch may limit the size of a statement.
        if self.failures.failed > 1 && self.count > 1 && instance.store.ping().await.is_ok() {
            self.failures.size = self.count / 2;
            return ended(Written::Nothing, Ok(PartEnd::Smaller));
        }
        LostAnswer { written: Written::Nothing, next: ControlFlow::Continue(()) }
    }
}
