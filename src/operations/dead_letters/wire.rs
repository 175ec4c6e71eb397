//! The JSON form of dead letters, with camelCase keys.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{LetterSummary, ReplayChain, ShownLetter};
use crate::operations::rfc3339_ms;

/// A dead letter in a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetterSummary)]
pub(crate) struct Summary<'a> {
    id: Uuid,
    #[schema(value_type = String)]
    state: &'static str,
    kind: &'a str,
    message: &'a str,
    app_name: Option<&'a str>,
    request_id: Option<&'a str>,
    job_id: Option<Uuid>,
    topic: Option<&'a str>,
    partition: Option<i32>,
    offset: Option<i64>,
    record_time: Option<String>,
    attempts: i32,
    created_time: String,
    changed_time: String,
    due_time: Option<String>,
    corrected: bool,
    replays: i32,
    replay_of: Option<Uuid>,
}

impl<'a> From<&'a LetterSummary> for Summary<'a> {
    fn from(letter: &'a LetterSummary) -> Self {
        Self {
            id: letter.id,
            state: letter.state().as_str(),
            kind: &letter.kind,
            message: &letter.message,
            app_name: letter.app.as_deref(),
            request_id: letter.request_id.as_deref(),
            job_id: letter.job,
            topic: letter.topic.as_deref(),
            partition: letter.number,
            offset: letter.source_offset,
            record_time: letter.source_time_ms.map(rfc3339_ms),
            attempts: letter.attempts,
            created_time: rfc3339_ms(letter.created_ms),
            // An earlier version, which had no states, did not write this time.
            changed_time: rfc3339_ms(letter.changed_ms.max(letter.created_ms)),
            due_time: letter.due_ms.map(rfc3339_ms),
            corrected: letter.corrected,
            replays: letter.replays,
            replay_of: letter.replay_of,
        }
    }
}

impl Serialize for LetterSummary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Summary::from(self).serialize(serializer)
    }
}

/// Everything about a dead letter.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetter)]
pub(crate) struct Shown<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    published: bool,
    key: Option<Bytes<'a>>,
    value: Option<Bytes<'a>>,
    /// Pairs of a name and a value, which is a text, null or `{"hex": ".."}`.
    #[schema(value_type = Vec<Object>)]
    headers: &'a RawValue,
    correction: Option<Bytes<'a>>,
    replay_chain: Vec<Uuid>,
}

impl Serialize for ShownLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = Shown {
            summary: Summary::from(&self.summary),
            published: self.published,
            key: self.key.as_deref().map(Bytes::of),
            value: self.value.as_deref().map(Bytes::of),
            headers: serde_json::from_str(&self.headers).map_err(serde::ser::Error::custom)?,
            correction: self.correction.as_deref().map(Bytes::of),
            replay_chain: ids(&self.chain, self.summary.id),
        };
        shown.serialize(serializer)
    }
}

/// The ids of a chain including `letter`; empty if it is the only one.
fn ids(chain: &ReplayChain, letter: Uuid) -> Vec<Uuid> {
    if chain.before.is_empty() && chain.after.is_empty() {
        return Vec::new();
    }
    let before = chain.before.iter().map(|letter| letter.id);
    before.chain([letter]).chain(chain.after.iter().map(|letter| letter.id)).collect()
}

/// A string if the bytes are UTF-8, otherwise hexadecimal; the same form as for headers.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Bytes<'a> {
    Text(&'a str),
    Hex { hex: String },
}

impl<'a> Bytes<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Hex { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() },
        }
    }
}
