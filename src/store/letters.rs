//! Dead letters and parked records: how their rows are written, and the parked records that are due.
//!
//! A dead letter is a row first; `outbox` publishes it to the DLQ topic.

use infinite_scheduler_entity::dead_letter;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::headers::{decode_headers, encode_headers};
use super::steps::{Step, Value};
use super::{LetterState, OrderingKey, Result, Store, outbox};
use crate::model::ids::{LedgerId, Offset, Partition};
use crate::model::letter::DeadLetter;
use crate::model::record::RawRecord;

/// A record that cannot become a job yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// Its row.
    pub id: Uuid,
    /// The ledger row of its partition.
    pub ledger: LedgerId,
    /// Its request id, if it could be decoded.
    pub request_id: Option<String>,
    /// The number of its attempts.
    pub attempts: u32,
    /// When it is to be retried, epoch milliseconds.
    pub due_ms: i64,
    /// The record, unchanged.
    pub record: RawRecord,
}

impl Store {
    /// The parked records of these partitions that are due next, in the order of their due times.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
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
}

/// The states of a row, as they are stored.
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

/// Inserts a dead letter and its outbox row. If the letter exists already, it is unchanged and not
/// published again: its record was read twice, or its outcome was written twice because an answer
/// was lost.
///
/// If it is new, `then` follows.
pub(super) fn insert(row: dead_letter::Model, key: OrderingKey, then: Option<Step>) -> Step {
    let publish = outbox::insert_letter(key, row.id);
    let publish = match then {
        Some(then) => publish.then(then),
        None => publish,
    };
    Step::if_new(INSERT, values(row), publish)
}

/// Inserts the row of a parked record. If it exists already, another transaction was first
/// ([`super::Error::Raced`]), and the batch is decided again.
pub(super) fn park(row: dead_letter::Model) -> Step {
    Step::any(INSERT, values(row))
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

/// Truncates a text to the length of its column, and replaces NUL, which PostgreSQL cannot store.
pub(super) fn truncated(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
}

/// The most characters of a message that are stored.
pub(super) const LONGEST_MESSAGE: usize = 4096;
/// Characters of a person's or program's name that a row keeps.
pub(super) const LONGEST_NAME: usize = 255;

/// Encodes a dead letter as a row. Texts of any length are made to fit.
pub(super) fn encode(letter: &DeadLetter) -> dead_letter::Model {
    let source = letter.source.as_ref();
    dead_letter::Model {
        id: letter.id(),
        kind: letter.kind.as_str().into(),
        message: truncated(&letter.message, LONGEST_MESSAGE),
        app: letter.app.as_deref().map(|app| truncated(app, 64)),
        request_id: letter.request_id.as_deref().map(|id| truncated(id, 128)),
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
        bulk: None,
    }
}
