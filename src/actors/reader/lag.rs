//! How many records of a partition are not read yet, and whether an open transaction holds it back.

use chrono::{DateTime, SecondsFormat};

use crate::kafka::{Error, Intake, TopicPartition};
use crate::model::ids::Offset;

/// A transaction that is open for longer than this is reported. Most take milliseconds, and by
/// default brokers abort them after a minute.
const LONG_MS: i64 = 10_000;

/// The unread rest of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backlog {
    /// Records that are not read yet.
    pub(super) lag: i64,
    /// The open transaction at the reading position, if there is one.
    pub(super) held: Option<OpenTransaction>,
}

/// A transaction that has neither committed nor aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenTransaction {
    /// The offset of its first record, beyond which consumers do not read.
    pub(super) first: Offset,
    /// When that record was written, epoch milliseconds.
    pub(super) since_ms: i64,
}

impl OpenTransaction {
    /// Whether it has been open for unusually long.
    pub(super) fn is_long(&self, now_ms: i64) -> bool {
        now_ms - self.since_ms >= LONG_MS
    }

    /// When it began, as text for messages.
    pub(super) fn since(&self) -> String {
        DateTime::from_timestamp_millis(self.since_ms)
            .map_or_else(|| "unknown".into(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl Backlog {
    /// Queries the backlog after the offset `next`. `known` is the transaction that held the
    /// partition back at the last query.
    pub(super) async fn after(
        intake: &Intake,
        partition: &TopicPartition,
        next: Offset,
        known: Option<OpenTransaction>,
        now_ms: i64,
    ) -> Result<Self, Error> {
        let end = intake.end(partition).await?;
        let lag = (end - next).max(0);
        if lag == 0 {
            return Ok(Self { lag, held: None });
        }
        let (_, stable) = intake.watermarks(partition).await?;
        if stable > next || stable >= end {
            return Ok(Self { lag, held: None });
        }
        if let Some(known) = known.filter(|known| known.first == stable) {
            return Ok(Self { lag, held: Some(known) });
        }
        let since_ms = intake.time_at(partition, stable).await?.unwrap_or(now_ms);
        Ok(Self { lag, held: Some(OpenTransaction { first: stable, since_ms }) })
    }
}
