//! What the JSON Schema of a request accepts, the decoder accepts, and nothing else.

use serde_json::Value;

use super::*;

fn check(json: &str, is_sound: bool) {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let schema = jsonschema::options().build(&schema).unwrap();
    let value: Value = serde_json::from_str(json).unwrap();
    assert_eq!(schema.is_valid(&value), is_sound, "the schema about {json}");
    let decoded = ScheduleJobRequest::from_json(json.as_bytes());
    assert_eq!(decoded.is_ok(), is_sound, "the decoder about {json}: {decoded:?}");
}

/// A request with this field.
fn with(field: &str, value: &str) -> String {
    match field {
        "appName" => format!(r#"{{"appName":{value},"scheduledTime":0}}"#),
        "scheduledTime" => format!(r#"{{"appName":"sms","scheduledTime":{value}}}"#),
        _ => format!(r#"{{"appName":"sms","scheduledTime":0,"{field}":{value}}}"#),
    }
}

#[test]
fn the_schema_accepts_what_the_decoder_accepts() {
    let text = |length: usize| format!("{:?}", "ж".repeat(length));
    for (field, value, is_sound) in [
        ("appName", "\"a-_9\"", true),
        ("appName", "\"SMS\"", false),
        ("appName", "\"\"", false),
        ("appName", "\"a b\"", false),
        ("appName", "1", false),
        ("appName", "null", false),
        ("requestId", "null", true),
        ("requestId", "\"\"", false),
        ("requestId", &text(128), true),
        ("requestId", &text(129), false),
        ("requestId", r#""a\u0000b""#, false),
        ("requestId", r#""a\u007fb""#, false),
        ("requestId", r#""a\u0080b""#, true),
        ("requestId", "7", false),
        ("idempotencyKey", &text(255), true),
        ("idempotencyKey", &text(256), false),
        ("idempotencyKey", r#""a\nb""#, false),
        ("jobData", "{}", true),
        ("jobData", "null", true),
        ("jobData", r#"{"a":[1,{"b":null}]}"#, true),
        ("jobData", "[]", false),
        ("jobData", "\"x\"", false),
        ("priority", "\"HIGH\"", true),
        ("priority", "\"Normal\"", true),
        ("priority", "\"highest\"", false),
        ("priority", "1", false),
        ("operation", "\"schedule\"", true),
        ("operation", "\"Schedule\"", false),
        ("operation", "\"cancel\"", false),
        ("maxAttempts", "1", true),
        ("maxAttempts", "0", false),
        ("maxAttempts", "2147483647", true),
        ("maxAttempts", "2147483648", false),
        ("maxAttempts", "1.5", false),
        ("timeoutMs", "9223372036854775807", true),
        ("timeoutMs", "0", false),
        ("timeoutMs", "-1", false),
        ("version", "0", true),
        ("version", "9223372036854775807", true),
        ("version", "-1", false),
        ("version", "\"1\"", false),
        ("somethingNew", "[1]", true),
        ("scheduledTime", "null", false),
        ("scheduledTime", "1762185600000", true),
        ("scheduledTime", "-62167219200000", true),
        ("scheduledTime", "-62167219200001", false),
        ("scheduledTime", "253402300800000", false),
        ("scheduledTime", "1.5", false),
        ("scheduledTime", "\"2025-11-03T22:00:00+06:00\"", true),
        ("scheduledTime", "\"2025-11-03 22:00:00Z\"", true),
        ("scheduledTime", "\"2025-11-03t22:00:00.123456789+0600\"", true),
        ("scheduledTime", "\"2025-11-03T22:00:00\"", true),
        ("scheduledTime", "\"2025-11-03T22:00\"", true),
        ("scheduledTime", "\"2025-11-03\"", false),
        ("scheduledTime", "\"2025-13-03T22:00\"", false),
        ("scheduledTime", "\"2025-11-03T24:00\"", false),
        ("scheduledTime", "\"2025-11-03T22:00:60Z\"", false),
        ("scheduledTime", "\"1762185600000\"", false),
        ("scheduledTime", "\"soon\"", false),
        ("scheduledTime", "[2025,11,3,22,0]", true),
        ("scheduledTime", "[2025,11,3,22,0,0,0]", true),
        ("scheduledTime", "[2025,11,3,22]", false),
        ("scheduledTime", "[2025,13,3,22,0]", false),
        ("scheduledTime", "[2025,11,3,22,0,0,0,0]", false),
        (
            "scheduledTime",
            r#"{"date":{"year":2025,"month":11,"day":3},"time":{"hour":22,"minute":0,"second":0,"nano":0}}"#,
            true,
        ),
        (
            "scheduledTime",
            r#"{"date":{"year":2025,"month":11,"day":3},"time":{"hour":22,"minute":0}}"#,
            true,
        ),
        ("scheduledTime", r#"{"date":{"year":2025,"month":11,"day":3}}"#, false),
        (
            "scheduledTime",
            r#"{"date":{"year":2025,"month":11,"day":3},"time":{"hour":22,"minute":0},"offset":1}"#,
            false,
        ),
        ("expiresTime", "null", true),
        ("expiresTime", "\"2025-11-03T22:00:00Z\"", true),
        ("expiresTime", "true", false),
    ] {
        check(&with(field, value), is_sound);
    }
    for (json, is_sound) in [
        (r#"{"appName":"sms"}"#, false),
        (r#"{"scheduledTime":0}"#, false),
        ("[]", false),
        (r#"{"appName":"sms","operation":"cancel","targetRequestId":"r"}"#, true),
        (r#"{"appName":"sms","operation":"cancel","idempotencyKey":"k"}"#, true),
        (r#"{"appName":"sms","operation":"cancel","targetRequestId":null}"#, false),
        (r#"{"appName":"sms","operation":"cancel"}"#, false),
        (r#"{"appName":"sms","operation":"reschedule","targetRequestId":"r"}"#, false),
        (
            r#"{"appName":"sms","operation":"reschedule","targetRequestId":"r","scheduledTime":0}"#,
            true,
        ),
        (r#"{"appName":"sms","operation":null,"scheduledTime":0}"#, true),
    ] {
        check(json, is_sound);
    }
}

#[test]
fn the_schema_names_every_field_and_no_other() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut named: Vec<&str> =
        schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut known = FIELDS.to_vec();
    named.sort_unstable();
    known.sort_unstable();
    assert_eq!(named, known);
}
