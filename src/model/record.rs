//! A record of a topic as it was read, before anybody has judged it.

use std::sync::Arc;

/// One Kafka record, unchanged: what a dead letter gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRecord {
    /// The topic that it was read from.
    pub topic: Arc<str>,
    /// The partition that it was read from.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Epoch milliseconds, by the producer's or the broker's clock.
    pub timestamp_ms: Option<i64>,
    /// The record key, if it has one.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is Kafka's null value (a tombstone).
    pub value: Option<Vec<u8>>,
    /// The record headers in order; a header's value may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl RawRecord {
    /// Roughly how many bytes the record takes.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len))
            .sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + headers
    }
}
