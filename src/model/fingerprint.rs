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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::arbitrary::{damaged, rngs, values};

    fn fingerprint(text: &str) -> Fingerprint {
        Fingerprint::of_json(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn check(texts: &[&str], same: bool) {
        for (index, left) in texts.iter().enumerate() {
            for right in &texts[index + 1..] {
                assert_eq!(fingerprint(left) == fingerprint(right), same, "{left} and {right}");
            }
        }
    }

    #[test]
    fn one_value_has_one_fingerprint_however_it_is_written() {
        check(&["1", "1.0", "1e0", "10e-1", "0.1E+1", "100.00e-2", "1e00", "1e-0"], true);
        check(&["0", "-0", "0.0", "-0e9", "0E-99999999999999999999999"], true);
        check(&["1200", "1.2e3", "12e2", "0.0012e6", "1200.000"], true);
        check(&["0.001", "1e-3", "10e-4", "0.1e-000000000000000000000000002"], true);
        check(&["-12.50", "-125e-1", "-1.25e1"], true);
        check(&["123456789012345678901234567890", "12345678901234567890123456789e1"], true);
        check(&["1e99999999999999999999", "1.0E+099999999999999999999"], true);
        check(&[r#""a/\"\\""#, r#""\u0061\/\u0022\u005C""#], true);
        check(&[r#""\n\t\b\f\r""#, r#""\u000a\u0009\u0008\u000C\u000d""#], true);
        check(&[r#""é😀""#, r#""\u00e9\ud83d\ude00""#, r#""\u00E9\uD83D\uDE00""#], true);
        check(
            &[r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true ,\n null ] , \"\\u0061\": 1.0 }"],
            true,
        );
    }

    #[test]
    fn different_values_have_different_fingerprints() {
        check(&["1", "-1", "10", "0.1", "11", "1.01", "101", "0", r#""1""#, "[1]", "true"], false);
        check(&["9007199254740993", "9007199254740992", "9007199254740992.5"], false);
        check(&["0.1", "0.10000000000000000001", "1e400", "1e401", "-1e400", "1e-400"], false);
        check(&["1e99999999999999999999", "1e99999999999999999998"], false);
        check(
            &["1e99999999999999999999", "1e-99999999999999999999", "2e99999999999999999999"],
            false,
        );
        check(&["null", "true", "false", "{}", "[]", r#""""#, r#""null""#, "[null]"], false);
        check(&["[1,2]", "[2,1]", "[[1],2]", "[1,[2]]", "[1,2,[]]", "[[1,2]]", "[12]"], false);
        check(&[r#"["a","b"]"#, r#"["ab"]"#, r#"["","ab"]"#, r#"["a\",\"b"]"#], false);
        check(&[r#"{"a":"b"}"#, r#"{"b":"a"}"#, r#"["a","b"]"#, r#"{"a":{"b":1}}"#], false);
        check(&[r#"{"a":{},"b":1}"#, r#"{"a":{"b":1}}"#, r#"{"a":null}"#, "{}"], false);
        check(
            &[r#""\ud800""#, r#""\ud801""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ufffd""#],
            false,
        );
        check(&[r#""\ud83d\ude00""#, r#""\ude00\ud83d""#, r#""\ud83d""#, r#""\ud83dx""#], false);
    }

    #[test]
    fn of_a_key_given_twice_both_values_count_in_their_order() {
        check(&[r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#, r#"{"a":1}"#, r#"{"a":2}"#], false);
        check(&[r#"{"a":1,"b":0,"a":2}"#, r#"{"b":0,"\u0061":1,"a":2}"#], true);
    }

    #[test]
    fn what_is_not_json_or_too_deep_is_an_error() {
        for bad in ["", "{", "01", "1.", "nul", "{} {}", r#""\x""#, "\"\n\"", r#""\ud8""#, "+1"] {
            assert!(Fingerprint::of_json(bad).is_err(), "{bad}");
        }
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Fingerprint::of_json(&nested(MAX_DEPTH)).is_ok());
        for depth in [MAX_DEPTH + 1, 100_000] {
            let error = Fingerprint::of_json(&nested(depth)).unwrap_err();
            assert!(error.to_string().contains("levels deep"), "{error}");
        }
    }

    #[test]
    fn it_survives_being_a_row() {
        let fingerprint = fingerprint("{}");
        assert_eq!(Fingerprint::from_bytes(fingerprint.into_bytes()), fingerprint);
    }

    #[test]
    fn it_never_changes_because_databases_hold_it() {
        let pinned = fingerprint(r#"{"b":[1.50,"x",null,true],"a":{}}"#);
        assert_eq!(format!("{pinned:?}"), "8dff8da4-7241-a6f6-2eb6-699c46c8a835");
        let pinned = fingerprint(
            r#"["\ud83d\ude00\ud9ab\u00e9\n",-0.5e-7,12300,1e99999999999999999999,-2E-99999999999999999999]"#,
        );
        assert_eq!(format!("{pinned:?}"), "b9fe2d30-c838-1eab-b2db-86d6df2b4520");
    }

    proptest! {
        #[test]
        fn the_way_a_value_is_written_does_not_count(value in values(), mut rng in rngs()) {
            let (left, right) = (value.written(&mut rng), value.written(&mut rng));
            prop_assert_eq!(fingerprint(&left), fingerprint(&right), "{} and {}", left, right);
        }

        #[test]
        fn the_smallest_change_of_a_value_counts(value in values(), mut rng in rngs()) {
            let other = value.changed(&mut rng);
            let (left, right) = (value.written(&mut rng), other.written(&mut rng));
            let same = value.sorted() == other.sorted();
            prop_assert_eq!(fingerprint(&left) == fingerprint(&right), same, "{} and {}", left, right);
        }

        #[test]
        fn values_that_differ_differ(left in values(), right in values(), mut rng in rngs()) {
            let same = left.sorted() == right.sorted();
            let (left, right) = (left.written(&mut rng), right.written(&mut rng));
            prop_assert_eq!(fingerprint(&left) == fingerprint(&right), same, "{} and {}", left, right);
        }

        #[test]
        fn any_text_gives_a_fingerprint_or_an_error(text in r#"[\[\]{}",:\\u0-9a-fe.+\- ]{0,40}"#) {
            let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            prop_assert_eq!(Fingerprint::of_json(&text).is_ok(), is_json);
        }

        #[test]
        fn json_that_was_damaged_gives_a_fingerprint_or_an_error(
            value in values(),
            mut rng in rngs(),
        ) {
            let text = damaged(&value.written(&mut rng), &mut rng);
            let text = String::from_utf8_lossy(&text);
            let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            prop_assert_eq!(Fingerprint::of_json(&text).is_ok(), is_json);
        }
    }
}
