//! A short digest of a JSON value, by which equal job data is recognized however it is written.
//!
//! The caller decides what different data under one name means.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::json::Node;

/// 128 bits of a SHA-256 over the canonical form of a JSON value.
///
/// Two texts have the same fingerprint if they are the same JSON value, whatever the order of
/// keys, the white space, the escapes in strings and the form of numbers. Numbers are compared as
/// decimals of any length (`1`, `1.0` and `10e-1` are one, `-0` is `0`).
///
/// Where JSON is ambiguous, different data never counts as equal: of a repeated key both values
/// count, in their order; an unpaired surrogate is a character of its own; an exponent beyond 64
/// bits is compared as written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The fingerprint of the JSON value `text`.
    ///
    /// # Errors
    /// If `text` is not one JSON value, or is nested more deeply than a request may be.
    pub fn of_json(text: &str) -> Result<Self, serde_json::Error> {
        Ok(Self::of_node(Node::read(text)?))
    }

    /// The fingerprint of a part of a JSON value.
    pub(super) fn of_node(node: Node<'_>) -> Self {
        let mut hash = Sha256::new();
        node.feed(&mut hash);
        let full = hash.finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&full[..16]);
        Self(short)
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

impl Node<'_> {
    /// Hashes the canonical form: each value begins with a tag of its type and has an explicit
    /// end, so that no two values have the same form.
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
                // A stable sort: the values of a repeated key keep their order.
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

/// Hashes a number as its sign, its digits without zeros at either end, and a power of ten.
fn feed_number(number: &[u8], hash: &mut Sha256) {
    let (number, negative) = without_sign(number);
    let (mantissa, exponent) = split(number, b"eE");
    let (whole, fraction) = split(mantissa, b".");
    let mut whole = trim_start_zeros(whole);
    let mut fraction = trim_end_zeros(fraction);
    let mut shift = -(fraction.len() as i64);
    if fraction.is_empty() {
        let significant = trim_end_zeros(whole);
        shift = (whole.len() - significant.len()) as i64;
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
    feed_power(exponent, shift, hash);
}

/// Hashes the power of ten `exponent + shift`.
fn feed_power(exponent: &[u8], shift: i64, hash: &mut Sha256) {
    let (digits, negative) = without_sign(exponent);
    let digits = trim_start_zeros(digits);
    let exponent = digits.iter().try_fold(0_i64, |power, digit| {
        power.checked_mul(10)?.checked_add(i64::from(digit - b'0'))
    });
    let exponent = exponent.map(|power| if negative { -power } else { power });
    if let Some(power) = exponent.and_then(|power| power.checked_add(shift)) {
        hash.update(b"e");
        hash.update(power.to_be_bytes());
    } else {
        hash.update(if negative { b"L" } else { b"H" });
        hash.update(shift.to_be_bytes());
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

/// The text before and after the first of `separators`.
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

#[cfg(test)]
mod tests;
