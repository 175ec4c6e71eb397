//! JSON as its grammar allows it: numbers of any size, and strings in which unpaired surrogates
//! are escaped. `serde_json` can represent neither in its `Value`, and job data may contain both.

use std::borrow::Cow;

use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// The maximum nesting of arrays and objects; that of `serde_json`, which many receivers use.
pub(super) const MAX_DEPTH: usize = 127;

/// Added to an unpaired surrogate to get the character that replaces it in a [`Value`]: one of
/// the private-use plane 16.
const STAND_IN: u32 = 0x10_0000;

/// The value of `text`, or the nearest one that a [`Value`] can be: a number beyond an `f64` is
/// the largest of its sign, and each unpaired surrogate is a private character of its own.
///
/// # Errors
/// If `text` is not one JSON value, or is nested more deeply than a request may be.
pub(super) fn nearest_value(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|_| Node::read(text).map(Node::into_value))
}

/// Whether `json` is nested more than [`MAX_DEPTH`] levels deep.
///
/// Job data is kept raw and skipped without recursion, so that no other check would find this.
pub(super) fn is_too_deep(json: &str) -> bool {
    let opens = |byte: u8| matches!(byte, b'[' | b'{');
    // Counting brackets is much cheaper than parsing strings, and nearly always enough.
    if json.bytes().filter(|&byte| opens(byte)).count() <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string) = (0_usize, false);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => _ = bytes.next(),
            b'"' => in_string = !in_string,
            _ if in_string => {}
            _ if opens(byte) => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// A message about such a value, with the replacements shown as the escapes that they were.
pub(super) fn with_escapes(text: &str) -> Cow<'_, str> {
    let surrogate = |c: char| u32::from(c).checked_sub(STAND_IN).filter(is_surrogate);
    if !text.contains(|c| surrogate(c).is_some()) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match surrogate(c) {
            Some(unit) => escaped += &format!("\\u{unit:04x}"),
            None => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

fn is_surrogate(unit: &u32) -> bool {
    (0xd800..0xe000).contains(unit)
}

/// The name of an object's member; `None` if it has an unpaired surrogate, which no known name
/// has. Copied only if it is written with escapes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Name<'a>(pub(super) Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = <&RawValue>::deserialize(deserializer)?.get();
        let plain = written.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        Ok(Self(match plain.filter(|text| !text.contains('\\')) {
            Some(name) => Some(Cow::Borrowed(name)),
            None => serde_json::from_str(written).ok().map(Cow::Owned),
        }))
    }
}

/// A JSON value with its strings decoded and its numbers as they are written.
pub(super) enum Node<'a> {
    /// `null`, `true` or `false`, by its first letter.
    Word(u8),
    Number(&'a [u8]),
    Text(Cow<'a, [u8]>),
    Array(Vec<Node<'a>>),
    Object(Vec<(Cow<'a, [u8]>, Node<'a>)>),
}

impl<'a> Node<'a> {
    /// Reads one JSON value.
    ///
    /// # Errors
    /// If `text` is not one JSON value, or is nested more deeply than a request may be.
    pub(super) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<IgnoredAny>(text)?;
        if is_too_deep(text) {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(serde_json::Error::custom(message));
        }
        Ok(Parser(text.as_bytes()).value())
    }

    /// The part that a JSON pointer of these tokens names; of a repeated name the last member.
    pub(super) fn at(self, tokens: &[String]) -> Option<Self> {
        tokens.iter().try_fold(self, |node, token| match node {
            Self::Object(members) => {
                let named = |(name, _): &(Cow<'_, [u8]>, _)| **name == *token.as_bytes();
                members.into_iter().rfind(named).map(|(_, value)| value)
            }
            Self::Array(items) => {
                // RFC 6901 allows neither signs nor zeros in front.
                let is_index =
                    token == "0" || token.starts_with(|c: char| ('1'..='9').contains(&c));
                items.into_iter().nth(token.parse().ok().filter(|_| is_index)?)
            }
            Self::Word(_) | Self::Number(_) | Self::Text(_) => None,
        })
    }

    fn into_value(self) -> Value {
        match self {
            Self::Word(b'n') => Value::Null,
            Self::Word(letter) => Value::Bool(letter == b't'),
            Self::Number(number) => nearest_number(number).into(),
            Self::Text(text) => nearest_text(&text).into(),
            Self::Array(items) => items.into_iter().map(Self::into_value).collect(),
            Self::Object(members) => members
                .into_iter()
                .map(|(name, value)| (nearest_text(&name), value.into_value()))
                .collect::<Map<_, _>>()
                .into(),
        }
    }
}

fn nearest_number(number: &[u8]) -> Number {
    serde_json::from_slice(number).unwrap_or_else(|_| {
        let largest = if number.starts_with(b"-") { f64::MIN } else { f64::MAX };
        Number::from_f64(largest).unwrap_or_else(|| 0.into())
    })
}

/// UTF-8 but for unpaired surrogates, which have the three bytes that it would give them.
fn nearest_text(mut text: &[u8]) -> String {
    let mut nearest = String::with_capacity(text.len());
    loop {
        let valid = match std::str::from_utf8(text) {
            Ok(rest) => return nearest + rest,
            Err(error) => error.valid_up_to(),
        };
        let (before, surrogate) = text.split_at(valid);
        nearest += &String::from_utf8_lossy(before);
        let (unit, rest) = surrogate.split_at(3.min(surrogate.len()));
        let unit = unit.iter().fold(0, |unit, byte| unit << 6 | u32::from(byte & 0x3f)) & 0xffff;
        nearest.push(char::from_u32(STAND_IN + unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        text = rest;
    }
}

/// Reads text that is known to be JSON; its rest.
///
struct Parser<'a>(&'a [u8]);

impl<'a> Parser<'a> {
    fn value(&mut self) -> Node<'a> {
        match self.peek() {
            Some(b'{') => Node::Object(self.items(|parser| (parser.string(), parser.value()))),
            Some(b'[') => Node::Array(self.items(Self::value)),
            Some(b'"') => Node::Text(self.string()),
            Some(letter @ (b'n' | b't' | b'f')) => {
                self.skip_while(|byte| byte.is_ascii_lowercase());
                Node::Word(letter)
            }
            _ => {
                Node::Number(self.skip_while(|byte| {
                    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
                }))
            }
        }
    }

    /// The items between two brackets, each read by `item`.
    fn items<T>(&mut self, item: impl Fn(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        self.bump();
        while let Some(byte) = self.peek() {
            if matches!(byte, b'}' | b']') {
                self.bump();
                break;
            }
            items.push(item(self));
        }
        items
    }

    fn string(&mut self) -> Cow<'a, [u8]> {
        self.peek();
        self.bump();
        let plain = self.skip_while(|byte| !matches!(byte, b'"' | b'\\'));
        if self.0.first() != Some(&b'\\') {
            self.bump();
            return Cow::Borrowed(plain);
        }
        let mut text = plain.to_vec();
        while let Some(b'\\') = self.bump() {
            self.escape(&mut text);
            text.extend_from_slice(self.skip_while(|byte| !matches!(byte, b'"' | b'\\')));
        }
        Cow::Owned(text)
    }

    fn escape(&mut self, text: &mut Vec<u8>) {
        match self.bump() {
            Some(b'b') => text.push(0x08),
            Some(b'f') => text.push(0x0c),
            Some(b'n') => text.push(b'\n'),
            Some(b'r') => text.push(b'\r'),
            Some(b't') => text.push(b'\t'),
            Some(b'u') => self.unicode_escape(text),
            Some(itself) => text.push(itself),
            None => {}
        }
    }

    /// A surrogate without its other half takes the three bytes that UTF-8 would give it.
    fn unicode_escape(&mut self, text: &mut Vec<u8>) {
        let unit = self.code_unit();
        let paired = match self.0 {
            [b'\\', b'u', rest @ ..] if (0xd800..0xdc00).contains(&unit) => {
                let low = Self(rest).code_unit();
                char::decode_utf16([unit as u16, low as u16]).next().and_then(Result::ok)
            }
            _ => None,
        };
        if let Some(c) = paired {
            self.0 = &self.0[6..];
            text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else if let Some(c) = char::from_u32(unit) {
            text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            let low_six = |bits: u32| 0x80 | (bits & 0x3f) as u8;
            text.extend_from_slice(&[0xe0 | (unit >> 12) as u8, low_six(unit >> 6), low_six(unit)]);
        }
    }

    /// Four hexadecimal digits.
    fn code_unit(&mut self) -> u32 {
        (0..4).fold(0, |unit, _| {
            let digit = self.bump().and_then(|byte| char::from(byte).to_digit(16));
            unit << 4 | digit.unwrap_or(0)
        })
    }

    /// The next significant byte, after white space, commas and colons.
    fn peek(&mut self) -> Option<u8> {
        self.skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':'));
        self.0.first().copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn skip_while(&mut self, skipped: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| !skipped(byte)).unwrap_or(self.0.len());
        let (skipped, rest) = self.0.split_at(end);
        self.0 = rest;
        skipped
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_serde_json_takes_is_the_same_value() {
        let text =
            r#"{"a":[1,-2.5,1e3,18446744073709551615,"\ud83d\ude00",null,true,false],"a":{}}"#;
        let meant: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Node::read(text).unwrap().into_value(), meant);
        assert_eq!(nearest_value(text).unwrap(), meant);
    }

    #[test]
    fn numbers_beyond_a_double_are_the_largest_of_their_sign() {
        let meant = json!([f64::MAX, f64::MIN, f64::MAX, 0.0, 1]);
        assert_eq!(nearest_value("[1e400,-1E+400,123e999999999999,1e-400,1]").unwrap(), meant);
    }

    #[test]
    fn unpaired_surrogates_are_characters_of_their_own_and_shown_as_escapes() {
        for (text, chars) in [
            (r#""cut \ud83d""#, "cut \u{10d83d}"),
            (r#""\udc00\ud800 \uDBFF""#, "\u{10dc00}\u{10d800} \u{10dbff}"),
            (r#""\ud83d\ude00\udfff""#, "\u{1f600}\u{10dfff}"),
        ] {
            assert_eq!(nearest_value(text).unwrap(), json!(chars), "{text}");
        }
        let names = nearest_value(r#"{"\ud800":1,"\ud801":2}"#).unwrap();
        assert_eq!(names.as_object().unwrap().len(), 2);
        assert_eq!(with_escapes("cut \u{10d83d}, é \u{10d7ff}"), "cut \\ud83d, é \u{10d7ff}");
        assert!(matches!(with_escapes("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_name_is_text_or_none_that_anybody_knows() {
        for (written, name) in [
            (r#""a""#, Some("a")),
            (r#""\u0061\n""#, Some("a\n")),
            (r#""""#, Some("")),
            (r#""\ud800""#, None),
        ] {
            let read: Name<'_> = serde_json::from_str(written).unwrap();
            assert_eq!(read.0.as_deref(), name, "{written}");
        }
        let named: std::collections::HashMap<Name<'_>, u8> =
            serde_json::from_str(r#"{"\ud800":1, "a" : 2}"#).unwrap();
        assert_eq!(named[&Name(Some("a".into()))], 2);
    }

    #[test]
    fn what_is_not_json_stays_an_error() {
        for text in ["", "{", "[1,]", "\"\n\"", "1e", r#""\ud8""#, "{} {}"] {
            assert!(nearest_value(text).is_err(), "{text:?}");
        }
        assert!(nearest_value(&("[".repeat(200) + &"]".repeat(200))).is_err());
    }

    #[test]
    fn brackets_in_strings_are_no_nesting() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(!is_too_deep(&nested(MAX_DEPTH)));
        assert!(is_too_deep(&nested(MAX_DEPTH + 1)));
        assert!(!is_too_deep(&format!("[{},[]]", nested(MAX_DEPTH - 1))));
        assert!(!is_too_deep(&format!("[\"\\\"{}\"]", "[".repeat(500))));
        assert!(!is_too_deep(&format!("[{}]", ["{}"; 500].join(","))));
    }
}
