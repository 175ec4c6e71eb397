//! Dead letters, records that are parked, and the outbox that takes letters and verdicts to
//! their topics.
//!
//! What is to be published is a row first and a record on a topic second: whoever holds its
//! lane (the reader's partition, or the shard of its job) publishes in order and then removes
//! the outbox row. A crash between the two publishes again, under the same id.

use infinite_scheduler_entity::{dead_letter, outbox};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::steps::{Step, Value};
use super::{Hot, LetterState, Result, Store};
use crate::model::ids::{LedgerId, Offset, Partition, ShardId};
use crate::model::letter::DeadLetter;
use crate::model::record::RawRecord;

/// Whose letters come in one order, and who publishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Verdicts of one batch that are to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingVerdicts {
    /// The outbox row.
    pub id: i64,
    /// The events, as [`pack`](crate::model::verdict::pack) writes them.
    pub packed: String,
}

/// What outbox rows bring.
#[derive(Clone, Copy)]
enum Content {
    Letters,
    Verdicts,
}

/// A record whose failure may heal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// Its row.
    pub id: Uuid,
    /// The ledger row of its partition.
    pub ledger: LedgerId,
    /// The name of its request, where it could be read.
    pub request_id: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is to be tried again, epoch milliseconds.
    pub due_ms: i64,
    /// The record, unchanged.
    pub record: RawRecord,
}

type Header = (String, Option<Vec<u8>>);

impl Outgoing {
    /// The record's own headers, as they were.
    pub fn headers(&self) -> Vec<Header> {
        decode_headers(&self.letter.headers)
    }
}

impl Store {
    /// The oldest unpublished letters of these lanes, in order, without the outbox rows `passed`.
    ///
    /// Always from the oldest: a row with a smaller id may be committed later than its
    /// neighbours, though never later than what followed from it.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn unpublished(
        &self,
        lanes: &[Lane],
        passed: &[i64],
        limit: u64,
    ) -> Result<Vec<Outgoing>> {
        let rows = self.oldest_in_outbox(Content::Letters, lanes, passed, limit).await?;
        let ids = rows.iter().map(|row| row.letter);
        let letters = dead_letter::Entity::find()
            .filter(dead_letter::Column::Id.is_in(ids))
            .all(&self.inner.pool)
            .await?;
        let letter_of = |row: &outbox::Model| {
            let letter = letters.iter().find(|letter| letter.id == row.letter)?.clone();
            Some(Outgoing { id: row.id, letter })
        };
        let outgoing: Vec<Outgoing> = rows.iter().filter_map(letter_of).collect();
        if outgoing.len() < rows.len() {
            // Their letters are gone: nothing is left to publish.
            let is_gone = |row: &&outbox::Model| outgoing.iter().all(|other| other.id != row.id);
            let gone: Vec<i64> = rows.iter().filter(is_gone).map(|row| row.id).collect();
            self.published(&gone).await?;
        }
        Ok(outgoing)
    }

    /// The oldest unpublished verdicts of these lanes, in order, without the outbox rows
    /// `passed`; always from the oldest, as [`unpublished`](Self::unpublished).
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn unpublished_verdicts(
        &self,
        lanes: &[Lane],
        passed: &[i64],
        limit: u64,
    ) -> Result<Vec<OutgoingVerdicts>> {
        let rows = self.oldest_in_outbox(Content::Verdicts, lanes, passed, limit).await?;
        let outgoing =
            |row: outbox::Model| Some(OutgoingVerdicts { id: row.id, packed: row.verdicts? });
        Ok(rows.into_iter().filter_map(outgoing).collect())
    }

    /// The oldest rows of these lanes, without those `passed`.
    ///
    /// On PostgreSQL each lane is read by its own part of the index and no further than needed. From
    /// a list of lanes with a limit, the planner may walk the primary key instead, past all
    /// that was published and is not cleaned up yet.
    async fn oldest_in_outbox(
        &self,
        content: Content,
        lanes: &[Lane],
        passed: &[i64],
        limit: u64,
    ) -> Result<Vec<outbox::Model>> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let numbers = lanes.iter().map(|lane| lane.number());
        let Hot::Postgres(pool) = &self.inner.hot else {
            let is_content = match content {
                Content::Letters => outbox::Column::Verdicts.is_null(),
                Content::Verdicts => outbox::Column::Verdicts.is_not_null(),
            };
            let rows = outbox::Entity::find()
                .filter(outbox::Column::Lane.is_in(numbers))
                .filter(outbox::Column::Id.is_not_in(passed.iter().copied()))
                .filter(is_content)
                .order_by_asc(outbox::Column::Id)
                .limit(limit);
            return Ok(rows.all(&self.inner.pool).await?);
        };
        let is_content = match content {
            Content::Letters => "is null",
            Content::Verdicts => "is not null",
        };
        let sql = format!(
            "select o.id, o.lane, o.letter, o.verdicts from unnest($1::bigint[]) as l(lane) \
             cross join lateral (select id, lane, letter, verdicts from scheduler_outbox \
             where lane = l.lane and verdicts {is_content} and (id = any($2::bigint[])) is not true \
             order by id limit $3) as o order by o.id limit $3"
        );
        let rows: Vec<(i64, i64, Uuid, Option<String>)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(numbers.collect::<Vec<_>>())
            .bind(passed)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(pool)
            .await?;
        let model = |(id, lane, letter, verdicts)| outbox::Model { id, lane, letter, verdicts };
        Ok(rows.into_iter().map(model).collect())
    }

    /// Leaves of an outbox row of verdicts only those that were not published yet.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: all of them will be told again.
    pub async fn keep_verdicts(&self, row: i64, packed: String) -> Result<()> {
        let _turn = self.turn().await;
        outbox::Entity::update_many()
            .col_expr(outbox::Column::Verdicts, Expr::value(packed))
            .filter(outbox::Column::Id.eq(row))
            .exec(&self.inner.pool)
            .await?;
        Ok(())
    }

    /// Puts verdicts into the outbox that belong to no other change.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: perhaps they are there; told again they have the same ids.
    pub async fn announce(&self, lane: Lane, packed: String) -> Result<()> {
        let row = outbox::ActiveModel {
            id: NotSet,
            lane: Set(lane.number()),
            letter: Set(Uuid::nil()),
            verdicts: Set(Some(packed)),
        };
        let _turn = self.turn().await;
        outbox::Entity::insert(row).exec_without_returning(&self.inner.pool).await?;
        Ok(())
    }

    /// Parked records of these partitions, those that are due first.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn parked(&self, ledgers: &[LedgerId], limit: u64) -> Result<Vec<ParkedRecord>> {
        if ledgers.is_empty() {
            return Ok(Vec::new());
        }
        let rows = dead_letter::Entity::find()
            .filter(dead_letter::Column::State.eq(PARKED))
            .filter(dead_letter::Column::Ledger.is_in(ledgers.iter().map(|ledger| ledger.0)))
            .order_by_asc(dead_letter::Column::DueMs)
            .limit(limit)
            .all(&self.inner.pool)
            .await?;
        Ok(rows.into_iter().filter_map(parked_record).collect())
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

/// States of a letter's row, as the table has them.
pub(super) const DEAD: i16 = LetterState::Dead.code();
pub(super) const PARKED: i16 = LetterState::Parked.code();
pub(super) const REPLAYED: i16 = LetterState::Replayed.code();

fn parked_record(row: dead_letter::Model) -> Option<ParkedRecord> {
    let headers = decode_headers(&row.headers);
    Some(ParkedRecord {
        id: row.id,
        ledger: LedgerId(row.ledger?),
        request_id: row.request_id,
        attempts: row.attempts.try_into().unwrap_or(0),
        due_ms: row.due_ms.unwrap_or(0),
        record: RawRecord {
            topic: row.topic?.into(),
            partition: Partition(row.number?),
            offset: Offset(row.source_offset?),
            timestamp_ms: row.source_time_ms,
            key: row.record_key,
            value: row.record_value,
            headers,
        },
    })
}

/// Writes a letter, and an outbox row for it. One that is there already stays as it is and is
/// not published again: its record was read twice, or its outcome was written twice because
/// an answer was lost.
pub(super) fn insert(row: dead_letter::Model, lane: i64) -> Step {
    let publish = "insert into scheduler_outbox (lane, letter) values (?, ?)";
    let publish = Step::any(publish, vec![lane.into(), row.id.into()]);
    Step::if_new(INSERT, values(row), publish)
}

/// Writes the row of a record that is parked. If it is there already, another writer was
/// first ([`super::Error::Raced`]): the batch is judged again.
pub(super) fn park(row: dead_letter::Model) -> Step {
    Step::any(INSERT, values(row))
}

/// Writes an outbox row with verdicts.
pub(super) fn announce(lane: i64, packed: String) -> Step {
    let insert = "insert into scheduler_outbox (lane, letter, verdicts) values (?, ?, ?)";
    Step::any(insert, vec![lane.into(), Uuid::nil().into(), packed.into()])
}

const INSERT: &str = "insert into scheduler_dead_letter (id, kind, message, app, request_id, job, topic, \
    number, source_offset, source_time_ms, record_key, record_value, headers, attempts, \
    created_ms, state, changed_ms, due_ms, ledger, replays, replay_of, max_attempts, timeout_ms, \
    expires_ms, flexible_ms, concurrency_key) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

fn values(row: dead_letter::Model) -> Vec<Value> {
    vec![
        row.id.into(),
        row.kind.into(),
        row.message.into(),
        row.app.into(),
        row.request_id.into(),
        row.job.into(),
        row.topic.into(),
        row.number.into(),
        row.source_offset.into(),
        row.source_time_ms.into(),
        row.record_key.into(),
        row.record_value.into(),
        row.headers.into(),
        row.attempts.into(),
        row.created_ms.into(),
        row.state.into(),
        row.changed_ms.into(),
        row.due_ms.into(),
        row.ledger.into(),
        row.replays.into(),
        row.replay_of.into(),
        row.max_attempts.into(),
        row.timeout_ms.into(),
        row.expires_ms.into(),
        row.flexible_ms.into(),
        row.concurrency_key.into(),
    ]
}

/// Text as a row keeps it: cut to its column and freed of the NUL that PostgreSQL cannot keep.
pub(super) fn kept(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
}

/// Characters of a message that a row keeps.
pub(super) const LONGEST_MESSAGE: usize = 4096;

/// The row of a letter. Whatever a producer wrote must fit.
pub(super) fn encode(letter: &DeadLetter) -> dead_letter::Model {
    let source = letter.source.as_ref();
    dead_letter::Model {
        id: letter.id(),
        kind: letter.kind.as_str().into(),
        message: kept(&letter.message, LONGEST_MESSAGE),
        app: letter.app.as_deref().map(|app| kept(app, 64)),
        request_id: letter.request_id.as_deref().map(|id| kept(id, 128)),
        job: letter.job_id.map(|job| job.uuid()),
        topic: source.map(|source| source.topic.clone()),
        number: source.map(|source| source.partition.0),
        source_offset: source.map(|source| source.offset.0),
        source_time_ms: source.and_then(|source| source.timestamp_ms),
        record_key: letter.key.clone(),
        record_value: letter.value.clone(),
        headers: encode_headers(&letter.headers),
        attempts: i32::try_from(letter.attempts).unwrap_or(i32::MAX),
        created_ms: letter.at_ms,
        state: DEAD,
        changed_ms: letter.at_ms,
        due_ms: None,
        ledger: None,
        correction: None,
        replays: 0,
        replay_of: None,
        max_attempts: None,
        timeout_ms: None,
        expires_ms: None,
        flexible_ms: None,
        concurrency_key: None,
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

pub(super) fn decode_headers(json: &str) -> Vec<Header> {
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
