//! The form in which the headers of a record are stored: a JSON array of names and values.

use serde::{Deserialize, Serialize};

/// The name of a record header and its value, which may be null.
pub(super) type Header = (String, Option<Vec<u8>>);

/// A header's value in JSON: a string if it is UTF-8, else its bytes in hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Null,
    Text(String),
    Bytes { hex: String },
}

pub(super) fn encode_headers(headers: &[Header]) -> String {
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
