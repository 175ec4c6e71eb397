//! The fields of a JSON object in a body, read strictly.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use utoipa::ToSchema;

use super::body::{self, Expected, JOB_BYTES};
use super::problem::Problem;
use crate::model::suggest::nearest;

/// Why something is asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reason {
    /// Why, for the audit.
    pub(super) reason: Option<String>,
}

/// The fields in the body of `request`; their defaults if it has no body.
///
/// # Errors
/// As [`read`], and as [`body::read`].
pub(super) async fn read_optional<T: DeserializeOwned + Default>(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, Problem> {
    read_optional_within(JOB_BYTES, request, payload).await
}

/// As [`read_optional`], but with a body of at most `limit` bytes.
///
/// # Errors
/// As [`read_optional`].
pub(super) async fn read_optional_within<T: DeserializeOwned + Default>(
    limit: usize,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, Problem> {
    if !body::has_body(request) {
        return Ok(T::default());
    }
    let body = body::read(request, payload, Expected::Object(limit)).await?;
    read(&body.text)
}

/// Reads `text` as a `T`.
///
/// # Errors
/// 400 if it is not JSON, 422 if a field is unknown, given twice, missing or of another type.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    // serde would take the items of an array for the fields, in their order.
    if text.trim_ascii_start().starts_with('[') {
        let detail = "the body is an array: send one JSON object";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", detail));
    }
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

/// Distinguishes a field that is `null` (`Some(None)`) from one that is absent.
pub(super) fn or_null<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
