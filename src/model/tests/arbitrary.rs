//! Any JSON value, and every way in which JSON lets it be written: what tests feed to those
//! who must read whatever comes.

use std::fmt::Write as _;

use fastrand::Rng;
use proptest::prelude::*;

/// A JSON value, as JSON means it: numbers are decimals of any size, and strings are UTF-16
/// code units, which may be halves of surrogate pairs.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::model) enum Json {
    Word(&'static str),
    /// `digits` times ten to the `power`; no zeros at either end, and no digits for zero.
    Number {
        negative: bool,
        digits: String,
        power: i64,
    },
    Text(Vec<u16>),
    Array(Vec<Json>),
    /// Members in their order; a key may be there several times.
    Object(Vec<(Vec<u16>, Json)>),
}

const WORDS: [&str; 3] = ["null", "true", "false"];

impl Json {
    /// The value of `text`'s characters.
    pub(in crate::model) fn text(text: &str) -> Self {
        Self::Text(text.encode_utf16().collect())
    }

    fn number(negative: bool, digits: &str, power: i64) -> Self {
        let significant = digits.trim_start_matches('0');
        let digits = significant.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self::Number { negative: false, digits, power: 0 };
        }
        let power = power + (significant.len() - digits.len()) as i64;
        Self::Number { negative, digits, power }
    }

    /// The same value with the members of each object in one order; those of one key stay
    /// in theirs, for they are not the same value otherwise.
    pub(in crate::model) fn sorted(&self) -> Self {
        match self {
            Self::Array(items) => Self::Array(items.iter().map(Self::sorted).collect()),
            Self::Object(members) => {
                let mut members: Vec<_> =
                    members.iter().map(|(key, value)| (key.clone(), value.sorted())).collect();
                members.sort_by(|(left, _), (right, _)| left.cmp(right));
                Self::Object(members)
            }
            plain => plain.clone(),
        }
    }

    /// One of the texts that mean this value.
    pub(in crate::model) fn written(&self, rng: &mut Rng) -> String {
        let mut out = String::new();
        self.write(&mut out, rng);
        out
    }

    fn write(&self, out: &mut String, rng: &mut Rng) {
        match self {
            Self::Word(word) => out.push_str(word),
            Self::Number { negative, digits, power } => {
                write_number(*negative, digits, *power, out, rng);
            }
            Self::Text(units) => write_text(units, out, rng),
            Self::Array(items) => {
                write_list(['[', ']'], items, out, rng, Self::write);
            }
            Self::Object(members) => {
                let members: Vec<_> = shuffled(members, rng);
                write_list(['{', '}'], &members, out, rng, |(key, value), out, rng| {
                    write_text(key, out, rng);
                    write_space(out, rng);
                    out.push(':');
                    write_space(out, rng);
                    value.write(out, rng);
                });
            }
        }
    }

    /// A value that differs in one place, or once in a while not at all.
    pub(in crate::model) fn changed(&self, rng: &mut Rng) -> Self {
        let mut changed = self.clone();
        changed.change(rng);
        changed
    }

    fn change(&mut self, rng: &mut Rng) {
        match self {
            Self::Array(items) if !items.is_empty() && rng.u8(..) < 200 => {
                let nth = rng.usize(..items.len());
                items[nth].change(rng);
            }
            Self::Object(members) if !members.is_empty() && rng.u8(..) < 200 => {
                let nth = rng.usize(..members.len());
                match rng.u8(..8) {
                    0 => change_text(&mut members[nth].0, rng),
                    _ => members[nth].1.change(rng),
                }
            }
            Self::Array(items) => change_list(items, Self::Word("null"), rng),
            Self::Object(members) => {
                change_list(members, (vec![97], Self::Word("null")), rng);
            }
            Self::Text(units) if rng.u8(..) < 200 => change_text(units, rng),
            Self::Number { negative, digits, power } if rng.u8(..) < 200 => {
                *self = match rng.u8(..4) {
                    0 => Self::number(!*negative, digits, *power),
                    1 => Self::number(*negative, digits, *power + 1),
                    2 => Self::number(*negative, &format!("{digits}1"), *power),
                    _ => Self::number(*negative, &format!("{digits}1"), *power - 1),
                };
            }
            _ => {
                *self = match rng.u8(..6) {
                    0 => Self::text(""),
                    1 => Self::number(false, "1", 0),
                    2 => Self::Array(vec![self.clone()]),
                    _ => Self::Word(WORDS[rng.usize(..WORDS.len())]),
                };
            }
        }
    }
}

fn change_list<T>(items: &mut Vec<T>, new: T, rng: &mut Rng) {
    match rng.u8(..3) {
        0 => items.push(new),
        1 => _ = items.pop(),
        _ => items.reverse(),
    }
}

fn change_text(units: &mut Vec<u16>, rng: &mut Rng) {
    match rng.u8(..3) {
        0 => units.push(rng.u16(..)),
        1 => _ = units.pop(),
        _ => units.reverse(),
    }
}

/// The members in any order that keeps those of one key in theirs.
fn shuffled(members: &[(Vec<u16>, Json)], rng: &mut Rng) -> Vec<(Vec<u16>, Json)> {
    let mut left = members.to_vec();
    let mut shuffled = Vec::new();
    while !left.is_empty() {
        let key = left[rng.usize(..left.len())].0.clone();
        let first = left.iter().position(|(other, _)| *other == key).unwrap();
        shuffled.push(left.remove(first));
    }
    shuffled
}

fn write_space(out: &mut String, rng: &mut Rng) {
    if rng.u8(..4) == 0 {
        out.push_str([" ", "\t", "\n", "\r\n"][rng.usize(..4)]);
    }
}

fn write_list<T>(
    [open, close]: [char; 2],
    items: &[T],
    out: &mut String,
    rng: &mut Rng,
    write: impl Fn(&T, &mut String, &mut Rng),
) {
    out.push(open);
    write_space(out, rng);
    for (nth, item) in items.iter().enumerate() {
        if nth > 0 {
            out.push(',');
            write_space(out, rng);
        }
        write(item, out, rng);
        write_space(out, rng);
    }
    out.push(close);
}

fn write_number(negative: bool, digits: &str, power: i64, out: &mut String, rng: &mut Rng) {
    if negative || digits.is_empty() && rng.bool() {
        out.push('-');
    }
    let zeros = "0".repeat(rng.usize(..4));
    // Where the decimal point stands: before the digits, among them or after them.
    let exponent = match rng.u8(..4) {
        0 => {
            write!(out, "0.{zeros}{}", if digits.is_empty() { "0" } else { digits }).unwrap();
            power + (zeros.len() + digits.len()) as i64
        }
        1 if digits.len() > 1 => {
            let point = rng.usize(1..digits.len());
            write!(out, "{}.{}{zeros}", &digits[..point], &digits[point..]).unwrap();
            power + (digits.len() - point) as i64
        }
        2 if !digits.is_empty() => {
            write!(out, "{digits}{zeros}").unwrap();
            power - zeros.len() as i64
        }
        _ => {
            out.push_str(if digits.is_empty() { "0" } else { digits });
            power
        }
    };
    if exponent != 0 || rng.bool() {
        out.push(if rng.bool() { 'e' } else { 'E' });
        out.push_str(match exponent {
            ..0 => "-",
            _ if rng.bool() => "+",
            _ => "",
        });
        write!(out, "{}{}", "0".repeat(rng.usize(..3)), exponent.unsigned_abs()).unwrap();
    }
}

fn write_text(units: &[u16], out: &mut String, rng: &mut Rng) {
    out.push('"');
    for char in char::decode_utf16(units.iter().copied()) {
        match char {
            Ok(char @ ('"' | '\\' | '/')) if rng.bool() => out.extend(['\\', char]),
            Ok(char) if char >= ' ' && !matches!(char, '"' | '\\') && rng.u8(..8) > 0 => {
                out.push(char);
            }
            Ok('\n') if rng.bool() => out.push_str("\\n"),
            Ok('\r') if rng.bool() => out.push_str("\\r"),
            Ok('\t') if rng.bool() => out.push_str("\\t"),
            Ok('\u{8}') if rng.bool() => out.push_str("\\b"),
            Ok('\u{c}') if rng.bool() => out.push_str("\\f"),
            Ok(char) => {
                char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escape(*unit, out, rng));
            }
            Err(half) => escape(half.unpaired_surrogate(), out, rng),
        }
    }
    out.push('"');
}

fn escape(unit: u16, out: &mut String, rng: &mut Rng) {
    let hex = if rng.bool() { format!("{unit:04x}") } else { format!("{unit:04X}") };
    write!(out, "\\u{hex}").unwrap();
}

fn units() -> impl Strategy<Value = Vec<u16>> {
    let unit = prop_oneof![
        6 => 0x20..0x7f_u16,
        1 => 0..0x20_u16,
        1 => any::<u16>(),
        1 => 0xd7ff..0xe000_u16,
    ];
    let pair = (0xd800..0xdc00_u16, 0xdc00..0xe000_u16).prop_map(|(high, low)| vec![high, low]);
    let few =
        prop::collection::vec(prop_oneof![8 => unit.prop_map(|unit| vec![unit]), 1 => pair], 0..8);
    few.prop_map(|units| units.concat())
}

/// Few different ones, so that some are given twice.
fn keys() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![
        prop::sample::select(vec!["", "a", "b", "ab", "é", "jobData", "requestId"])
            .prop_map(|key| key.encode_utf16().collect()),
        units(),
    ]
}

fn scalars() -> impl Strategy<Value = Json> {
    let power = prop_oneof![8 => -30..30_i64, 1 => -(1 << 62)..(1_i64 << 62)];
    prop_oneof![
        prop::sample::select(&WORDS[..]).prop_map(Json::Word),
        (any::<bool>(), "[0-9]{0,3}|[0-9]{1,40}", power)
            .prop_map(|(negative, digits, power)| Json::number(negative, &digits, power)),
        units().prop_map(Json::Text),
    ]
}

fn objects_of(value: impl Strategy<Value = Json>) -> impl Strategy<Value = Json> {
    prop::collection::vec((keys(), value), 0..6).prop_map(Json::Object)
}

/// Any value.
pub(in crate::model) fn values() -> impl Strategy<Value = Json> {
    scalars().prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::Array),
            objects_of(inner),
        ]
    })
}

/// Any object.
pub(in crate::model) fn objects() -> impl Strategy<Value = Json> {
    objects_of(values())
}

/// Chooses among the ways to write or to change a value.
pub(in crate::model) fn rngs() -> impl Strategy<Value = Rng> {
    any::<u64>().prop_map(Rng::with_seed)
}

/// `text` with a few bytes taken out, put in or doubled.
pub(in crate::model) fn damaged(text: &str, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..=bytes.len());
        let end = rng.usize(at..=bytes.len().min(at + 12));
        match rng.u8(..5) {
            0 => _ = bytes.drain(at..end),
            1 => bytes.insert(at, rng.u8(..)),
            2 => bytes.insert(at, *rng.choice(b"{}[]\",:\\0123456789eE+-.TZ: ntf\0").unwrap()),
            3 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
            _ => bytes.truncate(end.max(1)),
        }
    }
    bytes
}
