//! Admitting one batch of a partition: how it is tried, and what the partition's row tells
//! after an answer that was lost.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::instance::Instance;
use super::super::messages::LookAround;
use super::Step;
use super::position::Position;
use crate::admission::{Admission, Known, Lost, Pending, Policy, Tries, Written};
use crate::health::ProblemKind;
use crate::kafka::TopicPartition;
use crate::model::ids::{Offset, ReaderToken};
use crate::recovery::Backoff;
use crate::store::{Advance, BatchSource, Error as StoreError, LastRecord, LedgerRow};

/// The wait for a lease.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// One batch on its way into the database.
pub(super) struct RecordsAdmission {
    pub(super) instance: Arc<Instance>,
    pub(super) partition: TopicPartition,
    pub(super) position: Position,
    pub(super) leaving: CancellationToken,
}

/// Where reading goes on.
pub(super) enum Progress {
    /// Behind the batch.
    At(Position),
    /// Where the row stands, which is somewhere else: seek.
    Elsewhere(Position),
    /// Another reader claimed the row.
    ClaimAgain,
}

/// What is known of the tries of a batch.
struct Failures {
    /// Records that are admitted together at most.
    size: usize,
    failed: u32,
    backoff: Backoff,
}

/// Records of a batch that are admitted together, and how that is tried.
struct PartPolicy<'a> {
    of: &'a mut RecordsAdmission,
    failures: &'a mut Failures,
    /// How many they are.
    count: usize,
    /// The offset behind them.
    next: Offset,
    /// The last record of the whole batch, if it is among them.
    last: Option<LastRecord>,
    /// One of their keys was seen lately.
    reads_first: bool,
}

/// What became of a part.
enum PartEnd {
    /// It is behind us.
    Done,
    /// It is to be tried in smaller parts.
    Smaller,
    /// The batch ends here.
    GoOn(Progress),
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
        while !pending.is_empty() {
            let rest = pending.split_off(failures.size);
            let begins = rest.first_offset();
            let next = begins.unwrap_or(next);
            let last = begins.is_none().then_some(last);
            match self.admit(&mut pending, next, last, &mut failures).await? {
                PartEnd::Done => pending = rest,
                PartEnd::Smaller => pending.append(rest),
                PartEnd::GoOn(progress) => return Ok(progress),
            }
        }
        Ok(Progress::At(self.position))
    }

    /// Admits records that follow each other, until it is known what became of them.
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
        let mut policy = PartPolicy { of: self, failures, count, next, last, reads_first };
        match instance.admission.admit_until_known(pending, &mut policy).await {
            Known::Decided(_) => {
                self.position.next = next;
                Ok(PartEnd::Done)
            }
            Known::Fenced(_) => {
                instance.counters.add(&instance.counters.fenced, 1);
                self.see_row(next, count).await
            }
            Known::Ended(end) => end,
            Known::Left => Err(left()),
        }
    }

    /// Claiming the row anew waits for a transaction that is still under way; after that the
    /// row tells what became of it. `None`: another reader has the partition, or will have to
    /// claim it from the start.
    async fn reclaim(&mut self, failures: &mut Failures) -> Result<Option<LedgerRow>, Step> {
        let instance = self.instance.clone();
        let (database, store) = (&instance.database, &instance.store);
        loop {
            if self.leaving.is_cancelled() {
                // The next reader of the partition finds out; our schedulers wait until the
                // server must have ended what we began.
                return Err(left());
            }
            let wait = failures.backoff.failed(database.recovery().recoveries());
            tokio::select! {
                () = database.recovery().wait(wait) => {}
                () = self.leaving.cancelled() => continue,
            }
            let token = ReaderToken::random();
            let Position { ledger, reader, .. } = self.position;
            match database.bounded(store.reclaim_ledger(ledger, reader, token)).await {
                // Another reader may claim it between our claim and our look.
                Ok(Some(row)) if row.reader == token => return Ok(Some(row)),
                Ok(Some(_)) => return Ok(None),
                // This claim's own answer may have been lost, too: then nobody knows the
                // token, and claiming from the start is the way out.
                Ok(None) => match store.read_ledger(ledger).await {
                    Ok(_) => return Ok(None),
                    Err(error) => tracing::debug!(%error, "the ledger cannot be read"),
                },
                Err(error) => tracing::debug!(%error, "the ledger cannot be claimed"),
            }
        }
    }

    /// The row was not as expected.
    async fn see_row(&mut self, next: Offset, count: usize) -> Result<PartEnd, Step> {
        let row = self.instance.store.read_ledger(self.position.ledger).await;
        let row = row.map_err(|error| Step::Away(error.to_string()))?;
        if row.reader != self.position.reader {
            let partition = &self.partition;
            tracing::warn!(%partition, "{partition} was claimed by another reader, or moved by hand");
            return Ok(PartEnd::GoOn(Progress::ClaimAgain));
        }
        Ok(self.stands_at(row.next_offset, next, count))
    }

    /// Our row stands at `stands`, written by a transaction of ours without an answer.
    fn stands_at(&mut self, stands: Offset, next: Offset, count: usize) -> PartEnd {
        // It may have brought letters, verdicts and parked records, and nobody else says so.
        self.instance.registry.hint(LookAround);
        self.position.next = stands;
        if stands == next {
            let counters = &self.instance.counters.admission;
            counters.add(&counters.received, count);
            return PartEnd::Done;
        }
        PartEnd::GoOn(Progress::Elsewhere(self.position.clone()))
    }
}

impl Policy for PartPolicy<'_> {
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

    /// An instance that was declared dead stops by itself.
    async fn before(&mut self, _: &Admission, _: &Tries) -> ControlFlow<Self::End> {
        while !self.of.instance.has_lease() {
            if self.of.leaving.is_cancelled() {
                return ControlFlow::Break(Err(left()));
            }
            tokio::time::sleep(SHORT_WAIT).await;
        }
        ControlFlow::Continue(())
    }

    /// The answer is lost, and perhaps only the answer: the row tells.
    async fn after(&mut self, _: &Admission, error: StoreError, _: &Tries) -> Lost<Self::End> {
        let instance = self.of.instance.clone();
        let about = format!("partition {}", self.of.partition);
        let kind = Instance::problem(&error, ProblemKind::PartitionWaiting);
        instance.health.report(&about, kind, format!("cannot be written: {error}"));
        let counters = &instance.counters.admission;
        counters.add(&counters.retried, 1);
        let ended = |written, end| Lost { written, next: ControlFlow::Break(end) };
        let row = match self.of.reclaim(self.failures).await {
            Ok(Some(row)) => row,
            Ok(None) => {
                return ended(Written::Something, Ok(PartEnd::GoOn(Progress::ClaimAgain)));
            }
            Err(left) => return ended(Written::Unknown, Err(left)),
        };
        self.of.position.reader = row.reader;
        if row.next_offset != self.of.position.next {
            let end = self.of.stands_at(row.next_offset, self.next, self.count);
            return ended(Written::Something, Ok(end));
        }
        self.failures.failed += 1;
        // A server that answers and does not take the batch may have a limit on how much it
        // takes at once.
        if self.failures.failed > 1 && self.count > 1 && instance.store.ping().await.is_ok() {
            self.failures.size = self.count / 2;
            return ended(Written::Nothing, Ok(PartEnd::Smaller));
        }
        Lost { written: Written::Nothing, next: ControlFlow::Continue(()) }
    }
}

fn left() -> Step {
    Step::Revoked
}
