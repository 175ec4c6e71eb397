//! Reads a request from the value of a record, or says precisely why it cannot.
//!
//! One pass over the JSON finds where each known field stands; then each is read by itself.
//! So a message can show the field as it was written, and a refusal can carry the request's
//! name, whichever field is wrong and wherever it stands.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::data::{MAX_DEPTH, is_too_deep, job_data};
use super::{
    APP_NAME_RULE, ErrorKind, Priority, Refusal, ScheduleJobRequest, ScheduledTime, Unasked,
};
use super::{invalid, max_attempts_rule, missing, signed, timeout_rule};

const TEXT_RULE: &str = "a string of Unicode characters";

pub(super) fn decode(value: &[u8]) -> Result<ScheduleJobRequest, Refusal> {
    let text = text_of(value)?;
    let mut fields = Fields::default();
    match fields.find(text).and_then(|()| fields.read()) {
        Ok(request) => request.check().map_err(|refusal| request.signed(refusal)).map(|()| request),
        Err(refusal) => Err(fields.signed(refusal)),
    }
}

fn text_of(value: &[u8]) -> Result<&str, Refusal> {
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

fn invalid_json(message: String) -> Refusal {
    Refusal::new(ErrorKind::InvalidJson, message)
}

/// The known fields of a request, each as it is written.
#[derive(Default)]
struct Fields<'a> {
    request_id: Option<&'a RawValue>,
    app_name: Option<&'a RawValue>,
    scheduled_time: Option<&'a RawValue>,
    expires_time: Option<&'a RawValue>,
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
    fn named(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match name {
            "requestId" => &mut self.request_id,
            "appName" => &mut self.app_name,
            "scheduledTime" => &mut self.scheduled_time,
            "expiresTime" => &mut self.expires_time,
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

    /// Finds the fields of `json`. Those before a mistake in it are kept all the same.
    fn find(&mut self, json: &'a str) -> Result<(), Refusal> {
        let not_json = |error| {
            invalid_json(format!("the value is not JSON: {error}; send a request as a JSON object"))
        };
        if let Some(other) = what_else(json) {
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
                let message = format!("{name} is there twice: send it once");
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
            job_data: present(self.job_data).map(job_data).transpose()?.unwrap_or_default(),
            priority: priority(self.priority)?,
            idempotency_key: typed("idempotencyKey", self.idempotency_key, || TEXT_RULE.into())?,
            operation: typed("operation", self.operation, operation_rule)?.unwrap_or_default(),
            target_request_id: typed("targetRequestId", self.target_request_id, || {
                TEXT_RULE.into()
            })?,
            max_attempts: typed("maxAttempts", self.max_attempts, max_attempts_rule)?,
            timeout_ms: typed("timeoutMs", self.timeout_ms, timeout_rule)?,
            version: typed("version", self.version, || "a 64-bit integer".into())?,
            unknown_fields: Unasked(self.unknown),
        })
    }

    fn signed(&self, refusal: Refusal) -> Refusal {
        let text = |raw: Option<&RawValue>| serde_json::from_str::<String>(raw?.get()).ok();
        let (request_id, app) = (text(self.request_id), text(self.app_name));
        signed(refusal, request_id.as_deref(), app.as_deref())
    }
}

/// What the value begins to be, if not an object.
fn what_else(json: &str) -> Option<&'static str> {
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

/// A key, copied only if it is written with escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Visitor<'a> for FindFields<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.0;
        while let Some(Key(name)) = map.next_key()? {
            match fields.named(&name) {
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

/// Many producers write `null` for what they leave out.
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

fn operation_rule() -> String {
    r#""schedule", "cancel" or "reschedule""#.into()
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
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"{"requestId":"r1","appName":"sms","scheduledTime":1762185600000}"#;

    fn sound(json: &str) -> ScheduleJobRequest {
        decode(json.as_bytes()).unwrap_or_else(|refusal| panic!("{json}: {refusal}"))
    }

    /// `value` must be refused as `kind` in words that have all of `said`.
    fn check(value: impl AsRef<[u8]>, kind: ErrorKind, said: &[&str]) -> Refusal {
        let value = value.as_ref();
        let shown = String::from_utf8_lossy(value);
        let refusal = decode(value).expect_err(&shown);
        assert_eq!(refusal.kind, kind, "{shown}: {refusal}");
        for said in said {
            assert!(refusal.message.contains(said), "{said} in {shown}: {refusal}");
        }
        assert!(refusal.message.chars().count() < 400, "{refusal}");
        refusal
    }

    /// A sound request but for `field`, whose refusal must name it and say all of `said`.
    fn check_field(field: &str, value: &str, said: &[&str]) {
        let others = [("requestId", "\"r1\""), ("appName", "\"sms\""), ("scheduledTime", "0")];
        let mut json = format!("{{\"{field}\":{value}");
        for (name, value) in others.iter().filter(|(name, _)| *name != field) {
            json += &format!(",\"{name}\":{value}");
        }
        json += "}";
        let refusal = check(&json, ErrorKind::InvalidField, said);
        assert!(refusal.message.starts_with(field), "{json}: {refusal}");
        let name = |name: &str, own: &str| (field != name).then(|| own.to_owned());
        assert_eq!(refusal.request_id, name("requestId", "r1"), "{json}");
        assert_eq!(refusal.app, name("appName", "sms"), "{json}");
    }

    #[test]
    fn every_field_is_read() {
        let request = sound(
            r#" {"version":-3, "timeoutMs":1500, "maxAttempts":5, "targetRequestId":"t",
                "operation":"reschedule", "idempotencyKey":"k", "priority":"HIGH",
                "jobData":{"b":1.0, "a":[10e2,{}],"a":"\u0061"}, "expiresTime":[2025,11,3,23,0],
                "scheduledTime":"2025-11-03T22:00:00+06:00", "appName":"sms", "requestId":"r\u00e9"}
            "#,
        );
        assert_eq!(request.request_id.as_deref(), Some("ré"));
        assert_eq!(request.app_name, "sms");
        assert_eq!(request.scheduled_time.unwrap().to_string(), "2025-11-03T16:00:00Z");
        assert_eq!(request.expires_time.unwrap().to_string(), "2025-11-03T23:00:00");
        assert_eq!(request.job_data.as_str(), r#"{"b":1.0, "a":[10e2,{}],"a":"\u0061"}"#);
        assert_eq!(request.priority, Priority::High);
        assert_eq!(request.idempotency_key.as_deref(), Some("k"));
        assert_eq!(request.operation, super::super::Operation::Reschedule);
        assert_eq!(request.target_request_id.as_deref(), Some("t"));
        assert_eq!(request.max_attempts.unwrap().get(), 5);
        assert_eq!(request.timeout_ms.unwrap().get(), 1500);
        assert_eq!(request.version, Some(-3));
        assert_eq!(request.unknown_fields(), 0);
        assert_eq!(sound(&request.to_json()), request);
    }

    #[test]
    fn null_and_absent_are_the_default() {
        let absent = sound(r#"{"appName":"sms","scheduledTime":0}"#);
        let null = sound(
            r#"{"appName":"sms","scheduledTime":0,"requestId":null,"expiresTime":null,
               "jobData":null,"priority":null,"idempotencyKey":null,"operation":null,
               "targetRequestId":null,"maxAttempts":null,"timeoutMs":null,"version":null}"#,
        );
        assert_eq!(absent, null);
        assert_eq!(absent.job_data.as_str(), "{}");
        assert_eq!(absent.priority, Priority::Normal);
    }

    #[test]
    fn unknown_fields_are_counted_and_kept_out() {
        let more = sound(&SOUND.replacen('{', r#"{"new":{"x":[1]},"appname":1,"new":2,"#, 1));
        assert_eq!(more.unknown_fields(), 3);
        assert_eq!(more, sound(SOUND));
        assert_eq!(more.to_json(), sound(SOUND).to_json());
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(sound(&format!("\u{feff}{SOUND}")), sound(SOUND));
    }

    #[test]
    fn what_is_no_text_or_no_object_says_what_it_is() {
        check("", ErrorKind::EmptyValue, &["no value"]);
        check("\u{feff}", ErrorKind::EmptyValue, &["no value"]);
        check(b"{\"appName\":\"\xff\"}", ErrorKind::InvalidEncoding, &["byte 12", "0xff"]);
        for (json, said) in [
            (" \n", "line 2 column 0"),
            ("nonsense", "line 1"),
            ("[1,2]", "an array"),
            (" \"x\"", "a string"),
            ("-12", "a number"),
            ("false", "a boolean"),
            ("null", "is null"),
            ("[1,", "not JSON"),
            ("{\n  \"appName\": }", "line 2 column 14"),
            ("{'appName':1}", "line 1 column 2"),
            ("{\"appName\":\"sms\"} {}", "trailing characters"),
            ("{\"appName\":\"sms\",}", "trailing comma"),
        ] {
            check(json, ErrorKind::InvalidJson, &[said]);
        }
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused_in_known_and_unknown_fields() {
        for field in ["jobData", "other"] {
            let nested = |depth| {
                let arrays = depth - 2;
                let data = format!("{{\"a\":{}{}}}", "[".repeat(arrays), "]".repeat(arrays));
                SOUND.replacen('{', &format!("{{\"{field}\":{data},"), 1)
            };
            sound(&nested(MAX_DEPTH));
            for depth in [MAX_DEPTH + 1, 100_000] {
                let refusal = check(nested(depth), ErrorKind::InvalidJson, &["127 levels deep"]);
                assert_eq!(refusal.request_id.as_deref(), Some("r1"));
            }
        }
    }

    #[test]
    fn a_known_field_given_twice_is_named() {
        for (json, name) in [
            (r#"{"appName":"sms","appName":"sms","scheduledTime":0}"#, "appName"),
            (r#"{"appName":"sms","version":null,"v":1,"\u0076ersion":1}"#, "version"),
            (r#"{"appName":"sms","jobData":{},"scheduledTime":"x","jobData":7}"#, "jobData"),
        ] {
            let refusal = check(json, ErrorKind::DuplicateField, &[name]);
            assert_eq!(refusal.app.as_deref(), Some("sms"));
        }
    }

    #[test]
    fn a_missing_field_is_named_with_the_reason_it_is_needed() {
        let missing = ErrorKind::MissingField;
        check("{}", missing, &["appName"]);
        check(r#"{"appName":null,"scheduledTime":0}"#, missing, &["appName"]);
        check(r#"{"appName":"sms"}"#, missing, &["scheduledTime", "schedule"]);
        let cancel = r#"{"appName":"sms","operation":"cancel"}"#;
        check(cancel, missing, &["targetRequestId", "idempotencyKey", "cancel"]);
        let reschedule = r#"{"appName":"sms","operation":"reschedule","idempotencyKey":"k"}"#;
        check(reschedule, missing, &["scheduledTime", "reschedule"]);
        sound(r#"{"appName":"sms","operation":"cancel","idempotencyKey":"k"}"#);
        sound(r#"{"appName":"sms","operation":"cancel","targetRequestId":"t"}"#);
    }

    #[test]
    fn a_wrong_value_is_shown_with_the_way_out() {
        let long = |chars| format!("\"{}\"", "é".repeat(chars));
        for (field, value, said) in [
            ("appName", "\"SMS\"", &["\"SMS\"", "a-z"][..]),
            ("appName", "[]", &["[]", "a-z"]),
            ("requestId", "17", &["17", "string"]),
            ("requestId", "\"\"", &["1 to 128 characters"]),
            ("requestId", &long(129), &["1 to 128 characters", "…"]),
            ("requestId", r#""a\u0000b""#, &["NUL"]),
            ("requestId", r#""\ud800""#, &["Unicode"]),
            ("targetRequestId", &long(129), &["1 to 128 characters"]),
            ("idempotencyKey", &long(256), &["1 to 255 characters"]),
            ("idempotencyKey", "{\"a\":1}", &["{\"a\":1}", "string"]),
            ("scheduledTime", "\"2025-02-30T00:00\"", &["2025-02-30", "no day 30", "RFC 3339"]),
            ("scheduledTime", "1.5", &["1.5 is not a time"]),
            ("expiresTime", "\"soon\"", &["\"soon\" is not a time"]),
            ("jobData", "[1,2]", &["[1,2]", "a JSON object"]),
            ("jobData", "\"{}\"", &["a JSON object"]),
            ("priority", "\"urgent\"", &["\"urgent\"", "\"normal\""]),
            ("priority", "1", &["1 must be", "\"normal\""]),
            ("operation", "\"Cancel\"", &["\"Cancel\"", "\"cancel\""]),
            ("maxAttempts", "0", &["0 must be", "from 1 to 2147483647"]),
            ("maxAttempts", "2147483648", &["from 1 to 2147483647"]),
            ("maxAttempts", "1.0", &["integer"]),
            ("timeoutMs", "-1", &["-1", "from 1"]),
            ("timeoutMs", "18446744073709551615", &["from 1 to 9223372036854775807"]),
            ("timeoutMs", "9223372036854775808", &["from 1"]),
            ("version", "\"1\"", &["\"1\"", "integer"]),
            ("version", "9223372036854775808", &["64-bit"]),
        ] {
            check_field(field, value, said);
        }
    }

    #[test]
    fn names_may_be_as_long_as_is_documented() {
        let (id, key) = ("é".repeat(128), "😀".repeat(255));
        let json = format!(
            r#"{{"appName":"sms","scheduledTime":0,"requestId":"{id}","idempotencyKey":"{key}"}}"#
        );
        assert_eq!(sound(&json).request_id, Some(id));
    }

    #[test]
    fn numbers_may_be_as_large_as_a_column_holds() {
        let json =
            SOUND.replacen('{', r#"{"maxAttempts":2147483647,"timeoutMs":9223372036854775807,"#, 1);
        let request = sound(&json);
        assert_eq!(request.max_attempts.unwrap().get(), 2_147_483_647);
        assert_eq!(request.timeout_ms.unwrap().get(), 9_223_372_036_854_775_807);
    }

    #[test]
    fn a_refusal_is_signed_with_what_was_read_before_broken_json() {
        let json = r#"{"requestId":"r1","appName":"sms","jobData":{"a":"#;
        let refusal = check(json, ErrorKind::InvalidJson, &["EOF"]);
        assert_eq!(refusal.request_id.as_deref(), Some("r1"));
        assert_eq!(refusal.app.as_deref(), Some("sms"));
    }
}
