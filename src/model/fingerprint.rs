//! A short digest of a JSON value: by it the same job data is known again, however written.
//!
//! What is done about different data under one name is decided by whoever compares.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, IgnoredAny};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::request::{MAX_DEPTH, is_too_deep};

/// 128 bits of a SHA-256 over the canonical form of a JSON value.
///
/// Two texts have one fingerprint when they are the same JSON value, whatever the order of
/// keys, the white space, the escapes in strings and the form of numbers, which are compared
/// as decimals of any length (`1`, `1.0` and `10e-1` are one, `-0` is `0`).
///
/// What JSON leaves open is taken so that different data is never held to be the same: of a
/// key given twice both values count, in their order; an escaped half of a surrogate pair
/// is a character of its own; an exponent beyond 64 bits is compared as written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The fingerprint of the JSON value `text`.
    ///
    /// # Errors
    /// If `text` is not one JSON value, or is nested more deeply than a request may be.
    pub fn of_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<IgnoredAny>(text)?;
        if is_too_deep(text) {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(serde_json::Error::custom(message));
        }
        let mut hash = Sha256::new();
        Parser(text.as_bytes()).value().feed(&mut hash);
        let full = hash.finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&full[..16]);
        Ok(Self(short))
    }

    /// The fingerprint with these 16 bytes, as a database row holds them.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    pub fn into_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).fmt(f)
    }
}

/// A JSON value with its strings decoded and its numbers as they are written.
enum Node<'a> {
    /// `null`, `true` or `false`, by its first letter.
    Word(u8),
    Number(&'a [u8]),
    Text(Cow<'a, [u8]>),
    Array(Vec<Node<'a>>),
    Object(Vec<(Cow<'a, [u8]>, Node<'a>)>),
}

impl Node<'_> {
    /// Feeds the canonical form: each value begins with its own tag and says where it ends,
    /// so that no two values have one form.
    fn feed(mut self, hash: &mut Sha256) {
        match &mut self {
            Self::Word(letter) => hash.update([*letter]),
            Self::Number(number) => feed_number(number, hash),
            Self::Text(text) => feed_text(text, hash),
            Self::Array(items) => {
                hash.update(b"[");
                for item in items.drain(..) {
                    item.feed(hash);
                }
                hash.update(b"]");
            }
            Self::Object(members) => {
                // A stable sort: the values of a key given twice stay in their order.
                members.sort_by(|(left, _), (right, _)| left.cmp(right));
                hash.update(b"{");
                for (key, value) in members.drain(..) {
                    feed_text(&key, hash);
                    value.feed(hash);
                }
                hash.update(b"}");
            }
        }
    }
}

fn feed_text(text: &[u8], hash: &mut Sha256) {
    hash.update(b"\"");
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

/// Feeds a number as its sign, its digits without zeros at either end, and a power of ten.
fn feed_number(number: &[u8], hash: &mut Sha256) {
    let (number, negative) = without_sign(number);
    let (mantissa, exponent) = split(number, b"eE");
    let (whole, fraction) = split(mantissa, b".");
    let mut whole = trim_start_zeros(whole);
    let mut fraction = trim_end_zeros(fraction);
    let mut moved = -(fraction.len() as i64);
    if fraction.is_empty() {
        let significant = trim_end_zeros(whole);
        moved = (whole.len() - significant.len()) as i64;
        whole = significant;
    } else if whole.is_empty() {
        fraction = trim_start_zeros(fraction);
    }
    if whole.is_empty() && fraction.is_empty() {
        return hash.update(b"0");
    }
    hash.update(if negative { b"-" } else { b"+" });
    hash.update(whole);
    hash.update(fraction);
    feed_power(exponent, moved, hash);
}

/// Feeds the power of ten `exponent + moved`.
fn feed_power(exponent: &[u8], moved: i64, hash: &mut Sha256) {
    let (digits, negative) = without_sign(exponent);
    let digits = trim_start_zeros(digits);
    let exponent = digits.iter().try_fold(0_i64, |power, digit| {
        power.checked_mul(10)?.checked_add(i64::from(digit - b'0'))
    });
    let exponent = exponent.map(|power| if negative { -power } else { power });
    if let Some(power) = exponent.and_then(|power| power.checked_add(moved)) {
        hash.update(b"e");
        hash.update(power.to_be_bytes());
    } else {
        hash.update(if negative { b"L" } else { b"H" });
        hash.update(moved.to_be_bytes());
        feed_text(digits, hash);
    }
}

fn without_sign(number: &[u8]) -> (&[u8], bool) {
    match number {
        [b'-', rest @ ..] => (rest, true),
        [b'+', rest @ ..] => (rest, false),
        _ => (number, false),
    }
}

/// What stands before and after the first of `separators`.
fn split<'a>(text: &'a [u8], separators: &[u8]) -> (&'a [u8], &'a [u8]) {
    match text.iter().position(|byte| separators.contains(byte)) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[]),
    }
}

fn trim_start_zeros(mut digits: &[u8]) -> &[u8] {
    while let [b'0', rest @ ..] = digits {
        digits = rest;
    }
    digits
}

fn trim_end_zeros(mut digits: &[u8]) -> &[u8] {
    while let [rest @ .., b'0'] = digits {
        digits = rest;
    }
    digits
}

/// Reads text that is known to be JSON; its rest.
///
/// `serde_json` cannot do this: it turns numbers into `f64` and refuses an escaped half of
/// a surrogate pair, both of which job data may contain.
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

    /// What stands between two brackets, each item read by `item`.
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

    /// The next byte that means something: all that stands between two values is skipped.
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
mod tests;
