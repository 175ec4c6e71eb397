//! Records that were parked, since their failure may heal: judged and admitted again, each
//! row taken in the transaction that decides it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::shared::Shared;
use super::{Judged, Tickets, batch_of, choose_shards, count_fates, judge_record, tell_others};
use crate::model::ids::LedgerId;
use crate::store::{Admitted, Course, Error as StoreError, ParkedRecord, Result, Taken};

/// Rows that are read together; each may be as large as a record.
const SOME: u64 = 50;
/// How often shards are chosen among ours before the owner is told to look instead.
const CHOICES: u32 = 3;
/// The wait for other shards.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// Tries the parked records of partitions that are read here, as far as they are due.
/// Gives back when the next one is.
///
/// # Errors
/// If the database is away; the rows are as they were, or decided.
pub(in crate::actors) async fn try_parked(shared: &Arc<Shared>) -> Result<Option<i64>> {
    loop {
        let rows = shared.store.parked(&shared.ledgers(), SOME).await?;
        let now_ms = shared.clock.now_ms();
        let next = rows.iter().map(|row| row.due_ms).find(|due_ms| *due_ms > now_ms);
        let mut due: BTreeMap<LedgerId, Vec<ParkedRecord>> = BTreeMap::new();
        for row in rows.into_iter().filter(|row| row.due_ms <= now_ms) {
            due.entry(row.ledger).or_default().push(row);
        }
        if due.is_empty() {
            return Ok(next);
        }
        // What nobody had registered a moment ago may be there now.
        shared.forget_unknown_apps();
        let mut failed = Ok(());
        for (ledger, mut records) in due {
            // Everybody takes rows in one order.
            records.sort_unstable_by_key(|record| record.id);
            failed = try_some(shared, ledger, records).await.and(failed);
        }
        failed?;
    }
}

/// All together, or one by one if the database answers and does not take them together.
async fn try_some(
    shared: &Arc<Shared>,
    ledger: LedgerId,
    records: Vec<ParkedRecord>,
) -> Result<()> {
    let together = try_together(shared, ledger, records.clone()).await;
    if together.is_ok() || records.len() == 1 || shared.store.ping().await.is_err() {
        return together;
    }
    // One that cannot be tried just now keeps none behind it from being tried.
    let mut failed = Ok(());
    for record in records {
        failed = try_together(shared, ledger, vec![record]).await.and(failed);
    }
    failed
}

async fn try_together(
    shared: &Arc<Shared>,
    ledger: LedgerId,
    records: Vec<ParkedRecord>,
) -> Result<()> {
    let rows: Vec<Taken> = records.iter().map(Taken::from).collect();
    let mut judged = Vec::with_capacity(records.len());
    for record in records {
        let ParkedRecord { record, attempts, request_id, id, .. } = record;
        let name = |_: &_| request_id.unwrap_or_else(|| id.to_string());
        judged.push(judge_record(shared, record, ledger, attempts, name).await?);
    }
    shared.counters.add(&shared.counters.retried, judged.len());
    let mut choice = 0;
    while !admit(shared, ledger, &rows, &mut judged, choice < CHOICES).await? {
        choice += 1;
        tokio::time::sleep(SHORT_WAIT).await;
    }
    Ok(())
}

/// False: the shards are not ours any more, and nothing was written.
async fn admit(
    shared: &Arc<Shared>,
    ledger: LedgerId,
    rows: &[Taken],
    judged: &mut [Judged],
    ours: bool,
) -> Result<bool> {
    if !shared.has_lease() {
        return Err(StoreError::Unavailable("the lease is not valid".into()));
    }
    let fences = choose_shards(shared, judged, ours);
    let course = Course::Parked { ledger, rows: rows.to_vec() };
    let batch = batch_of(shared, judged, fences, course, true);
    let Some(tickets) = Tickets::take(shared, &batch, &CancellationToken::new()).await else {
        return Ok(true);
    };
    // Without an answer the tickets are dropped, and whoever reads the rows next sees.
    match shared.bounded(shared.store.admit(&batch)).await? {
        Admitted::Done(fates) => {
            count_fates(shared, &batch, &fates, 0);
            tell_others(shared, &batch, &fates);
            tickets.give_back(batch, &fates);
            Ok(true)
        }
        Admitted::ShardsMoved => {
            tickets.give_back_nothing();
            Ok(false)
        }
        Admitted::Fenced => {
            // Somebody else decided some of them, and part of a split batch may stand.
            tickets.read_again();
            Ok(true)
        }
    }
}

impl From<&ParkedRecord> for Taken {
    fn from(record: &ParkedRecord) -> Self {
        Self { id: record.id, attempts: record.attempts }
    }
}
