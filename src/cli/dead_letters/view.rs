//! The texts of a letter, as people see them.

use serde_json::Value;
use uuid::Uuid;

use crate::cli::output::on_one_line;

/// The first `most` bytes as text, or as hexadecimal if they are not UTF-8; and how many bytes are
/// left out.
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

/// The names and values of a letter's headers.
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

/// The first digits of an id, which the commands accept as its name.
pub(super) fn short_id(id: Uuid) -> String {
    let mut text = id.to_string();
    text.truncate(13);
    text
}

/// `most` characters of a text, on one line.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let line = on_one_line(text);
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A producer's text without the characters that could control the terminal.
fn harmless(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
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
