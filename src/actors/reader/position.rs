//! Where a partition's reading begins, and what is done when the log has lost ground.

use super::super::shared::Shared;
use super::{Step, away};
use crate::kafka::{Intake, OnOffsetLost, TopicPartition};
use crate::model::ids::{LedgerId, ReaderToken};
use crate::store::{LastRecord, LedgerKey, LedgerRow};

/// A partition that was claimed, and where its row stands.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) cluster: String,
    pub(super) ledger: LedgerId,
    pub(super) reader: ReaderToken,
    /// The row's `next_offset`.
    pub(super) next: i64,
    /// What the record before `next` must look like, until that was seen.
    pub(super) unverified: Option<LastRecord>,
    /// A gap at the start was seen twice, or there was none.
    pub(super) gap_confirmed: bool,
}

impl Position {
    /// Where to seek: the record before ours tells whether the topic is still the same.
    pub(super) fn first_wanted(&self) -> i64 {
        self.next - i64::from(self.unverified.is_some())
    }

    fn row(&self) -> LedgerRow {
        LedgerRow { id: self.ledger, reader: self.reader, next_offset: self.next, last: None }
    }
}

/// Claims the partition's row, making it first if it was never read.
pub(super) async fn open(shared: &Shared, partition: &TopicPartition) -> Result<Position, Step> {
    let (Some(intake), Some(kafka)) = (shared.intake(), &shared.kafka) else {
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
    let row = find_or_open(shared, intake, partition, &key).await?;
    let token = ReaderToken::random();
    let claim = shared.store.claim_ledger(row.id, token);
    let claimed = shared.bounded(claim).await.map_err(|error| away(&error))?;
    // After the claim: a predecessor that read and committed meanwhile would otherwise stand
    // beyond the end that we saw.
    let (low, high) = intake.watermarks(partition).await.map_err(kafka_away)?;
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
        go_on_at(shared, partition, &mut position, low, &why).await?;
        shared.counters.add(&shared.counters.logs_remade, 1);
    } else if position.next < low {
        let lost = usize::try_from(low - position.next).unwrap_or(0);
        let why = format!("begins at {low}: records {} to {} are gone", position.next, low - 1);
        go_on_at(shared, partition, &mut position, low, &why).await?;
        shared.counters.add(&shared.counters.offsets_lost, lost);
    }
    Ok(position)
}

/// The record before ours is not the one that we noted: the topic was made again.
pub(super) async fn remade(
    shared: &Shared,
    partition: &TopicPartition,
    position: &mut Position,
) -> Result<(), Step> {
    let Some(intake) = shared.intake() else { return Ok(()) };
    let (low, _) =
        intake.watermarks(partition).await.map_err(|error| Step::Away(error.to_string()))?;
    let why = format!(
        "has another record at {} than the one that was read: it was made again",
        position.next - 1
    );
    go_on_at(shared, partition, position, low, &why).await?;
    shared.counters.add(&shared.counters.logs_remade, 1);
    Ok(())
}

/// A first start begins at the group's committed offset, else at the earliest; that is
/// written down before anything is read.
async fn find_or_open(
    shared: &Shared,
    intake: &Intake,
    partition: &TopicPartition,
    key: &LedgerKey,
) -> Result<LedgerRow, Step> {
    let find = || async { shared.store.find_ledger(key).await.map_err(|error| away(&error)) };
    if let Some(row) = find().await? {
        return Ok(row);
    }
    let kafka_away = |error: crate::kafka::Error| Step::Away(error.to_string());
    let start = match intake.committed(partition).await.map_err(kafka_away)? {
        Some(committed) => committed,
        None => intake.watermarks(partition).await.map_err(kafka_away)?.0,
    };
    shared.store.open_ledger(key, start).await.map_err(|error| away(&error))?;
    tracing::info!(%partition, start, "{partition} is read for the first time, from {start}");
    find().await?.ok_or_else(|| Step::Away("the ledger row is not there yet".into()))
}

async fn go_on_at(
    shared: &Shared,
    partition: &TopicPartition,
    position: &mut Position,
    low: i64,
    why: &str,
) -> Result<(), Step> {
    if shared.on_offset_lost() == OnOffsetLost::Stop {
        tracing::error!(%partition, "{partition} {why}; not read, as on_offset_lost = \"stop\"");
        return Err(Step::Stop(format!(
            "the log {why}; set kafka.on_offset_lost = \"earliest\" to go on at {low}"
        )));
    }
    tracing::error!(%partition, from = position.next, to = low, "{partition} {why}; going on at {low}");
    match shared.store.move_ledger(&position.row(), low).await {
        Ok(true) => {
            position.next = low;
            position.unverified = None;
            position.gap_confirmed = false;
            Ok(())
        }
        Ok(false) => Err(Step::Away("another reader moved the ledger".into())),
        Err(error) => Err(away(&error)),
    }
}
