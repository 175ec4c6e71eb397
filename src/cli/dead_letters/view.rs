//! How a letter looks, to programs and to people.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::exact_instant;
use crate::cli::output::on_one_line;
use crate::store::{LetterRow, LetterSummary, ReplayChain};

/// A letter in a list, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SummaryView<'a> {
    id: Uuid,
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

impl<'a> SummaryView<'a> {
    pub(super) fn of(letter: &'a LetterSummary) -> Self {
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
            record_time: letter.source_time_ms.map(exact_instant),
            attempts: letter.attempts,
            created_time: exact_instant(letter.created_ms),
            // A version that knew no states wrote none.
            changed_time: exact_instant(letter.changed_ms.max(letter.created_ms)),
            due_time: letter.due_ms.map(exact_instant),
            corrected: letter.corrected,
            replays: letter.replays,
            replay_of: letter.replay_of,
        }
    }
}

/// Everything about a letter, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LetterView<'a> {
    #[serde(flatten)]
    summary: SummaryView<'a>,
    /// On the DLQ topic, after the broker's acknowledgement.
    published: bool,
    key: Option<Bytes<'a>>,
    value: Option<Bytes<'a>>,
    /// Pairs of a name and a value, in their order.
    headers: &'a RawValue,
    correction: Option<Bytes<'a>>,
    replay_chain: Vec<Uuid>,
}

impl<'a> LetterView<'a> {
    pub(super) fn of(
        row: &'a LetterRow,
        summary: &'a LetterSummary,
        published: bool,
        chain: &ReplayChain,
    ) -> serde_json::Result<Self> {
        Ok(Self {
            summary: SummaryView::of(summary),
            published,
            key: row.record_key.as_deref().map(Bytes::of),
            value: row.record_value.as_deref().map(Bytes::of),
            headers: serde_json::from_str(&row.headers)?,
            correction: row.correction.as_deref().map(Bytes::of),
            replay_chain: ids(chain, row.id),
        })
    }
}

/// The letters of a chain, `letter` among them; none if there is only that.
pub(super) fn ids(chain: &ReplayChain, letter: Uuid) -> Vec<Uuid> {
    if chain.before.is_empty() && chain.after.is_empty() {
        return Vec::new();
    }
    let before = chain.before.iter().map(|letter| letter.id);
    before.chain([letter]).chain(chain.after.iter().map(|letter| letter.id)).collect()
}

/// Text where it is text, else hexadecimal, as headers are.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Bytes<'a> {
    Text(&'a str),
    Hex { hex: String },
}

impl<'a> Bytes<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Hex { hex: hex(bytes) },
        }
    }
}

/// Text where it is text, else hexadecimal, `most` bytes of it; then how many are left out.
pub(super) fn bytes(bytes: &[u8], most: usize) -> (String, usize) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => {
            let shown = &bytes[..bytes.len().min(most)];
            return (format!("hex {}", hex(shown)), bytes.len() - shown.len());
        }
    };
    let end = text.floor_char_boundary(most);
    (harmless(&text[..end]), text.len() - end)
}

/// The pairs of a letter's headers, for people.
pub(super) fn headers(json: &str) -> Vec<(String, String)> {
    let pairs: Vec<(String, Value)> = serde_json::from_str(json).unwrap_or_default();
    let shown = |value: Value| match value {
        Value::Null => "(null)".into(),
        Value::String(text) => harmless(&text),
        Value::Object(bytes) => format!("hex {}", bytes["hex"].as_str().unwrap_or_default()),
        other => other.to_string(),
    };
    pairs.into_iter().map(|(name, value)| (harmless(&name), shown(value))).collect()
}

/// The first digits of an id: enough to name the letter.
pub(super) fn short_id(id: Uuid) -> String {
    let mut text = id.to_string();
    text.truncate(13);
    text
}

/// `most` signs of a text, on one line.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let line = on_one_line(text);
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A producer's text, without what would steer the terminal.
fn harmless(text: &str) -> String {
    let mild = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.chars().map(mild).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_to_one_line() {
        for (text, meant) in [("short", "short"), ("a\nb\u{1b}c", "a b c"), ("é234567", "é234…")]
        {
            assert_eq!(one_line(text, 5), meant);
        }
    }

    #[test]
    fn bytes_are_cut_between_characters_and_cannot_steer_the_terminal() {
        for (value, most, meant, left) in [
            (&b"{\"a\":1}"[..], 100, "{\"a\":1}", 0),
            ("aé".as_bytes(), 2, "a", 2),
            (b"\x1b[2J\n", 100, "\u{fffd}[2J\n", 0),
            (b"\xff\x00\xfe", 2, "hex ff00", 1),
            (b"", 2, "", 0),
        ] {
            assert_eq!(bytes(value, most), (meant.to_owned(), left));
        }
    }

    #[test]
    fn headers_are_text_bytes_or_null() {
        let shown = headers(r#"[["a","é"],["b",{"hex":"ff00"}],["c",null]]"#);
        let meant = [("a", "é"), ("b", "hex ff00"), ("c", "(null)")];
        assert_eq!(shown, meant.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
