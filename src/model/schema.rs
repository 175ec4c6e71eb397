//! A JSON Schema that an app's job data is held to.

mod cost;

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
mod tests;
