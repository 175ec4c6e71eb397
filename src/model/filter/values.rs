//! The forms of a filter's values. A problem is the rest of a sentence that begins with the name.

use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{DataCondition, ListState, TopicPartition};
use crate::model::app::AppName;
use crate::model::ids::Partition;
use crate::model::job::Priority;
use crate::model::letter::ErrorKind;
use crate::model::suggest::nearest;
use crate::model::time::ScheduledTime;

/// Characters of an idempotency key at most.
const MAX_KEY_CHARS: usize = 255;
/// Conditions on the data at most.
const MAX_CONDITIONS: usize = 16;

pub(super) fn app(text: &str) -> Result<String, String> {
    match AppName::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("is {}, it must be 1 to 64 of a-z, 0-9, _ and -", quoted(text))),
    }
}

pub(super) fn state(text: &str) -> Result<ListState, String> {
    let known = ListState::ALL;
    if let Some(state) = known.into_iter().find(|state| state.as_str() == text) {
        return Ok(state);
    }
    let names = known.map(ListState::as_str);
    Err(none_of(text, &names))
}

pub(super) fn error_kind(text: &str) -> Result<ErrorKind, String> {
    let known = ErrorKind::ALL.into_iter().find(|kind| kind.as_str() == text);
    known.ok_or_else(|| none_of(text, &ErrorKind::ALL.map(ErrorKind::as_str)))
}

pub(super) fn priority(text: &str) -> Result<Priority, String> {
    let names = Priority::ALL.map(Priority::as_str);
    text.parse().map_err(|()| none_of(text, &names))
}

pub(super) fn key(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_KEY_CHARS || text.contains(|c: char| c.is_ascii_control()) {
        let rule = format!("1 to {MAX_KEY_CHARS} characters without control characters");
        return Err(format!("is {}, it must be {rule}", quoted(text)));
    }
    Ok(text.to_owned())
}

pub(super) fn partition(text: &str) -> Result<TopicPartition, String> {
    let parts = text.rsplit_once('/').and_then(|(topic, number)| {
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| digits && !topic.is_empty())?;
        Some(TopicPartition { topic: topic.to_owned(), partition: Partition(number) })
    });
    parts.ok_or_else(|| {
        format!(
            "is {}, it must be a topic and a partition, as in scheduler.jobs.ingest/3",
            quoted(text)
        )
    })
}

/// The epoch millisecond of a time. One without an offset is read in `zone`.
pub(super) fn instant_ms(text: &str, zone: Option<&TimeZone>) -> Result<i64, String> {
    const EXAMPLE: &str = "give RFC 3339 with an offset, as in 2030-01-01T08:00:00Z";
    let time = match text.parse::<ScheduledTime>() {
        Ok(time) => time,
        Err(_) if has_lost_plus(text) => {
            let shown = quoted(text);
            return Err(format!(
                "is {shown}, with a blank where the + of an offset was: write %2B"
            ));
        }
        Err(error) => return Err(format!("{error}; {EXAMPLE}")),
    };
    let zone = match (time, zone) {
        (ScheduledTime::Instant(_), _) => &TimeZone::UTC,
        (ScheduledTime::Local(_), Some(zone)) => zone,
        (ScheduledTime::Local(_), None) => {
            return Err(format!("is {text}, without an offset: {EXAMPLE}"));
        }
    };
    time.resolve_ms(zone).ok_or_else(|| format!("is {text}, outside the years 0 to 9999 in UTC"))
}

/// `2030-01-01T08:00:00 02:00` was `+02:00` before a query string was decoded.
fn has_lost_plus(text: &str) -> bool {
    text.rsplit_once(' ')
        .is_some_and(|(time, offset)| format!("{time}+{offset}").parse::<ScheduledTime>().is_ok())
}

pub(super) fn data_conditions(text: &str) -> Result<Vec<DataCondition>, String> {
    const FORM: &str = r#"give a JSON array such as [{"pointer":"/a","equals":1}]"#;
    let written: Vec<Written<'_>> =
        serde_json::from_str(text).map_err(|error| format!("cannot be read ({error}): {FORM}"))?;
    if written.is_empty() {
        return Err(format!("has no condition: leave it out, or {FORM}"));
    }
    if written.len() > MAX_CONDITIONS {
        return Err(format!("has {} conditions, at most {MAX_CONDITIONS}", written.len()));
    }
    written.iter().map(|one| DataCondition::read(&one.pointer, one.equals.get())).collect()
}

/// One condition. `equals` may be null, but not absent.
struct Written<'a> {
    pointer: String,
    equals: &'a RawValue,
}

impl<'de: 'a, 'a> Deserialize<'de> for Written<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with pointer and equals")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written<'de>, A::Error> {
        let (mut pointer, mut equals) = (None, None);
        while let Some(name) = map.next_key::<String>()? {
            let is_repeated = match name.as_str() {
                "pointer" => pointer.replace(map.next_value::<String>()?).is_some(),
                "equals" => equals.replace(map.next_value::<&RawValue>()?).is_some(),
                other => {
                    let known = ["pointer", "equals"];
                    let guess = nearest(other, known).unwrap_or_default();
                    let message = format!("{} is not known, did you mean {guess}?", quoted(other));
                    return Err(A::Error::custom(message));
                }
            };
            if is_repeated {
                return Err(A::Error::custom(format!("{name} is given twice")));
            }
        }
        let missing = |name| A::Error::custom(format!("{name} is missing"));
        Ok(Written {
            pointer: pointer.ok_or_else(|| missing("pointer"))?,
            equals: equals.ok_or_else(|| missing("equals"))?,
        })
    }
}

fn none_of(text: &str, names: &[&'static str]) -> String {
    let guess = nearest(text, names.iter().copied()).unwrap_or_default();
    let shown = quoted(text);
    format!("is {shown}, which is none of {}: did you mean {guess}?", names.join(", "))
}

fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(100).collect();
    format!("{shown:?}")
}

/// Epoch milliseconds for a sentence.
pub(super) fn shown(ms: i64) -> String {
    ScheduledTime::from_epoch_ms(ms).map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}
