//! How much of a partition is left to read, and whether a transaction holds it back.

use chrono::{DateTime, SecondsFormat};

use crate::kafka::{Error, Intake, TopicPartition};
use crate::model::ids::Offset;

/// A transaction that has not ended after this long is worth telling people about. Most take
/// milliseconds, and producers let them time out after a minute.
const LONG_MS: i64 = 10_000;

/// What is left of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Records that are not read yet.
    pub(super) lag: i64,
    /// The transaction that reading has come to, if one is open there.
    pub(super) held: Option<OpenTransaction>,
}

/// A transaction that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenTransaction {
    /// The offset of its first record, which all readers wait at.
    pub(super) first: Offset,
    /// When that record was written, epoch milliseconds.
    pub(super) since_ms: i64,
}

impl OpenTransaction {
    /// Whether it is open for unusually long.
    pub(super) fn is_long(&self, now_ms: i64) -> bool {
        now_ms - self.since_ms >= LONG_MS
    }

    /// When it began, for people.
    pub(super) fn since(&self) -> String {
        DateTime::from_timestamp_millis(self.since_ms)
            .map_or_else(|| "unknown".into(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl Left {
    /// Asks the cluster what is left behind `next`. `known` is what held it back the last time.
    pub(super) async fn behind(
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
