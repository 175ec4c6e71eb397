//! Admitting one batch of a partition, until it is known what became of it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::admission::{
    Judged, Tickets, batch_of, choose_shards, count_fates, judge_record, recalled, tell_others,
};
use super::super::directory::hint;
use super::super::messages::*;
use super::super::recovery::Backoff;
use super::super::shared::Shared;
use super::Step;
use super::position::Position;
use crate::health::ProblemKind;
use crate::kafka::TopicPartition;
use crate::model::ids::{ReaderToken, derived_request_id};
use crate::model::record::RawRecord;
use crate::store::{Admitted, Advance, Course, LastRecord};

/// How often shards are chosen among ours before the owner is told to look instead.
const CHOICES: u32 = 3;
/// The wait for a lease, or for a scheduler that is being started again.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// One batch on its way into the database.
pub(super) struct Admission {
    pub(super) shared: Arc<Shared>,
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
    /// Somebody else claimed the row.
    ClaimAgain,
}

/// Records of a batch that are admitted together.
#[derive(Clone, Copy)]
struct Part {
    /// The offset behind them.
    next: i64,
    /// The last record of the whole batch, if it is among them.
    last: Option<LastRecord>,
}

/// What was tried in vain.
struct Tries {
    /// Records that are admitted together at most.
    size: usize,
    failed: u32,
    backoff: Backoff,
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

impl Admission {
    pub(super) async fn run(
        mut self,
        records: Vec<RawRecord>,
        next: i64,
        last: LastRecord,
    ) -> Result<Progress, Step> {
        let mut judged = self.judge(records).await?;
        let mut tries = Tries { size: judged.len(), failed: 0, backoff: Backoff::default() };
        while !judged.is_empty() {
            let rest = judged.split_off(judged.len().min(tries.size));
            let begins = rest.first().and_then(|one| one.entry.offset());
            let part =
                Part { next: begins.unwrap_or(next), last: begins.is_none().then_some(last) };
            match self.admit(&mut judged, part, &mut tries).await? {
                PartEnd::Done => judged = rest,
                PartEnd::Smaller => judged.extend(rest),
                PartEnd::GoOn(progress) => return Ok(progress),
            }
        }
        Ok(Progress::At(self.position))
    }

    /// Admits records that follow each other, until it is known what became of them.
    async fn admit(
        &mut self,
        judged: &mut [Judged],
        part: Part,
        tries: &mut Tries,
    ) -> Result<PartEnd, Step> {
        let read_first = recalled(&self.shared, judged).await;
        let mut choice = 0;
        loop {
            self.await_lease().await?;
            let advance = Advance {
                ledger: self.position.ledger,
                reader: self.position.reader,
                expected: self.position.next,
                next: part.next,
                last: part.last,
            };
            let fences = choose_shards(&self.shared, judged, choice < CHOICES);
            let course = Course::Records(advance);
            let batch = batch_of(&self.shared, judged, fences, course, read_first);
            let tickets = Tickets::take(&self.shared, &batch, &self.leaving).await;
            let tickets = tickets.ok_or_else(left)?;
            match self.shared.bounded(self.shared.store.admit(&batch)).await {
                Ok(Admitted::Done(fates)) => {
                    count_fates(&self.shared, &batch, &fates, judged.len());
                    tell_others(&self.shared, &batch, &fates);
                    tickets.give_back(batch, &fates);
                    self.position.next = part.next;
                    return Ok(PartEnd::Done);
                }
                Ok(Admitted::ShardsMoved) => {
                    tickets.give_back_nothing();
                    choice += 1;
                    tokio::time::sleep(SHORT_WAIT).await;
                }
                Ok(Admitted::Fenced) => {
                    // Part of a split batch may stand.
                    tickets.read_again();
                    self.shared.counters.add(&self.shared.counters.fenced, 1);
                    return self.see_row(part.next, judged.len()).await;
                }
                Err(error) => {
                    let about = format!("partition {}", self.partition);
                    let kind = Shared::problem(&error, ProblemKind::PartitionWaiting);
                    self.shared.health.report(&about, kind, format!("cannot be written: {error}"));
                    self.shared.counters.add(&self.shared.counters.retried, 1);
                    let end = self.after_outage(tickets, part.next, judged.len(), tries).await?;
                    if let Some(end) = end {
                        return Ok(end);
                    }
                    tries.failed += 1;
                    // A server that answers and does not take the batch may have a limit on
                    // how much it takes at once.
                    if tries.failed > 1
                        && judged.len() > 1
                        && self.shared.store.ping().await.is_ok()
                    {
                        tries.size = judged.len() / 2;
                        return Ok(PartEnd::Smaller);
                    }
                }
            }
        }
    }

    async fn judge(&self, records: Vec<RawRecord>) -> Result<Vec<Judged>, Step> {
        let mut judged = Vec::with_capacity(records.len());
        for record in records {
            let (cluster, ledger) = (&self.position.cluster, self.position.ledger);
            let name = |record: &RawRecord| {
                let RawRecord { topic, partition, offset, .. } = record;
                derived_request_id(cluster, topic, *partition, *offset)
            };
            let one = judge_record(&self.shared, record, ledger, 0, name).await;
            // The records are read again: nothing was counted or written.
            judged.push(one.map_err(|error| Step::Away(error.to_string()))?);
        }
        Ok(judged)
    }

    /// A zombie stops by itself.
    async fn await_lease(&self) -> Result<(), Step> {
        while !self.shared.lease.is_valid() {
            if self.leaving.is_cancelled() {
                return Err(left());
            }
            tokio::time::sleep(SHORT_WAIT).await;
        }
        Ok(())
    }

    /// The answer is lost, and perhaps only the answer. Claiming the row anew waits for a
    /// transaction that is still under way; after that the row tells what became of it.
    /// `None`: nothing did, and it can be tried again.
    async fn after_outage(
        &mut self,
        tickets: Tickets,
        next: i64,
        count: usize,
        tries: &mut Tries,
    ) -> Result<Option<PartEnd>, Step> {
        let row = loop {
            if self.leaving.is_cancelled() {
                // The next reader of the partition finds out; our schedulers wait until the
                // server must have ended what we began.
                drop(tickets);
                return Err(left());
            }
            let wait = tries.backoff.failed(self.shared.database.recoveries());
            tokio::select! {
                () = self.shared.database.wait(wait) => {}
                () = self.leaving.cancelled() => continue,
            }
            let token = ReaderToken::random();
            let mine = (self.position.ledger, self.position.reader);
            let claim = self.shared.store.reclaim_ledger(mine.0, mine.1, token);
            match self.shared.bounded(claim).await {
                // Another reader may claim it between our claim and our look.
                Ok(Some(row)) if row.reader == token => break row,
                Ok(Some(_)) => {
                    tickets.read_again();
                    return Ok(Some(PartEnd::GoOn(Progress::ClaimAgain)));
                }
                Ok(None) => match self.shared.store.read_ledger(mine.0).await {
                    // This claim's own answer may have been lost, too: then nobody knows
                    // the token, and claiming from the start is the way out.
                    Ok(_) => {
                        tickets.read_again();
                        return Ok(Some(PartEnd::GoOn(Progress::ClaimAgain)));
                    }
                    Err(error) => tracing::debug!(%error, "the ledger cannot be read"),
                },
                Err(error) => tracing::debug!(%error, "the ledger cannot be claimed"),
            }
        };
        self.position.reader = row.reader;
        if row.next_offset == self.position.next {
            tickets.give_back_nothing();
            return Ok(None);
        }
        tickets.read_again();
        Ok(Some(self.stands_at(row.next_offset, next, count)))
    }

    /// The row was not as expected.
    async fn see_row(&mut self, next: i64, count: usize) -> Result<PartEnd, Step> {
        let row = self.shared.store.read_ledger(self.position.ledger).await;
        let row = row.map_err(|error| Step::Away(error.to_string()))?;
        if row.reader != self.position.reader {
            let partition = &self.partition;
            tracing::warn!(%partition, "{partition} was claimed by another reader, or moved by hand");
            return Ok(PartEnd::GoOn(Progress::ClaimAgain));
        }
        Ok(self.stands_at(row.next_offset, next, count))
    }

    /// Our row stands at `stands`, written by a transaction of ours without an answer.
    fn stands_at(&mut self, stands: i64, next: i64, count: usize) -> PartEnd {
        // It may have brought letters, verdicts and parked records, and nobody else says so.
        hint(self.shared.directory.retry_dlq(), LookAround);
        self.position.next = stands;
        if stands == next {
            self.shared.counters.add(&self.shared.counters.received, count);
            return PartEnd::Done;
        }
        PartEnd::GoOn(Progress::Elsewhere(self.position.clone()))
    }
}

fn left() -> Step {
    Step::Revoked
}
