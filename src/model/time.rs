//! The forms in which a request may write a time, and the one moment that each means.
//!
//! A form is judged without knowing any time zone; only [`ScheduledTime::resolve_ms`]
//! needs one. What is too late or too early for a job is not decided here.

mod text;
mod zone;

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use chrono::{
    DateTime, Datelike, NaiveDate, NaiveDateTime, SecondsFormat, TimeZone, Timelike, Utc,
};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use text::parse;

/// What a producer can do about a time that was refused.
const ACCEPTED: &str = "send RFC 3339 (\"2025-11-03T22:00:00+06:00\"), a local date-time \
    (\"2025-11-03T22:00:00\") or an integer of epoch milliseconds (1762185600000)";

/// As much of a producer's value as a message repeats.
const SHOWN_CHARS: usize = 80;

/// As much as a message repeats of what a parser says, which may repeat the value in turn.
const REASON_CHARS: usize = 160;

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// The years that a time may be in: those that RFC 3339 can write.
const YEARS: RangeInclusive<i64> = 0..=9999;

/// The epoch milliseconds of those years, in UTC.
pub(super) const EPOCH_MS: RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// A time as a request wrote it: an instant, or what a clock on some wall shows.
///
/// A leap second (`:60`) is refused, because the system's time has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScheduledTime {
    /// Written with an offset, or as epoch milliseconds.
    Instant(DateTime<Utc>),
    /// Written without an offset: read in the configured time zone.
    Local(NaiveDateTime),
}

/// Why a value is not a time: shows the value and names the forms that are accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not a time: {reason}; {ACCEPTED}")]
pub struct InvalidTime {
    value: String,
    reason: Reason,
}

type Reason = Cow<'static, str>;

impl ScheduledTime {
    /// The instant `ms` milliseconds after the epoch; `None` outside the years 0 to 9999.
    pub fn from_epoch_ms(ms: i64) -> Option<Self> {
        let instant = DateTime::from_timestamp_millis(ms).filter(|_| EPOCH_MS.contains(&ms));
        instant.map(Self::Instant)
    }

    /// Reads one JSON value in any of the accepted forms.
    ///
    /// # Errors
    /// [`InvalidTime`] shows the value as it is written in `json`.
    pub fn from_json(json: &str) -> Result<Self, InvalidTime> {
        serde_json::from_str::<Written<'_>>(json)
            .map_err(|error| Reason::Owned(without_position(&error)))
            .and_then(Written::meaning)
            .map_err(|reason| InvalidTime { value: shortened(json), reason })
    }

    /// The epoch millisecond that this means in `zone`, rounded up so that nothing is early.
    ///
    /// A local time that is skipped when clocks go forward means the first instant after
    /// the gap, one that is shown twice the earlier. `None` outside the years 0 to 9999 in UTC.
    pub fn resolve_ms(&self, zone: &jiff::tz::TimeZone) -> Option<i64> {
        let instant = match self {
            Self::Instant(instant) => *instant,
            Self::Local(local) => zone::instant_of(*local, zone)?,
        };
        let begun = instant.timestamp_subsec_nanos() % 1_000_000 != 0;
        let ms = instant.timestamp_millis() + i64::from(begun);
        EPOCH_MS.contains(&ms).then_some(ms)
    }

    /// Whether its year, as it is written, is one of 0 to 9999.
    pub(super) fn is_in_calendar(&self) -> bool {
        YEARS.contains(&self.year().into())
    }

    fn year(&self) -> i32 {
        match self {
            Self::Instant(instant) => instant.year(),
            Self::Local(local) => local.year(),
        }
    }
}

impl<Z: TimeZone> From<DateTime<Z>> for ScheduledTime {
    fn from(instant: DateTime<Z>) -> Self {
        Self::Instant(instant.to_utc())
    }
}

impl From<NaiveDateTime> for ScheduledTime {
    fn from(local: NaiveDateTime) -> Self {
        Self::Local(local)
    }
}

impl FromStr for ScheduledTime {
    type Err = InvalidTime;

    /// Reads the forms that are text: RFC 3339 and the bare local date-time.
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        parse(text).map_err(|reason| InvalidTime { value: shortened(&format!("{text:?}")), reason })
    }
}

impl TryFrom<&str> for ScheduledTime {
    type Error = InvalidTime;

    fn try_from(text: &str) -> Result<Self, InvalidTime> {
        text.parse()
    }
}

impl From<Infallible> for InvalidTime {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for ScheduledTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instant(instant) => {
                f.write_str(&instant.to_rfc3339_opts(SecondsFormat::AutoSi, true))
            }
            Self::Local(local) => write!(f, "{local:?}"),
        }
    }
}

impl Serialize for ScheduledTime {
    /// Writes RFC 3339 with `Z`, or the bare local form. Neither has room for a year outside
    /// 0 to 9999, which no request may have: such a time is written as epoch milliseconds, or
    /// as the array of a local time, so that its refusal can show it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.without_leap_second() {
            time if time.is_in_calendar() => serializer.collect_str(&time),
            Self::Instant(instant) => serializer.serialize_i64(instant.timestamp_millis()),
            Self::Local(local) => calendar(local).serialize(serializer),
        }
    }
}

impl ScheduledTime {
    /// The same moment, written in a way that [`parse`] accepts.
    fn without_leap_second(self) -> Self {
        let carried = |utc: DateTime<Utc>| {
            let nanos = utc.timestamp_subsec_nanos();
            let seconds = utc.timestamp() + i64::from(nanos / NANOS_PER_SECOND);
            DateTime::from_timestamp(seconds, nanos % NANOS_PER_SECOND).unwrap_or(utc)
        };
        match self {
            Self::Instant(instant) => Self::Instant(carried(instant)),
            Self::Local(local) => Self::Local(carried(local.and_utc()).naive_utc()),
        }
    }
}

impl<'de> Deserialize<'de> for ScheduledTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let value = written.to_string();
        written
            .meaning()
            .map_err(|reason| de::Error::custom(InvalidTime { value: shortened(&value), reason }))
    }
}

/// A value whose form is an accepted one, but which may still be nonsense.
enum Written<'a> {
    Text(Cow<'a, str>),
    EpochMs(i64),
    Calendar(Calendar),
}

/// Year, month, day, hour, minute, second, nanosecond.
type Calendar = [i64; 7];

impl Written<'_> {
    fn meaning(self) -> Result<ScheduledTime, Reason> {
        match self {
            Self::Text(text) => parse(&text),
            Self::EpochMs(ms) => ScheduledTime::from_epoch_ms(ms)
                .ok_or(Reason::Borrowed("these milliseconds are outside the years 0 to 9999")),
            Self::Calendar(parts) => local(parts).map(ScheduledTime::Local),
        }
    }
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::EpochMs(ms) => ms.fmt(f),
            Self::Calendar(parts) => write!(f, "{parts:?}"),
        }
    }
}

impl<'de> Deserialize<'de> for Written<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Written::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Written::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E: de::Error>(self, ms: i64) -> Result<Self::Value, E> {
        Ok(Written::EpochMs(ms))
    }

    fn visit_u64<E: de::Error>(self, ms: u64) -> Result<Self::Value, E> {
        // Every integer beyond i64 is outside those years too, and is refused as such.
        Ok(Written::EpochMs(i64::try_from(ms).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(E::custom("a number must be a whole number of milliseconds"))
    }

    /// What Jackson makes of a `LocalDateTime`: it leaves out seconds and nanoseconds of zero.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut parts = Calendar::default();
        let mut count = 0;
        while let Some(part) = seq.next_element()? {
            if count < parts.len() {
                parts[count] = part;
            }
            count += 1;
        }
        if (5..=parts.len()).contains(&count) {
            Ok(Written::Calendar(parts))
        } else {
            Err(de::Error::custom("an array must be of 5 to 7 numbers"))
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let GsonDateTime { date, time } =
            GsonDateTime::deserialize(MapAccessDeserializer::new(map))?;
        let GsonDate { year, month, day } = date;
        let GsonTime { hour, minute, second, nano } = time;
        Ok(Written::Calendar([year, month, day, hour, minute, second, nano]))
    }
}

/// The private fields of a `LocalDateTime`, as Gson writes them by reflection. An unknown
/// field is refused: an offset beside them must not be overlooked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GsonDateTime {
    date: GsonDate,
    time: GsonTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GsonDate {
    year: i64,
    month: i64,
    day: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GsonTime {
    hour: i64,
    minute: i64,
    #[serde(default)]
    second: i64,
    #[serde(default)]
    nano: i64,
}

fn calendar(local: NaiveDateTime) -> Calendar {
    [
        local.year().into(),
        local.month().into(),
        local.day().into(),
        local.hour().into(),
        local.minute().into(),
        local.second().into(),
        local.nanosecond().into(),
    ]
}

fn local(
    [year, month, day, hour, minute, second, nano]: Calendar,
) -> Result<NaiveDateTime, Reason> {
    let year = i32::try_from(year)
        .ok()
        .filter(|_| YEARS.contains(&year))
        .ok_or_else(|| format!("the year is {year}, it must be 0 to 9999"))?;
    let month = part("month", month, 1..=12)?;
    let day = part("day", day, 1..=31)?;
    let hour = part("hour", hour, 0..=23)?;
    let minute = part("minute", minute, 0..=59)?;
    if second == 60 {
        return Err("leap seconds are not kept, send the next minute's second 0".into());
    }
    let second = part("second", second, 0..=59)?;
    let nano = part("nanosecond", nano, 0..=i64::from(NANOS_PER_SECOND - 1))?;
    let date = NaiveDate::from_ymd_opt(year, month, day)
        .ok_or_else(|| format!("there is no day {day} in month {month} of year {year}"))?;
    date.and_hms_nano_opt(hour, minute, second, nano).ok_or("there is no such time of day".into())
}

fn part(name: &str, value: i64, range: RangeInclusive<i64>) -> Result<u32, Reason> {
    match u32::try_from(value) {
        Ok(part) if range.contains(&value) => Ok(part),
        _ => {
            let (least, most) = range.into_inner();
            Err(format!("the {name} is {value}, it must be {least} to {most}").into())
        }
    }
}

/// `text` cut to what a message may repeat, on one line.
pub(super) fn shortened(text: &str) -> String {
    cut(text, SHOWN_CHARS)
}

fn cut(text: &str, shown: usize) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = chars.by_ref().take(shown).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

/// What `error` says, without the line and column within a single value.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    cut(text.strip_suffix(&position).unwrap_or(&text), REASON_CHARS)
}

#[cfg(test)]
mod tests;
