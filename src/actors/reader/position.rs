//! Finds the offset at which reading a partition begins, and handles a log that has lost records or
//! was recreated.

use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use tokio::sync::Notify;

use super::super::counters::Counters;
use super::super::instance::Instance;
use super::super::messages::LedgerSeen;
use super::{Step, unavailable};
use crate::kafka::{Intake, OnOffsetLost, TopicPartition};
use crate::model::ids::{LedgerId, Offset, ReaderToken};
use crate::store::{LastRecord, LedgerKey, LedgerRow};

/// A claimed partition and the offset of its ledger row.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) cluster: String,
    pub(super) ledger: LedgerId,
    pub(super) reader: ReaderToken,
    /// The row's `next_offset`.
    pub(super) next: Offset,
    /// The expected record before `next`, until it was compared with the log.
    pub(super) unverified: Option<LastRecord>,
    /// Whether the records at `next` have been checked for a gap.
    pub(super) gap_confirmed: bool,
}

impl Position {
    /// The offset to seek to. Reading the record before `next` shows whether the topic was
    /// recreated.
    pub(super) fn seek_offset(&self) -> Offset {
        self.next - i64::from(self.unverified.is_some())
    }

    /// Whether there is an unconfirmed gap before `first`, the first record after a seek; then the
    /// caller seeks once more.
    ///
    /// Compaction and transactions leave gaps, and an aborted fetch can look like one. Only a gap
    /// of the log itself appears twice.
    pub(super) fn has_new_gap(&mut self, first: Option<Offset>) -> bool {
        let meets = !self.gap_confirmed && first.is_some_and(|first| first > self.next);
        self.gap_confirmed |= first.is_some();
        meets
    }

    pub(super) fn row(&self) -> LedgerRow {
        LedgerRow { id: self.ledger, reader: self.reader, next_offset: self.next, last: None }
    }
}

/// The claim of a reader, shared between its actor and a running step.
#[derive(Debug, Default)]
pub(super) struct Claim {
    held: Mutex<Option<(LedgerId, ReaderToken)>>,
    restart: Notify,
}

impl Claim {
    /// Records a claim. To be called before the row is claimed, so that the reader recognises its
    /// own token.
    pub(super) fn hold(&self, ledger: LedgerId, reader: ReaderToken) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some((ledger, reader));
    }

    /// Whether our row has a token that is not ours.
    pub(super) fn is_lost(&self, seen: &LedgerSeen) -> bool {
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.is_some_and(|(ledger, reader)| ledger == seen.ledger && reader != seen.reader)
    }

    /// Interrupts the current or the next wait for records, so that reading restarts at the ledger
    /// row.
    pub(super) fn request_restart(&self) {
        self.restart.notify_one();
    }

    /// Waits until a restart is requested.
    pub(super) async fn restart_requested(&self) {
        self.restart.notified().await;
    }

    /// Discards earlier requests, because reading is about to restart.
    fn discard_requests(&self) {
        self.restart.notified().now_or_never();
    }
}

/// How the log differs from what the row says.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The topic was deleted and recreated.
    Recreated,
    /// This many unread records were removed.
    Gone(usize),
}

impl Loss {
    fn count(self, counters: &Counters) {
        match self {
            Self::Recreated => counters.add(&counters.logs_recreated, 1),
            Self::Gone(records) => counters.add(&counters.offsets_lost, records),
        }
    }
}

/// Claims the partition's ledger row, which is created if the partition was never read.
pub(super) async fn open(
    instance: &Instance,
    partition: &TopicPartition,
    claim: &Claim,
) -> Result<Position, Step> {
    claim.discard_requests();
    let (Some(intake), Some(kafka)) = (instance.intake(), &instance.kafka) else {
        return Err(Step::Unavailable("the intake has not started yet".into()));
    };
    if !intake.is_assigned(partition) {
        return Err(Step::Revoked);
    }
    let kafka_unavailable = |error: crate::kafka::Error| Step::Unavailable(error.to_string());
    let key = LedgerKey {
        cluster: intake.cluster_id().await.map_err(kafka_unavailable)?,
        group: kafka.config.group_id.clone(),
        topic: partition.topic.to_string(),
        partition: partition.partition,
    };
    let row = find_or_open(instance, intake, partition, &key).await?;
    let token = ReaderToken::random();
    claim.hold(row.id, token);
    let claimed = instance.store.claim_ledger(row.id, token, instance.me());
    let claimed = instance.bounded(claimed).await.map_err(|error| unavailable(&error))?;
    // Queried after the claim: until then another reader could still move the row beyond the end
    // that we saw.
    let (low, _) = intake.watermarks(partition).await.map_err(kafka_unavailable)?;
    let high = intake.end(partition).await.map_err(kafka_unavailable)?;
    let recreated = intake.take_recreation(partition);
    let mut position = Position {
        cluster: key.cluster,
        ledger: claimed.id,
        reader: token,
        next: claimed.next_offset,
        unverified: claimed.last.filter(|_| claimed.next_offset > low),
        gap_confirmed: false,
    };
    if position.next > high {
        let why =
            format!("ends at {high}, and {} was to be read next: it was recreated", position.next);
        continue_at(instance, partition, &mut position, low, Loss::Recreated, &why).await?;
    } else if recreated && position.next > low {
        let moved =
            continue_at(instance, partition, &mut position, low, Loss::Recreated, "was recreated");
        let moved = moved.await;
        if matches!(moved, Err(Step::Unavailable(_))) {
            intake.note_recreation(partition);
        }
        moved?;
    } else if position.next < low {
        let lost = usize::try_from(low - position.next).unwrap_or(0);
        let why = format!("begins at {low}: records {} to {} are gone", position.next, low - 1);
        continue_at(instance, partition, &mut position, low, Loss::Gone(lost), &why).await?;
    }
    Ok(position)
}

/// Handles a record before ours that differs from the one that was read: the topic was recreated.
pub(super) async fn recreated(
    instance: &Instance,
    partition: &TopicPartition,
    position: &mut Position,
) -> Result<(), Step> {
    let Some(intake) = instance.intake() else { return Ok(()) };
    let (low, _) =
        intake.watermarks(partition).await.map_err(|error| Step::Unavailable(error.to_string()))?;
    let why = format!(
        "has another record at {} than the one that was read: it was recreated",
        position.next - 1
    );
    continue_at(instance, partition, position, low, Loss::Recreated, &why).await
}

/// Returns the partition's row. A new row begins at the group's committed offset, or else at the
/// first record, and is written before anything is read.
async fn find_or_open(
    instance: &Instance,
    intake: &Intake,
    partition: &TopicPartition,
    key: &LedgerKey,
) -> Result<LedgerRow, Step> {
    let find =
        || async { instance.store.find_ledger(key).await.map_err(|error| unavailable(&error)) };
    if let Some(row) = find().await? {
        return Ok(row);
    }
    let kafka_unavailable = |error: crate::kafka::Error| Step::Unavailable(error.to_string());
    let start = match intake.committed(partition).await.map_err(kafka_unavailable)? {
        Some(committed) => committed,
        None => intake.watermarks(partition).await.map_err(kafka_unavailable)?.0,
    };
    instance.store.open_ledger(key, start).await.map_err(|error| unavailable(&error))?;
    tracing::info!(%partition, start = start.0, "{partition} is read for the first time, from {start}");
    find().await?.ok_or_else(|| Step::Unavailable("the ledger row does not exist yet".into()))
}

/// Moves the row to `low` and counts the loss; with `on_offset_lost = "stop"` it only counts it and
/// stops the reader.
async fn continue_at(
    instance: &Instance,
    partition: &TopicPartition,
    position: &mut Position,
    low: Offset,
    loss: Loss,
    why: &str,
) -> Result<(), Step> {
    let from = position.next;
    if instance.on_offset_lost() == OnOffsetLost::Stop {
        tracing::error!(%partition, from = from.0, to = low.0, "{partition} {why}; not read, as on_offset_lost = \"stop\"");
        loss.count(&instance.counters);
        return Err(Step::Stop(format!(
            "the log {why}; move it by `infinite-scheduler ingest seek`, or set \
             kafka.on_offset_lost = \"earliest\" to go on at {low}"
        )));
    }
    tracing::error!(%partition, from = from.0, to = low.0, "{partition} {why}; going on at {low}");
    match instance.store.move_ledger(&position.row(), low).await {
        Ok(true) => {
            loss.count(&instance.counters);
            position.next = low;
            position.unverified = None;
            position.gap_confirmed = false;
            Ok(())
        }
        Ok(false) => Err(Step::Unavailable("another reader changed the ledger row".into())),
        Err(error) => Err(unavailable(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(next: Offset) -> Position {
        Position {
            cluster: "c".into(),
            ledger: LedgerId(1),
            reader: ReaderToken(1),
            next,
            unverified: None,
            gap_confirmed: false,
        }
    }

    #[test]
    fn a_gap_at_the_start_is_believed_the_second_time() {
        let mut position = at(Offset(5));
        assert!(!position.has_new_gap(None), "nothing came");
        assert!(position.has_new_gap(Some(Offset(7))));
        assert!(!position.has_new_gap(Some(Offset(7))), "the log's own");
    }

    #[test]
    fn a_gap_behind_the_start_is_the_logs_own() {
        let mut position = at(Offset(5));
        assert!(!position.has_new_gap(Some(Offset(5))));
        position.next = Offset(6);
        assert!(!position.has_new_gap(Some(Offset(9))));
    }
}
