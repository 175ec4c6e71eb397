//! A JSON Schema that an app's job data is held to.

mod cost;
#[cfg(test)]
mod fuzz;

use std::fmt;
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::job::JobData;
use super::json;
use super::letter::{ErrorKind, Refusal};
use super::time::shortened;

/// Faults that one refusal names; the rest is counted.
const NAMED: usize = 3;

/// The largest compiled pattern. The time that a value takes grows with it.
const PATTERN_BYTES: usize = 1 << 20;

/// What a refused pattern may be lacking.
const PATTERN_RULE: &str = "; a pattern here has no look-around and no back reference and is \
    not too large, so that no value takes long";

/// A JSON Schema, ready to be used. Cheap to clone.
///
/// The draft is the one that `$schema` names, else 2020-12. References lead to places in
/// the same document; nothing is fetched. Patterns are those that can be matched in linear
/// time: who sends a value cannot make it take longer than its size allows.
#[derive(Clone)]
pub struct JobSchema(Arc<Compiled>);

struct Compiled {
    document: Value,
    validator: Validator,
    /// Whether finding out all that is wrong with a value is sure to end soon.
    tells_faults: bool,
}

/// A document that is no JSON Schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a JSON Schema: {0}")]
pub struct InvalidSchema(String);

impl JobSchema {
    /// Makes the schema that `document` describes.
    ///
    /// # Errors
    /// [`InvalidSchema`] says what is wrong and where.
    pub fn new(document: Value) -> Result<Self, InvalidSchema> {
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_pattern_options(patterns)
            .build(&document)
            .map_err(|error| InvalidSchema(format!("{error}{}{}", place(&error), hint(&error))))?;
        let tells_faults = cost::is_bounded(&document);
        Ok(Self(Arc::new(Compiled { document, validator, tells_faults })))
    }

    /// Makes the schema that this JSON text describes.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the text is not JSON.
    pub fn parse(text: &str) -> Result<Self, InvalidSchema> {
        let document = json::nearest_value(text).map_err(|e| InvalidSchema(e.to_string()))?;
        Self::new(document)
    }

    /// Holds `data` to the schema. Numbers are compared as an `f64` has them, and those beyond
    /// it as its largest.
    ///
    /// # Errors
    /// [`ErrorKind::RefusedByApp`] names what is wrong and where, the first three of it; of a
    /// schema that refers to itself it says only that.
    pub fn check(&self, data: &JobData) -> Result<(), Refusal> {
        let refused = |message| Refusal::new(ErrorKind::RefusedByApp, message);
        let value = json::nearest_value(data.as_str())
            .map_err(|error| refused(format!("the fields of jobData cannot be read: {error}")))?;
        if self.0.validator.is_valid(&value) {
            return Ok(());
        }
        Err(refused(format!("jobData is against the app's schema{}", self.faults(&value))))
    }

    fn faults(&self, value: &Value) -> String {
        if !self.0.tells_faults {
            return ", which refers to itself too often for its faults to be named".to_owned();
        }
        let mut faults = self.0.validator.iter_errors(value);
        let named: Vec<String> = faults.by_ref().take(NAMED).map(|fault| said(&fault)).collect();
        let more = match faults.count() {
            0 => String::new(),
            count => format!(", and {count} more"),
        };
        format!(": {}{more}", named.join("; "))
    }
}

/// One fault: where, and what of which rule.
fn said(fault: &ValidationError<'_>) -> String {
    let place = fault.instance_path().to_string().replace('/', ".");
    let shown = |text: &str| shortened(&json::with_escapes(text));
    format!("{}: {}", shown(&format!("jobData{place}")), shown(&fault.to_string()))
}

fn hint(error: &ValidationError<'_>) -> &'static str {
    match error.kind() {
        ValidationErrorKind::Format { format } if format == "regex" => PATTERN_RULE,
        _ => "",
    }
}

fn place(error: &ValidationError<'_>) -> String {
    match error.instance_path().to_string() {
        path if path.is_empty() => String::new(),
        path => format!(" at {path}"),
    }
}

impl PartialEq for JobSchema {
    fn eq(&self, other: &Self) -> bool {
        self.0.document == other.0.document
    }
}

impl Eq for JobSchema {}

impl fmt::Debug for JobSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.document.fmt(f)
    }
}

impl Serialize for JobSchema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.document.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JobSchema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sms() -> JobSchema {
        JobSchema::new(json!({
            "type": "object",
            "required": ["phoneNumber"],
            "properties": {
                "phoneNumber": {"type": "string", "pattern": "^\\+[0-9]+$"},
                "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
            },
            "$defs": {"part": {"type": "integer", "minimum": 1}},
        }))
        .unwrap()
    }

    #[test]
    fn what_is_sound_passes() {
        for data in [r#"{"phoneNumber":"+880"}"#, r#"{"phoneNumber":"+1","parts":[1,2],"x":{}}"#] {
            assert_eq!(sms().check(&JobData::from_trusted(data)), Ok(()), "{data}");
        }
    }

    #[test]
    fn what_json_allows_and_rust_has_no_type_for_is_judged_like_any_other() {
        for data in [
            r#"{"phoneNumber":"+1","text":"cut \ud83d"}"#,
            r#"{"phoneNumber":"+1","\udc00":{"\ud800":"\ud800"}}"#,
            r#"{"phoneNumber":"+1","parts":[1e400,3],"x":-1e999}"#,
        ] {
            assert_eq!(sms().check(&JobData::from_trusted(data)), Ok(()), "{data}");
        }
        let schema = JobSchema::parse(
            r#"{"properties":{
                "length":{"maxLength":1,"minLength":1,"pattern":"^.$"},
                "other":{"const":"\ud801"},"same":{"const":"\ud800"},"set":{"uniqueItems":true},
                "low":{"maximum":5},"high":{"minimum":5,"type":"number"}}}"#,
        )
        .unwrap();
        let sound = r#"{"length":"\ud83d","same":"\uD800","set":["\ud800","\ud801"],"high":1e400}"#;
        assert_eq!(schema.check(&JobData::from_trusted(sound)), Ok(()));
        for (data, said) in [
            (r#"{"length":"\ud83d\ud83d"}"#, r#"jobData.length: "\ud83d\ud83d""#),
            (r#"{"other":"\ud800"}"#, r#""\ud801" was expected"#),
            (r#"{"set":["\ud800","\ud800"]}"#, "jobData.set"),
            (r#"{"low":1e400}"#, "jobData.low"),
            (r#"{"high":-1e400}"#, "jobData.high"),
        ] {
            let refusal = schema.check(&JobData::from_trusted(data)).unwrap_err();
            assert!(refusal.message.contains(said), "{data}: {refusal}");
        }
        let written = serde_json::to_string(&schema).unwrap();
        assert_eq!(JobSchema::parse(&written).unwrap(), schema);
    }

    #[test]
    fn faults_are_named_with_their_place_and_value() {
        for (data, said) in [
            ("{}", &["\"phoneNumber\" is a required property"][..]),
            (r#"{"phoneNumber":"880"}"#, &["jobData.phoneNumber", "\"880\""]),
            (r#"{"phoneNumber":7,"parts":[1,0]}"#, &["jobData.phoneNumber: 7", "jobData.parts.1"]),
            (r#"{"parts":[0,0,0,0]}"#, &["and 2 more"]),
        ] {
            let refusal = sms().check(&JobData::from_trusted(data)).unwrap_err();
            assert_eq!(refusal.kind, ErrorKind::RefusedByApp);
            for said in said {
                assert!(refusal.message.contains(said), "{data}: {refusal}");
            }
            assert!(refusal.message.chars().count() < 400, "{refusal}");
        }
    }

    #[test]
    fn a_document_that_is_no_schema_says_so() {
        for bad in ["{", "7", r#"{"type":"text"}"#, r#"{"$ref":"https://example.org/x.json"}"#] {
            let error = JobSchema::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("it is not a JSON Schema: "), "{bad}: {error}");
            assert!(!error.contains("look-around"), "{bad}: {error}");
            assert!(!error.contains(" at :") && !error.ends_with(" at "), "{bad}: {error}");
        }
        let error = JobSchema::new(json!({"properties": {"x": {"type": "text"}}})).unwrap_err();
        assert!(error.to_string().ends_with(" at /properties/x/type"), "{error}");
        let error = JobSchema::new(json!({"$id": "\\^"})).unwrap_err();
        assert!(!error.to_string().contains("look-around"), "{error}");
    }

    #[test]
    fn it_is_shown_as_its_document() {
        assert_eq!(format!("{:?}", JobSchema::parse("true").unwrap()), "Bool(true)");
    }

    #[test]
    fn a_long_key_is_shown_shortened() {
        let schema = JobSchema::new(json!({"additionalProperties": false, "maxProperties": 0}));
        let nested = JobSchema::new(json!({"additionalProperties": {"type": "string"}}));
        for schema in [schema, nested] {
            let data = JobData::from_trusted(format!("{{\"{}\":1}}", "x".repeat(5000)));
            let refusal = schema.unwrap().check(&data).unwrap_err();
            assert!(refusal.message.chars().count() < 400, "{refusal}");
        }
    }

    #[test]
    fn a_pattern_that_could_take_for_ever_is_refused_with_the_reason() {
        for pattern in ["^(a|a)*\\1b", "^(?=.*[0-9])a", "(?<!a)b", "(.*a.*b){1000}c"] {
            let error = JobSchema::new(json!({"properties": {"x": {"pattern": pattern}}}));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("no look-around and no back reference"), "{error}");
        }
    }

    /// A refusal of data that is nested `depth` levels deep, which must not take for ever.
    fn check_nested(schema: Value, depth: usize, said: &str) {
        let schema = JobSchema::new(schema).unwrap();
        let data = "{\"a\":".repeat(depth) + "{}" + &"}".repeat(depth);
        let refusal = schema.check(&JobData::from_trusted(data)).unwrap_err();
        assert!(refusal.message.contains(said), "{schema:?}: {refusal}");
    }

    #[test]
    fn a_schema_that_refers_to_itself_does_not_hang_on_a_deep_value() {
        let again = json!({"properties": {"a": {"$ref": "#"}}});
        let and = |more: Value| {
            let mut both = again.clone();
            both.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            both
        };
        let branches = json!([and(json!({"required": ["x"]})), and(json!({"required": ["y"]}))]);
        for schema in [
            json!({"anyOf": branches}),
            json!({"oneOf": branches}),
            json!({"allOf": branches}),
            json!({"anyOf": branches, "unevaluatedProperties": false}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "anyOf": branches}),
        ] {
            // The first soon fails where the second would hang.
            check_nested(schema.clone(), 8, "refers to itself");
            check_nested(schema, 120, "refers to itself");
        }
        check_nested(json!({"properties": {"a": {"required": ["b"]}}}), 3, "jobData.a: \"b\"");
    }

    #[test]
    fn it_is_written_and_read_as_its_document() {
        let written = serde_json::to_string(&sms()).unwrap();
        assert_eq!(serde_json::from_str::<JobSchema>(&written).unwrap(), sms());
        assert_ne!(JobSchema::parse("{}").unwrap(), sms());
    }
}
