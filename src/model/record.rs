//! A record of a topic as it was read, before it is decoded.

use std::sync::Arc;

use super::ids::{Offset, Partition};

/// One Kafka record, unchanged, as a dead letter preserves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRecord {
    /// The topic that it was read from.
    pub topic: Arc<str>,
    /// The partition that it was read from.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RawRecord {
        let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(Into::into));
        RawRecord {
            topic: "jobs".into(),
            partition: Partition(3),
            offset: Offset(41),
            timestamp_ms: None,
            key: Some(b"key".to_vec()),
            value: Some(b"value".to_vec()),
            headers: vec![
                header("a", Some(b"first")),
                header("a", Some(b"second")),
                header("null", None),
                header("bytes", Some(b"\xff")),
            ],
        }
    }

    #[test]
    fn its_size_is_that_of_key_value_and_headers() {
        assert_eq!(record().size(), 3 + 5 + (1 + 5) + (1 + 6) + 4 + (5 + 1));
        let empty = RawRecord { key: None, value: None, headers: Vec::new(), ..record() };
        assert_eq!(empty.size(), 0);
    }
}
