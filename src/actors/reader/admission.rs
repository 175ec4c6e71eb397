//! Admitting one batch of a partition, until it is known what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::directory::hint;
use super::super::messages::*;
use super::super::shared::Shared;
use super::judge::{Judged, judge_record};
use super::position::Position;
use super::{RETRY, Step};
use crate::kafka::TopicPartition;
use crate::model::ids::{AppId, KeyId, ReaderToken, ShardId};
use crate::model::job::Job;
use crate::model::record::RawRecord;
use crate::model::window::TicketId;
use crate::store::{Admitted, Advance, Batch, Entry, Fate, Lane, LastRecord, ShardFence};

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
    wait: Duration,
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
        let mut tries = Tries { size: judged.len(), failed: 0, wait: RETRY.0 };
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
            let batch = batch_of(&self.shared, judged, fences, Some(advance), read_first);
            let tickets = Tickets::take(&self.shared, &batch, &self.leaving).await?;
            match self.shared.bounded(self.shared.store.admit(&batch)).await {
                Ok(Admitted::Done(fates)) => {
                    tickets.give_back(batch.clone(), &fates);
                    count_fates(&self.shared, &batch, &fates, judged.len());
                    self.tell_others(&batch, &fates);
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
                    self.shared.health.complain(&about, format!("cannot be written: {error}"));
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
            let one = judge_record(&self.shared, record, cluster, ledger).await;
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
            tokio::time::sleep(tries.wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
            tries.wait = (tries.wait * 2).min(RETRY.1);
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
            tracing::warn!(partition = %self.partition, "another reader claimed {}", self.partition);
            return Ok(PartEnd::GoOn(Progress::ClaimAgain));
        }
        Ok(self.stands_at(row.next_offset, next, count))
    }

    /// Our row stands at `stands`, written by a transaction of ours without an answer.
    fn stands_at(&mut self, stands: i64, next: i64, count: usize) -> PartEnd {
        self.publish_letters();
        self.position.next = stands;
        if stands == next {
            self.shared.counters.add(&self.shared.counters.received, count);
            return PartEnd::Done;
        }
        PartEnd::GoOn(Progress::Elsewhere(self.position.clone()))
    }

    fn tell_others(&self, batch: &Batch, fates: &[Fate]) {
        remember(&self.shared, batch);
        if fates.iter().any(|fate| matches!(fate, Fate::Dead(_))) {
            self.publish_letters();
        }
    }

    /// What was committed without an answer may have brought letters, and nobody else says so.
    fn publish_letters(&self) {
        let lane = Lane::Partition(self.position.ledger);
        hint(self.shared.directory.retry_dlq(), PublishLane(lane));
    }
}

/// Its keys are in the database now.
pub(super) fn remember(shared: &Shared, batch: &Batch) {
    let keys: Vec<KeyId> = keys_of(batch.entries.iter()).collect();
    if !keys.is_empty() {
        hint(shared.directory.dedup(), Remember { keys });
    }
}

fn left() -> Step {
    Step::Revoked
}

fn keys_of<'a>(entries: impl Iterator<Item = &'a Entry>) -> impl Iterator<Item = KeyId> {
    entries.filter_map(|entry| match entry {
        Entry::Job(candidate) => Some(candidate.key.as_ref()?.id),
        Entry::Letter(_) => None,
    })
}

async fn recalled(shared: &Shared, judged: &[Judged]) -> bool {
    let keys: Vec<KeyId> = keys_of(judged.iter().map(|one| &one.entry)).collect();
    match shared.directory.dedup() {
        Some(dedup) if !keys.is_empty() => dedup.send(Recall { keys }).await.unwrap_or(false),
        _ => false,
    }
}

/// Puts every candidate into a shard: one of ours where we have any and may choose it.
pub(super) fn choose_shards(shared: &Shared, judged: &mut [Judged], ours: bool) -> Vec<ShardFence> {
    let mut fences: Vec<ShardFence> = Vec::new();
    for one in judged {
        let (Entry::Job(candidate), Some(app)) = (&mut one.entry, &one.app) else { continue };
        let id = candidate.job.id;
        let own = if ours { shared.holdings.choose(candidate.app, id) } else { None };
        candidate.foreign = own.is_none();
        if let Some(fence) = own {
            candidate.job.shard = fence.shard;
            if !fences.contains(&fence) {
                fences.push(fence);
            }
        } else if let Some(shard) = super::super::holdings::choose(&app.shards, id) {
            candidate.job.shard = *shard;
        }
    }
    fences.sort_unstable();
    fences
}

pub(super) fn batch_of(
    shared: &Shared,
    judged: &[Judged],
    fences: Vec<ShardFence>,
    advance: Option<Advance>,
    read_first: bool,
) -> Arc<Batch> {
    Arc::new(Batch {
        advance,
        entries: judged.iter().map(|one| one.entry.clone()).collect(),
        fences,
        read_first,
        conflict_on_time: shared.settings.conflict_on_time,
        now_ms: shared.clock.now_ms(),
    })
}

pub(super) fn count_fates(shared: &Shared, batch: &Batch, fates: &[Fate], received: usize) {
    let counters = &shared.counters;
    let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
    counters.add(&counters.received, received);
    for (entry, fate) in batch.entries.iter().zip(fates) {
        match (fate, entry) {
            (Fate::Accepted, Entry::Job(candidate)) => {
                counters.add(&counters.processed, 1);
                *accepted.entry(&candidate.app_name).or_default() += 1;
            }
            (Fate::Duplicate { .. }, _) => counters.add(&counters.duplicate, 1),
            (Fate::Dead(refusal), _) => {
                counters.add(&counters.failed, 1);
                let kind = refusal.kind;
                tracing::debug!(%kind, request_id = refusal.request_id, "refused: {refusal}");
            }
            _ => {}
        }
    }
    for (app, count) in accepted {
        counters.app(app).scheduled.fetch_add(count, Ordering::Relaxed);
    }
}

/// The tickets of every app that a batch may bring jobs to. Dropped without a word (a
/// panic), the schedulers read the shards again.
pub(super) struct Tickets {
    shared: Arc<Shared>,
    tickets: Taken,
}

impl Tickets {
    /// Before BEGIN: from then on the schedulers know that something may come.
    pub(super) async fn take(
        shared: &Arc<Shared>,
        batch: &Batch,
        leaving: &CancellationToken,
    ) -> Result<Self, Step> {
        let mut shards: BTreeMap<AppId, Vec<ShardId>> = BTreeMap::new();
        for entry in &batch.entries {
            if let Entry::Job(candidate) = entry
                && !candidate.foreign
            {
                let of_app = shards.entry(candidate.app).or_default();
                if !of_app.contains(&candidate.job.shard) {
                    of_app.push(candidate.job.shard);
                }
            }
        }
        let mut taken = Self { shared: shared.clone(), tickets: Vec::new() };
        for (app, shards) in shards {
            let ticket = loop {
                if leaving.is_cancelled() {
                    taken.give_back_nothing();
                    return Err(left());
                }
                if let Some(scheduler) = shared.directory.app(app)
                    && let Ok(ticket) = scheduler.send(TakeTicket).await
                {
                    break ticket;
                }
                tokio::time::sleep(SHORT_WAIT).await;
            };
            taken.tickets.push((app, ticket, shards));
        }
        Ok(taken)
    }

    /// After COMMIT: what was accepted goes to its scheduler.
    pub(super) fn give_back(mut self, batch: Arc<Batch>, fates: &[Fate]) {
        let mut jobs: BTreeMap<AppId, Vec<Job>> = BTreeMap::new();
        let entries =
            Arc::try_unwrap(batch).map_or_else(|shared| shared.entries.clone(), |b| b.entries);
        for (entry, fate) in entries.into_iter().zip(fates) {
            if let (Entry::Job(candidate), Fate::Accepted) = (entry, fate)
                && !candidate.foreign
            {
                jobs.entry(candidate.app).or_default().push(candidate.job);
            }
        }
        for (app, ticket, _) in std::mem::take(&mut self.tickets) {
            let jobs = jobs.remove(&app).unwrap_or_default();
            hint(self.shared.directory.app(app), JobsAdmitted { ticket, jobs });
        }
    }

    /// Nothing was written.
    pub(super) fn give_back_nothing(mut self) {
        for (app, ticket, _) in std::mem::take(&mut self.tickets) {
            hint(self.shared.directory.app(app), JobsAdmitted { ticket, jobs: Vec::new() });
        }
    }

    /// Nobody knows what was written; the transaction has ended.
    pub(super) fn read_again(mut self) {
        let tickets = std::mem::take(&mut self.tickets);
        tell_dropped(&self.shared, tickets);
    }
}

type Taken = Vec<(AppId, TicketId, Vec<ShardId>)>;

fn tell_dropped(shared: &Shared, tickets: Taken) {
    for (app, ticket, shards) in tickets {
        hint(shared.directory.app(app), TicketDropped { ticket, shards });
    }
}

/// Nobody knows what was written, nor whether the transaction has ended. The limits of
/// our sessions end it within two leases; read before that, it could be missed.
impl Drop for Tickets {
    fn drop(&mut self) {
        let tickets = std::mem::take(&mut self.tickets);
        let shared = self.shared.clone();
        if !tickets.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn(async move {
                tokio::time::sleep(shared.lease.length() * 2).await;
                tell_dropped(&shared, tickets);
            }));
        }
    }
}
