//! A JSON Schema that an app's job data is held to.

use std::fmt;
use std::sync::Arc;

use jsonschema::{ValidationError, Validator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::job::JobData;
use super::letter::{ErrorKind, Refusal};
use super::time::shortened;

/// Faults that one refusal names; the rest is counted.
const NAMED: usize = 3;

/// A JSON Schema, ready to be used. Cheap to clone.
///
/// The draft is the one that `$schema` names, else 2020-12. References lead to places in
/// the same document; nothing is fetched.
#[derive(Clone)]
pub struct JobSchema(Arc<Compiled>);

struct Compiled {
    document: Value,
    validator: Validator,
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
        let validator = jsonschema::validator_for(&document)
            .map_err(|error| InvalidSchema(format!("{error}{}", place(&error))))?;
        Ok(Self(Arc::new(Compiled { document, validator })))
    }

    /// Makes the schema that this JSON text describes.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the text is not JSON.
    pub fn parse(text: &str) -> Result<Self, InvalidSchema> {
        let document =
            serde_json::from_str(text).map_err(|error| InvalidSchema(error.to_string()))?;
        Self::new(document)
    }

    /// Holds `data` to the schema.
    ///
    /// # Errors
    /// [`ErrorKind::RefusedByApp`] names what is wrong and where, the first three of it.
    pub fn check(&self, data: &JobData) -> Result<(), Refusal> {
        let refused = |message| Refusal::new(ErrorKind::RefusedByApp, message);
        let value: Value = data
            .deserialize()
            .map_err(|error| refused(format!("the fields of jobData cannot be read: {error}")))?;
        if self.0.validator.is_valid(&value) {
            return Ok(());
        }
        let mut faults = self.0.validator.iter_errors(&value);
        let named: Vec<String> = faults.by_ref().take(NAMED).map(|fault| said(&fault)).collect();
        let more = match faults.count() {
            0 => String::new(),
            count => format!(", and {count} more"),
        };
        let message = format!("jobData is against the app's schema: {}{more}", named.join("; "));
        Err(refused(message))
    }
}

/// One fault: where, and what of which rule.
fn said(fault: &ValidationError<'_>) -> String {
    let place = fault.instance_path().to_string().replace('/', ".");
    format!("jobData{place}: {}", shortened(&fault.to_string()))
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
        }
    }

    #[test]
    fn it_is_written_and_read_as_its_document() {
        let written = serde_json::to_string(&sms()).unwrap();
        assert_eq!(serde_json::from_str::<JobSchema>(&written).unwrap(), sms());
        assert_ne!(JobSchema::parse("{}").unwrap(), sms());
    }
}
