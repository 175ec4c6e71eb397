//! Decodes a request from the value of a record, or returns a precise refusal.
//!
//! One pass over the JSON locates each known field; then each is read by itself. So a message can
//! show the field as it was written, and a refusal contains the request id, whichever field is
//! wrong and whatever their order.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::data::job_data;
use super::{
    APP_NAME_RULE, ErrorKind, Name, Operation, Priority, Refusal, ScheduleJobRequest,
    ScheduledTime, UnknownFields,
};
use super::{invalid, max_attempts_rule, missing, timeout_rule, version_rule, window_rule};
use super::{quoted, with_identity};
use crate::model::json::{MAX_DEPTH, is_too_deep};

const TEXT_RULE: &str = "a string of Unicode characters";

pub(super) fn decode(value: &[u8]) -> Result<ScheduleJobRequest, Refusal> {
    let text = text_of(value)?;
    let mut fields = Fields::default();
    match fields.find(text).and_then(|()| fields.read()) {
        Ok(request) => {
            request.check().map_err(|refusal| request.with_identity(refusal)).map(|()| request)
        }
        Err(refusal) => Err(fields.with_identity(refusal)),
    }
}

fn text_of(value: &[u8]) -> Result<&str, Refusal> {
    if let Some((kind, what)) = other_form(value) {
        return Err(Refusal::new(kind, format!("the value {what}")));
    }
    let text = std::str::from_utf8(value).map_err(|error| {
        let at = error.valid_up_to();
        let message =
            format!("the value is not UTF-8: byte {at} is 0x{:02x}; send JSON in UTF-8", value[at]);
        Refusal::new(ErrorKind::InvalidEncoding, message)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.is_empty() {
        let message = "the record has no value: send a request as a JSON object";
        return Err(Refusal::new(ErrorKind::EmptyValue, message));
    }
    Ok(text)
}

/// Recognizes the formats of common serializers that are not JSON in UTF-8. A JSON parser would
/// only report the first byte.
fn other_form(value: &[u8]) -> Option<(ErrorKind, String)> {
    match value {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'{', 0, ..] | [b'{', 0, ..] => Some((
            ErrorKind::InvalidEncoding,
            "is in UTF-16: send JSON in UTF-8, as every serializer of JSON does by itself".into(),
        )),
        [0, a, b, c, d, payload @ ..] if !payload.is_empty() => {
            let schema = u32::from_be_bytes([*a, *b, *c, *d]);
            let serializer = match payload.trim_ascii_start() {
                [b'{', ..] => "KafkaJsonSchemaSerializer",
                _ => "KafkaAvroSerializer or KafkaProtobufSerializer",
            };
            Some((
                ErrorKind::InvalidJson,
                format!(
                    "is framed by Confluent's serializer (a zero byte, then schema {schema}): send \
                     the JSON alone, by StringSerializer or ByteArraySerializer in place of \
                     {serializer}"
                ),
            ))
        }
        _ => None,
    }
}

fn invalid_json(message: String) -> Refusal {
    Refusal::new(ErrorKind::InvalidJson, message)
}

/// The known fields of a request, as raw JSON.
#[derive(Default)]
struct Fields<'a> {
    request_id: Option<&'a RawValue>,
    app_name: Option<&'a RawValue>,
    scheduled_time: Option<&'a RawValue>,
    expires_time: Option<&'a RawValue>,
    flexible_window_ms: Option<&'a RawValue>,
    concurrency_key: Option<&'a RawValue>,
    job_data: Option<&'a RawValue>,
    priority: Option<&'a RawValue>,
    idempotency_key: Option<&'a RawValue>,
    operation: Option<&'a RawValue>,
    target_request_id: Option<&'a RawValue>,
    max_attempts: Option<&'a RawValue>,
    timeout_ms: Option<&'a RawValue>,
    version: Option<&'a RawValue>,
    unknown: u32,
    repeated: Option<String>,
}

impl<'a> Fields<'a> {
    fn field_mut(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match name {
            "requestId" => &mut self.request_id,
            "appName" => &mut self.app_name,
            "scheduledTime" => &mut self.scheduled_time,
            "expiresTime" => &mut self.expires_time,
            "flexibleWindowMs" => &mut self.flexible_window_ms,
            "concurrencyKey" => &mut self.concurrency_key,
            "jobData" => &mut self.job_data,
            "priority" => &mut self.priority,
            "idempotencyKey" => &mut self.idempotency_key,
            "operation" => &mut self.operation,
            "targetRequestId" => &mut self.target_request_id,
            "maxAttempts" => &mut self.max_attempts,
            "timeoutMs" => &mut self.timeout_ms,
            "version" => &mut self.version,
            _ => return None,
        })
    }

    /// Locates the fields of `json`. Those before a syntax error are kept.
    fn find(&mut self, json: &'a str) -> Result<(), Refusal> {
        let not_json = |error| {
            invalid_json(format!("the value is not JSON: {error}; send a request as a JSON object"))
        };
        if let Some(other) = type_unless_object(json) {
            serde_json::from_str::<IgnoredAny>(json).map_err(not_json)?;
            return Err(invalid_json(format!("the value is {other}, it must be a JSON object")));
        }
        let mut deserializer = serde_json::Deserializer::from_str(json);
        FindFields(self)
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
            .map_err(not_json)?;
        if is_too_deep(json) {
            let message =
                format!("the value is nested more than {MAX_DEPTH} levels deep: send it flatter");
            return Err(invalid_json(message));
        }
        match &self.repeated {
            None => Ok(()),
            Some(name) => {
                let message = format!("{name} occurs twice: send it once");
                Err(Refusal::new(ErrorKind::DuplicateField, message))
            }
        }
    }

    /// Reads each field, in the order in which the documentation lists them.
    fn read(&self) -> Result<ScheduleJobRequest, Refusal> {
        Ok(ScheduleJobRequest {
            request_id: typed("requestId", self.request_id, || TEXT_RULE.into())?,
            app_name: typed("appName", self.app_name, || APP_NAME_RULE.into())?
                .ok_or_else(|| missing("appName", "every request names its app"))?,
            scheduled_time: time("scheduledTime", self.scheduled_time)?,
            expires_time: time("expiresTime", self.expires_time)?,
            flexible_window_ms: typed("flexibleWindowMs", self.flexible_window_ms, window_rule)?,
            concurrency_key: typed("concurrencyKey", self.concurrency_key, || TEXT_RULE.into())?,
            job_data: present(self.job_data).map(job_data).transpose()?.unwrap_or_default(),
            priority: priority(self.priority)?,
            idempotency_key: typed("idempotencyKey", self.idempotency_key, || TEXT_RULE.into())?,
            operation: operation(self.operation)?,
            target_request_id: typed("targetRequestId", self.target_request_id, || {
                TEXT_RULE.into()
            })?,
            max_attempts: typed("maxAttempts", self.max_attempts, max_attempts_rule)?,
            timeout_ms: typed("timeoutMs", self.timeout_ms, timeout_rule)?,
            version: typed("version", self.version, version_rule)?,
            unknown_fields: UnknownFields(self.unknown),
        })
    }

    fn with_identity(&self, refusal: Refusal) -> Refusal {
        let text = |raw: Option<&RawValue>| serde_json::from_str::<String>(raw?.get()).ok();
        let (request_id, app) = (text(self.request_id), text(self.app_name));
        with_identity(refusal, request_id.as_deref(), app.as_deref())
    }
}

/// The type of the value by its first byte, if it is not an object.
fn type_unless_object(json: &str) -> Option<&'static str> {
    Some(match json.trim_start_matches([' ', '\t', '\r', '\n']).bytes().next()? {
        b'[' => "an array",
        b'"' => "a string",
        b'-' | b'0'..=b'9' => "a number",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        _ => return None,
    })
}

struct FindFields<'f, 'a>(&'f mut Fields<'a>);

impl<'a> DeserializeSeed<'a> for FindFields<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for FindFields<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.0;
        while let Some(Name(name)) = map.next_key()? {
            let name = name.unwrap_or_default();
            match fields.field_mut(&name) {
                Some(field @ None) => *field = Some(map.next_value()?),
                Some(Some(_)) => {
                    map.next_value::<IgnoredAny>()?;
                    fields.repeated.get_or_insert_with(|| name.into_owned());
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                    fields.unknown = fields.unknown.saturating_add(1);
                }
            }
        }
        Ok(())
    }
}

/// Many producers write `null` for an absent field.
fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

fn typed<'a, T: Deserialize<'a>>(
    name: &str,
    raw: Option<&'a RawValue>,
    rule: impl Fn() -> String,
) -> Result<Option<T>, Refusal> {
    present(raw)
        .map(|raw| serde_json::from_str(raw.get()).map_err(|_| invalid(name, raw.get(), &rule())))
        .transpose()
}

/// Operations on recurring schedules, which a later version will have.
const LATER: [&str; 2] = ["upsert-schedule", "delete-schedule"];

fn operation(raw: Option<&RawValue>) -> Result<Operation, Refusal> {
    let name = present(raw).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    if let Some(name) = name.filter(|name| LATER.contains(&name.as_str())) {
        let message = format!(
            "operation {} is for recurring schedules, which this version does not have: send \
             \"schedule\" for each job",
            quoted(&name)
        );
        return Err(Refusal::new(ErrorKind::UnsupportedOperation, message));
    }
    let rule = || r#""schedule", "cancel" or "reschedule""#.into();
    Ok(typed("operation", raw, rule)?.unwrap_or_default())
}

fn time(name: &str, raw: Option<&RawValue>) -> Result<Option<ScheduledTime>, Refusal> {
    present(raw)
        .map(|raw| ScheduledTime::from_json(raw.get()))
        .transpose()
        .map_err(|error| Refusal::new(ErrorKind::InvalidField, format!("{name} {error}")))
}

fn priority(raw: Option<&RawValue>) -> Result<Priority, Refusal> {
    let Some(raw) = present(raw) else { return Ok(Priority::default()) };
    let name: Option<String> = serde_json::from_str(raw.get()).ok();
    name.and_then(|name| name.parse().ok())
        .ok_or_else(|| invalid("priority", raw.get(), r#""high", "normal" or "low""#))
}

#[cfg(test)]
mod tests;
