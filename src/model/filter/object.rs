//! A filter as a JSON object, as a bulk action has it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{InvalidFilter, JobFilter, TopicPartition, values};

/// The members of the object in their order, also those that are given twice.
struct Members(Vec<(String, Box<RawValue>)>);

impl JobFilter {
    /// Reads it from a JSON object, whose members are those of a query string; `data` is an array.
    ///
    /// # Errors
    /// As [`from_pairs`](Self::from_pairs), and for a value that is not a text.
    pub fn from_json(json: &str) -> Result<Self, InvalidFilter> {
        let invalid = |error| InvalidFilter::new("", format!("is not a JSON object: {error}"));
        let Members(members) = serde_json::from_str(json).map_err(invalid)?;
        let mut pairs = Vec::with_capacity(members.len());
        for (name, value) in members {
            let is_data = name == "data" && value.get().starts_with('[');
            let text = match serde_json::from_str::<String>(value.get()) {
                Ok(text) if name != "data" => text,
                Err(_) if is_data => value.get().to_owned(),
                // A name that is not known says so rather than what its value is.
                _ if !Self::NAMES.contains(&name.as_str()) => String::new(),
                _ if name == "data" => {
                    let form = r#"must be an array such as [{"pointer":"/a","equals":1}]"#;
                    return Err(InvalidFilter::new(&name, form));
                }
                _ => return Err(InvalidFilter::new(&name, "must be a text: or leave it out")),
            };
            pairs.push((name, text));
        }
        Self::from_pairs(pairs, None)
    }

    /// Whether it selects every job.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The object that [`from_json`](Self::from_json) reads as this filter.
    pub fn to_json(&self) -> String {
        let Self { app, state, from_ms, to_ms, priority, key, partition, error_kind, data } = self;
        let partition = partition.as_ref();
        let partition =
            partition.map(|TopicPartition { topic, partition }| format!("{topic}/{}", partition.0));
        let texts = [
            ("app", app.clone()),
            ("state", state.map(|state| state.as_str().to_owned())),
            ("from", from_ms.map(values::shown)),
            ("to", to_ms.map(values::shown)),
            ("priority", priority.map(|priority| priority.as_str().to_owned())),
            ("key", key.clone()),
            ("partition", partition),
            ("errorKind", error_kind.map(|kind| kind.as_str().to_owned())),
        ];
        let given = texts.into_iter().filter_map(|(name, text)| Some((name, text?)));
        let mut members: Vec<String> =
            given.map(|(name, text)| format!(r#""{name}":{}"#, Value::from(text))).collect();
        if !data.is_empty() {
            let conditions: Vec<String> = data.iter().map(super::DataCondition::to_json).collect();
            members.push(format!(r#""data":[{}]"#, conditions.join(",")));
        }
        format!("{{{}}}", members.join(","))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry().map_err(A::Error::custom)? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_strictly_as_a_query_and_written_as_it_is_read() {
        let json = r#"{"app":"sms","state":"due","from":"1970-01-01T00:00:01.5Z",
            "to":"2030-01-01T08:00:00+06:00","priority":"low","key":"k","partition":"t/3",
            "errorKind":"expired","data":[{"pointer":"/a","equals":1.50}]}"#;
        let filter = JobFilter::from_json(json).unwrap();
        assert_eq!(filter.from_ms, Some(1500));
        assert_eq!(JobFilter::from_json(&filter.to_json()).unwrap(), filter);
        assert!(JobFilter::from_json("{}").unwrap().is_empty());
        for (json, field, said) in [
            (r#"{"apps":"sms"}"#, "apps", "did you mean app?"),
            (r#"{"app":"a","app":"b"}"#, "app", "given twice"),
            (r#"{"app":""}"#, "app", "is empty"),
            (r#"{"app":null}"#, "app", "must be a text"),
            (r#"{"app":["sms"]}"#, "app", "must be a text"),
            (r#"{"state":"scheduld"}"#, "state", "did you mean scheduled?"),
            (r#"{"data":[]}"#, "data", "has no condition"),
            (r#"{"data":"x"}"#, "data", "must be an array"),
            (r#"{"data":[{"pointer":"/a"}]}"#, "data", "equals is missing"),
            (r#"{"errorKind":"expird"}"#, "errorKind", "did you mean expired?"),
            ("[]", "", "is not a JSON object"),
        ] {
            let error = JobFilter::from_json(json).unwrap_err();
            assert_eq!(error.field, field, "{json}: {error}");
            assert!(error.problem.contains(said), "{json}: {error}");
        }
    }
}
