//! The fields of a JSON object in a body, read strictly.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use super::problem::Problem;
use crate::model::suggest::nearest;

/// Reads `text` as a `T`.
///
/// # Errors
/// 400 if it is not JSON, 422 if a field is unknown, given twice, missing or of another type.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let error = match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(fields) => match deserializer.end() {
            Ok(()) => return Ok(fields),
            Err(error) => return Err(not_json(&error)),
        },
        Err(error) => error,
    };
    let inner = error.inner();
    if inner.classify() != Category::Data {
        return Err(not_json(inner));
    }
    let said = inner.to_string();
    let place = format!(" at line {} column {}", inner.line(), inner.column());
    let said = said.strip_suffix(&place).unwrap_or(&said);
    let path = error.path().to_string();
    let pointer = match path.as_str() {
        "." => String::new(),
        path => format!("/{}", path.replace(['.', '['], "/").replace(']', "")),
    };
    let problem = match said.strip_prefix("unknown field ") {
        Some(names) => unknown(names),
        None => format!("is wrong: {said}"),
    };
    Err(Problem::refused_field(&pointer, problem))
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::bad("invalid-json", format!("the body is not JSON: {error}; send one JSON object"))
}

/// `names` are the field and those that are known, each between backticks.
fn unknown(names: &str) -> String {
    let mut names = names.split('`').skip(1).step_by(2);
    let found = names.next().unwrap_or_default();
    match nearest(found, names) {
        Some(nearest) => format!("is not a known field: did you mean {nearest}?"),
        None => "is not a known field: leave it out".to_owned(),
    }
}

/// Tells a field that is `null` (`Some(None)`) from one that is absent.
pub(super) fn or_null<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
