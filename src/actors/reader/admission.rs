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

impl Admission {
    pub(super) async fn run(
        mut self,
        records: Vec<RawRecord>,
        next: i64,
        last: LastRecord,
    ) -> Result<Progress, Step> {
        let count = records.len();
        let mut judged = self.judge(records).await?;
        let read_first = recalled(&self.shared, &judged).await;
        let mut wait = RETRY.0;
        let mut choice = 0;
        loop {
            self.await_lease().await?;
            let advance = Advance {
                ledger: self.position.ledger,
                reader: self.position.reader,
                expected: self.position.next,
                next,
                last: Some(last),
            };
            let fences = choose_shards(&self.shared, &mut judged, choice < CHOICES);
            let batch = batch_of(&self.shared, &judged, fences, Some(advance), read_first);
            let tickets = Tickets::take(&self.shared, &batch, &self.leaving).await?;
            match self.shared.store.admit(&batch).await {
                Ok(Admitted::Done(fates)) => {
                    tickets.give_back(batch.clone(), &fates);
                    count_fates(&self.shared, &batch, &fates, count);
                    self.tell_others(&batch, &fates);
                    self.position.next = next;
                    return Ok(Progress::At(self.position));
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
                    return self.see_row(next, count).await;
                }
                Err(error) => {
                    let about = format!("partition {}", self.partition);
                    self.shared.health.complain(&about, format!("cannot be written: {error}"));
                    self.shared.counters.add(&self.shared.counters.retried, 1);
                    if let Some(progress) =
                        self.after_outage(tickets, next, count, &mut wait).await?
                    {
                        return Ok(progress);
                    }
                    self.shared.health.clear(&about);
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
        wait: &mut Duration,
    ) -> Result<Option<Progress>, Step> {
        let row = loop {
            if self.leaving.is_cancelled() {
                // The next reader of the partition finds out.
                tickets.read_again();
                return Err(left());
            }
            tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
            *wait = (*wait * 2).min(RETRY.1);
            let token = ReaderToken::random();
            let mine = (self.position.ledger, self.position.reader);
            match self.shared.store.reclaim_ledger(mine.0, mine.1, token).await {
                Ok(Some(row)) => break row,
                Ok(None) => match self.shared.store.read_ledger(mine.0).await {
                    // This claim's own answer may have been lost, too: then nobody knows
                    // the token, and claiming from the start is the way out.
                    Ok(_) => {
                        tickets.read_again();
                        return Ok(Some(Progress::ClaimAgain));
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
        self.publish_letters();
        self.position.next = row.next_offset;
        if row.next_offset == next {
            self.shared.counters.received.fetch_add(count as u64, Ordering::Relaxed);
            return Ok(Some(Progress::At(self.position.clone())));
        }
        Ok(Some(Progress::Elsewhere(self.position.clone())))
    }

    /// The row was not as expected.
    async fn see_row(mut self, next: i64, count: usize) -> Result<Progress, Step> {
        let row = self.shared.store.read_ledger(self.position.ledger).await;
        let row = row.map_err(|error| Step::Away(error.to_string()))?;
        if row.reader != self.position.reader {
            tracing::warn!(partition = %self.partition, "another reader claimed {}", self.partition);
            return Ok(Progress::ClaimAgain);
        }
        self.publish_letters();
        self.position.next = row.next_offset;
        if row.next_offset == next {
            self.shared.counters.received.fetch_add(count as u64, Ordering::Relaxed);
            return Ok(Progress::At(self.position));
        }
        Ok(Progress::Elsewhere(self.position))
    }

    fn tell_others(&self, batch: &Batch, fates: &[Fate]) {
        let directory = &self.shared.directory;
        let keys: Vec<KeyId> = keys_of(batch.entries.iter()).collect();
        if !keys.is_empty() {
            hint(directory.dedup(), Remember { keys });
        }
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
    tickets: Vec<(AppId, TicketId, Vec<ShardId>)>,
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
    pub(super) fn read_again(self) {}
}

impl Drop for Tickets {
    fn drop(&mut self) {
        for (app, ticket, shards) in std::mem::take(&mut self.tickets) {
            hint(self.shared.directory.app(app), TicketDropped { ticket, shards });
        }
    }
}
