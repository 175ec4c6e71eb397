//! Where a partition's reading begins, and what is done when the log has lost ground.

use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use tokio::sync::Notify;

use super::super::counters::Counters;
use super::super::instance::Instance;
use super::super::messages::LedgerSeen;
use super::{Step, away};
use crate::kafka::{Intake, OnOffsetLost, TopicPartition};
use crate::model::ids::{LedgerId, Offset, ReaderToken};
use crate::store::{LastRecord, LedgerKey, LedgerRow};

/// A partition that was claimed, and where its row stands.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) cluster: String,
    pub(super) ledger: LedgerId,
    pub(super) reader: ReaderToken,
    /// The row's `next_offset`.
    pub(super) next: Offset,
    /// What the record before `next` must look like, until that was seen.
    pub(super) unverified: Option<LastRecord>,
    /// A gap at the start was seen twice, or there was none.
    pub(super) gap_confirmed: bool,
}

impl Position {
    /// Where to seek: the record before ours tells whether the topic is still the same.
    pub(super) fn first_wanted(&self) -> Offset {
        self.next - i64::from(self.unverified.is_some())
    }

    /// Whether to seek once more before these records, of which this is the first, are believed.
    ///
    /// Compaction and transactions leave gaps; so does a fetch that was cut off. The log's own
    /// gap is there a second time.
    pub(super) fn meets_gap(&mut self, first: Option<Offset>) -> bool {
        let meets = !self.gap_confirmed && first.is_some_and(|first| first > self.next);
        self.gap_confirmed |= first.is_some();
        meets
    }

    pub(super) fn row(&self) -> LedgerRow {
        LedgerRow { id: self.ledger, reader: self.reader, next_offset: self.next, last: None }
    }
}

/// What a reader's actor knows of its claim while a step is under way.
#[derive(Debug, Default)]
pub(super) struct Claim {
    held: Mutex<Option<(LedgerId, ReaderToken)>>,
    begin_again: Notify,
}

impl Claim {
    /// Written down before the row is claimed, so that the claim is never taken for
    /// somebody else's.
    pub(super) fn hold(&self, ledger: LedgerId, reader: ReaderToken) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some((ledger, reader));
    }

    /// Whether our row has another token than ours.
    pub(super) fn is_lost(&self, seen: &LedgerSeen) -> bool {
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.is_some_and(|(ledger, reader)| ledger == seen.ledger && reader != seen.reader)
    }

    /// Makes whoever waits for records begin again, now or the next time it waits.
    pub(super) fn give_up(&self) {
        self.begin_again.notify_one();
    }

    /// Returns when reading is to begin again.
    pub(super) async fn given_up(&self) {
        self.begin_again.notified().await;
    }

    /// Reading begins again anyway: what was said before is settled by that.
    fn settle(&self) {
        self.begin_again.notified().now_or_never();
    }
}

/// How a log is not the one that the row knows.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// It is another one under the same name.
    Remade,
    /// So many of its records went before we read them.
    Gone(usize),
}

impl Loss {
    fn count(self, counters: &Counters) {
        match self {
            Self::Remade => counters.add(&counters.logs_remade, 1),
            Self::Gone(records) => counters.add(&counters.offsets_lost, records),
        }
    }
}

/// Claims the partition's row, making it first if it was never read.
pub(super) async fn open(
    instance: &Instance,
    partition: &TopicPartition,
    claim: &Claim,
) -> Result<Position, Step> {
    claim.settle();
    let (Some(intake), Some(kafka)) = (instance.intake(), &instance.kafka) else {
        return Err(Step::Away("the intake is not there yet".into()));
    };
    if !intake.is_assigned(partition) {
        return Err(Step::Revoked);
    }
    let kafka_away = |error: crate::kafka::Error| Step::Away(error.to_string());
    let key = LedgerKey {
        cluster: intake.cluster_id().await.map_err(kafka_away)?,
        group: kafka.config.group_id.clone(),
        topic: partition.topic.to_string(),
        partition: partition.partition,
    };
    let row = find_or_open(instance, intake, partition, &key).await?;
    let token = ReaderToken::random();
    claim.hold(row.id, token);
    let claimed = instance.store.claim_ledger(row.id, token, instance.me());
    let claimed = instance.bounded(claimed).await.map_err(|error| away(&error))?;
    // After the claim: a predecessor that read and committed meanwhile would otherwise stand
    // beyond the end that we saw.
    let (low, _) = intake.watermarks(partition).await.map_err(kafka_away)?;
    let high = intake.end(partition).await.map_err(kafka_away)?;
    let mut position = Position {
        cluster: key.cluster,
        ledger: claimed.id,
        reader: token,
        next: claimed.next_offset,
        unverified: claimed.last.filter(|_| claimed.next_offset > low),
        gap_confirmed: false,
    };
    if position.next > high {
        let why = format!("ends at {high}, and we stood at {}: it was made again", position.next);
        go_on_at(instance, partition, &mut position, low, Loss::Remade, &why).await?;
    } else if position.next < low {
        let lost = usize::try_from(low - position.next).unwrap_or(0);
        let why = format!("begins at {low}: records {} to {} are gone", position.next, low - 1);
        go_on_at(instance, partition, &mut position, low, Loss::Gone(lost), &why).await?;
    }
    Ok(position)
}

/// The record before ours is not the one that we noted: the topic was made again.
pub(super) async fn remade(
    instance: &Instance,
    partition: &TopicPartition,
    position: &mut Position,
) -> Result<(), Step> {
    let Some(intake) = instance.intake() else { return Ok(()) };
    let (low, _) =
        intake.watermarks(partition).await.map_err(|error| Step::Away(error.to_string()))?;
    let why = format!(
        "has another record at {} than the one that was read: it was made again",
        position.next - 1
    );
    go_on_at(instance, partition, position, low, Loss::Remade, &why).await
}

/// A first start begins at the group's committed offset, else at the earliest; that is
/// written down before anything is read.
async fn find_or_open(
    instance: &Instance,
    intake: &Intake,
    partition: &TopicPartition,
    key: &LedgerKey,
) -> Result<LedgerRow, Step> {
    let find = || async { instance.store.find_ledger(key).await.map_err(|error| away(&error)) };
    if let Some(row) = find().await? {
        return Ok(row);
    }
    let kafka_away = |error: crate::kafka::Error| Step::Away(error.to_string());
    let start = match intake.committed(partition).await.map_err(kafka_away)? {
        Some(committed) => committed,
        None => intake.watermarks(partition).await.map_err(kafka_away)?.0,
    };
    instance.store.open_ledger(key, start).await.map_err(|error| away(&error))?;
    tracing::info!(%partition, start = start.0, "{partition} is read for the first time, from {start}");
    find().await?.ok_or_else(|| Step::Away("the ledger row is not there yet".into()))
}

/// Counted either way, and once: a reader that stops does not look again.
async fn go_on_at(
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
        Ok(false) => Err(Step::Away("another reader moved the ledger".into())),
        Err(error) => Err(away(&error)),
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
        assert!(!position.meets_gap(None), "nothing came");
        assert!(position.meets_gap(Some(Offset(7))));
        assert!(!position.meets_gap(Some(Offset(7))), "the log's own");
    }

    #[test]
    fn a_gap_behind_the_start_is_the_logs_own() {
        let mut position = at(Offset(5));
        assert!(!position.meets_gap(Some(Offset(5))));
        position.next = Offset(6);
        assert!(!position.meets_gap(Some(Offset(9))));
    }
}
