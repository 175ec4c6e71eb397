//! Hides from the role `read` the parts of `jobData` that an app's mask names, and everything that
//! might contain them.
//!
//! A message may quote the data that it is about, so it is hidden together with the data. Also
//! hidden are a value that cannot be parsed, and all data of an app that this instance does not
//! have, since its mask is unknown here.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::shared::Shared;
use super::tokens::Caller;
use crate::config::{JsonPointer, Role};

/// The text that replaces a masked value.
const MASK: &str = "***";

/// The parts of an app's data that a caller may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View<'a> {
    /// All of it.
    Whole,
    /// All except these parts.
    Masked(&'a [JsonPointer]),
    /// Nothing.
    Withheld,
}

/// A document as a caller may see it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Seen<'a, T> {
    /// As it is, `jobData` byte for byte.
    Whole(&'a T),
    /// With its hidden parts replaced.
    Partly(Value),
}

impl<'a> View<'a> {
    /// The parts of the data of `app` that `caller` may see. This instance has the `known` apps.
    pub(super) fn of(
        shared: &'a Shared,
        caller: &Caller,
        known: &[String],
        app: Option<&str>,
    ) -> Self {
        if caller.role > Role::Read {
            return Self::Whole;
        }
        match app {
            Some(app) => match shared.masks.get(app) {
                Some(mask) if !mask.is_empty() => Self::Masked(mask),
                Some(_) => Self::Whole,
                None if known.iter().any(|known| known == app) => Self::Whole,
                None => Self::Withheld,
            },
            None => Self::Withheld,
        }
    }

    /// A dead letter as it may be seen.
    pub(super) fn letter(self, letter: Value) -> Value {
        let Value::Object(mut letter) = letter else { return letter };
        let mask = match self {
            Self::Whole => return letter.into(),
            Self::Withheld => return withheld(letter),
            Self::Masked(mask) => mask,
        };
        letter.insert("message".into(), Value::Null);
        for field in ["value", "correction"] {
            let Some(value) = letter.get_mut(field) else { continue };
            *value = match value {
                Value::String(text) => masked_request(text, mask),
                _ => Value::Null,
            };
        }
        letter.insert("withheld".into(), true.into());
        letter.into()
    }

    /// A job as it may be seen.
    ///
    /// # Errors
    /// 500 if it cannot be written as JSON.
    pub(super) fn job<T: Serialize>(self, job: &T) -> Result<Seen<'_, T>, Problem> {
        let mask = match self {
            Self::Whole => return Ok(Seen::Whole(job)),
            Self::Masked(mask) => Some(mask),
            Self::Withheld => None,
        };
        let mut job = serde_json::to_value(job).map_err(Problem::internal)?;
        if let Some(data) = job.get_mut("jobData") {
            match mask {
                Some(mask) => mask.iter().for_each(|pointer| hide(data, pointer.names())),
                None => *data = Value::Null,
            }
        }
        if let Value::Object(fields) = &mut job {
            fields.insert("lastError".into(), Value::Null);
            let history = fields.get_mut("history").and_then(Value::as_array_mut);
            for attempt in history.into_iter().flatten() {
                attempt["error"] = Value::Null;
            }
            fields.insert("withheld".into(), true.into());
        }
        Ok(Seen::Partly(job))
    }

    /// Whether something is hidden at the pointer of these names, or below it.
    pub(super) fn hides(self, names: &[String]) -> bool {
        match self {
            Self::Whole => false,
            Self::Withheld => true,
            Self::Masked(mask) => mask.iter().any(|pointer| {
                // They overlap if one of them is a prefix of the other.
                pointer.names().iter().zip(names).all(|(masked, asked)| masked == asked)
            }),
        }
    }

    /// The status of a request as it may be seen.
    pub(super) fn status(self, status: Value) -> Value {
        match (self, status) {
            (Self::Masked(_) | Self::Withheld, Value::Object(mut status)) => {
                if let Some(message) = status.get_mut("message") {
                    *message = Value::Null;
                    status.insert("withheld".into(), true.into());
                }
                status.into()
            }
            (_, status) => status,
        }
    }
}

/// Only the members that do not quote the data.
fn withheld(letter: Map<String, Value>) -> Value {
    const SHOWN: [&str; 10] = [
        "id",
        "state",
        "kind",
        "topic",
        "partition",
        "offset",
        "createdTime",
        "changedTime",
        "attempts",
        "replays",
    ];
    let mut letter: Map<String, Value> = letter
        .into_iter()
        .map(|(name, value)| match SHOWN.contains(&&*name) {
            true => (name, value),
            false => (name, Value::Null),
        })
        .collect();
    letter.insert("withheld".into(), true.into());
    letter.into()
}

/// The request in `text` with its data masked; null if it cannot be parsed as one.
fn masked_request(text: &str, mask: &[JsonPointer]) -> Value {
    // If a field occurs twice, only its last value is kept, so no unmasked value remains.
    let Ok(Value::Object(mut request)) = serde_json::from_str(text) else { return Value::Null };
    if let Some(data) = request.get_mut("jobData") {
        mask.iter().for_each(|pointer| hide(data, pointer.names()));
    }
    json!(Value::Object(request).to_string())
}

fn hide(value: &mut Value, names: &[String]) {
    let Some((first, rest)) = names.split_first() else {
        *value = MASK.into();
        return;
    };
    let inner = match value {
        Value::Object(fields) => fields.get_mut(first),
        Value::Array(items) => first.parse().ok().and_then(|at: usize| items.get_mut(at)),
        _ => None,
    };
    if let Some(inner) = inner {
        hide(inner, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_masked_is_hidden_however_it_is_written() {
        let mask: Vec<JsonPointer> =
            ["/phoneNumber", "/to/0"].iter().map(|text| text.parse().unwrap()).collect();
        for (text, seen) in [
            (
                r#"{"appName":"sms","jobData":{"phoneNumber":"+1","n":1}}"#,
                Some(r#"{"appName":"sms","jobData":{"n":1,"phoneNumber":"***"}}"#),
            ),
            (
                r#"{"jobData":{"phoneNumber":"+1","phoneNumber":"+2"}}"#,
                Some(r#"{"jobData":{"phoneNumber":"***"}}"#),
            ),
            (
                r#"{"jobData":{"\u0070honeNumber":"+1"}}"#,
                Some(r#"{"jobData":{"phoneNumber":"***"}}"#),
            ),
            (r#"{"jobData":{"to":["a","b"]}}"#, Some(r#"{"jobData":{"to":["***","b"]}}"#)),
            (r#"{"jobData":{}}"#, Some(r#"{"jobData":{}}"#)),
            (r#"{"jobData":{"phoneNumber":"+1""#, None),
            (r#"{"jobData":{"phoneNumber":"\ud800"}}"#, None),
            ("+1", None),
        ] {
            assert_eq!(masked_request(text, &mask).as_str(), seen, "{text}");
        }
    }

    #[test]
    fn a_job_is_seen_without_what_is_masked() {
        let mask = ["/a/b".parse().unwrap()];
        let job = json!({"jobId": 1, "lastError": "said x", "jobData": {"a": {"b": "x"}, "n": 1}});
        let seen = |view: View<'_>| serde_json::to_value(view.job(&job).unwrap()).unwrap();
        assert_eq!(seen(View::Whole), job);
        let fields = json!({"a": {"b": "***"}, "n": 1});
        for (view, data) in [(View::Masked(&mask), fields), (View::Withheld, Value::Null)] {
            let meant = json!({"jobId": 1, "lastError": null, "jobData": data, "withheld": true});
            assert_eq!(seen(view), meant);
        }
        for (names, is_hidden) in [
            (&["a", "b"][..], true),
            (&["a"], true),
            (&[], true),
            (&["a", "b", "c"], true),
            (&["a", "c"], false),
            (&["b"], false),
        ] {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(View::Masked(&mask).hides(&names), is_hidden, "{names:?}");
            assert!(View::Withheld.hides(&names) && !View::Whole.hides(&names));
        }
    }

    #[test]
    fn only_role_read_has_something_withheld() {
        let pointer: JsonPointer = "/a".parse().unwrap();
        let masks = [("sms".to_owned(), vec![pointer]), ("log".to_owned(), Vec::new())].into();
        let shared = Shared::new(Default::default(), masks);
        let known = ["fax".to_owned()];
        let view = |role, app| View::of(&shared, &Caller { name: None, role }, &known, app);
        assert!(matches!(view(Role::Read, Some("sms")), View::Masked(_)));
        assert_eq!(view(Role::Read, Some("log")), View::Whole);
        assert_eq!(view(Role::Read, Some("fax")), View::Whole);
        assert_eq!(view(Role::Read, Some("gone")), View::Withheld);
        assert_eq!(view(Role::Read, None), View::Withheld);
        assert_eq!(view(Role::Operate, None), View::Whole);
    }
}
