//! Dead letters and the outbox that takes them to the DLQ topic.
//!
//! A letter is a row first and a record on the topic second: whoever holds its lane (the
//! reader's partition, or the shard of its job) publishes in order and then removes the
//! outbox row. A crash between the two publishes again, under the same id.

use infinite_scheduler_entity::{dead_letter, outbox};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::{Deserialize, Serialize};

use super::{Result, Store};
use crate::model::ids::{LedgerId, ShardId};
use crate::model::letter::DeadLetter;

/// Whose letters come in one order, and who publishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Records of one partition: the instance that reads it.
    Partition(LedgerId),
    /// Jobs of one shard: the instance that owns it.
    Shard(ShardId),
}

impl Lane {
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Partition(ledger) => i64::from(ledger.0),
            Self::Shard(shard) => (1 << 32) + i64::from(shard.0),
        }
    }
}

/// A letter that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The outbox row.
    pub id: i64,
    /// The letter's row.
    pub letter: dead_letter::Model,
}

type Header = (String, Option<Vec<u8>>);

impl Outgoing {
    /// The record's own headers, as they were.
    pub fn headers(&self) -> Vec<Header> {
        decode_headers(&self.letter.headers)
    }
}

impl Store {
    /// The oldest unpublished letters of these lanes behind the outbox row `after`, in order.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn unpublished(
        &self,
        lanes: &[Lane],
        after: i64,
        limit: u64,
    ) -> Result<Vec<Outgoing>> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let rows = outbox::Entity::find()
            .filter(outbox::Column::Lane.is_in(lanes.iter().map(|lane| lane.number())))
            .filter(outbox::Column::Id.gt(after))
            .order_by_asc(outbox::Column::Id)
            .limit(limit)
            .all(&self.inner.pool)
            .await?;
        let ids = rows.iter().map(|row| row.letter);
        let letters = dead_letter::Entity::find()
            .filter(dead_letter::Column::Id.is_in(ids))
            .all(&self.inner.pool)
            .await?;
        let letter_of = |row: &outbox::Model| {
            let letter = letters.iter().find(|letter| letter.id == row.letter)?.clone();
            Some(Outgoing { id: row.id, letter })
        };
        Ok(rows.iter().filter_map(letter_of).collect())
    }

    /// Notes that the broker has acknowledged these.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: they will be published again.
    pub async fn published(&self, outgoing: &[i64]) -> Result<()> {
        let _turn = self.turn().await;
        outbox::Entity::delete_many()
            .filter(outbox::Column::Id.is_in(outgoing.iter().copied()))
            .exec(&self.inner.pool)
            .await?;
        Ok(())
    }
}

/// The row of a letter. Whatever a producer wrote must fit: text is cut to its column and
/// freed of the NUL that PostgreSQL cannot keep.
pub(super) fn encode(letter: &DeadLetter) -> dead_letter::Model {
    let text = |text: &str, most: usize| -> String {
        text.chars().take(most).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
    };
    let source = letter.source.as_ref();
    dead_letter::Model {
        id: letter.id(),
        kind: letter.kind.as_str().into(),
        message: text(&letter.message, 4096),
        app: letter.app.as_deref().map(|app| text(app, 64)),
        request_id: letter.request_id.as_deref().map(|id| text(id, 128)),
        job: letter.job_id.map(|job| job.uuid()),
        topic: source.map(|source| source.topic.clone()),
        number: source.map(|source| source.partition),
        source_offset: source.map(|source| source.offset),
        source_time_ms: source.and_then(|source| source.timestamp_ms),
        record_key: letter.key.clone(),
        record_value: letter.value.clone(),
        headers: encode_headers(&letter.headers),
        attempts: i32::try_from(letter.attempts).unwrap_or(i32::MAX),
        created_ms: letter.at_ms,
        state: 0,
        changed_ms: letter.at_ms,
        due_ms: None,
        ledger: None,
        correction: None,
        replays: 0,
        replay_of: None,
        max_attempts: None,
        timeout_ms: None,
    }
}

/// A header's value in JSON: text where it is text, else its bytes in hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Null,
    Text(String),
    Bytes { hex: String },
}

fn encode_headers(headers: &[Header]) -> String {
    let value = |value: &Option<Vec<u8>>| match value {
        None => HeaderValue::Null,
        Some(bytes) => match String::from_utf8(bytes.clone()) {
            Ok(text) => HeaderValue::Text(text),
            Err(_) => {
                HeaderValue::Bytes { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() }
            }
        },
    };
    let list: Vec<_> = headers.iter().map(|(name, bytes)| (name, value(bytes))).collect();
    serde_json::to_string(&list).unwrap_or_else(|_| "[]".into())
}

fn decode_headers(json: &str) -> Vec<Header> {
    let list: Vec<(String, HeaderValue)> = serde_json::from_str(json).unwrap_or_default();
    let bytes = |hex: &str| {
        (0..hex.len() / 2)
            .filter_map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok())
            .collect()
    };
    list.into_iter()
        .map(|(name, value)| match value {
            HeaderValue::Null => (name, None),
            HeaderValue::Text(text) => (name, Some(text.into_bytes())),
            HeaderValue::Bytes { hex } => (name, Some(bytes(&hex))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let headers: Vec<Header> = vec![
            ("text".into(), Some("é\0".into())),
            ("bytes".into(), Some(vec![0, 255, 128])),
            ("null".into(), None),
            ("empty".into(), Some(vec![])),
        ];
        assert_eq!(decode_headers(&encode_headers(&headers)), headers);
    }
}
