//! What is read from a record, and what is refused in which words.

mod fuzz;

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
        r#" {"version":3, "timeoutMs":1500, "maxAttempts":5, "targetRequestId":"t",
            "operation":"reschedule", "idempotencyKey":"k", "priority":"HIGH",
            "concurrencyKey":"c\u00e9", "flexibleWindowMs":60000,
            "jobData":{"b":1.0, "a":[10e2,{}],"a":"\u0061"}, "expiresTime":[2025,11,3,23,0],
            "scheduledTime":"2025-11-03T22:00:00+06:00", "appName":"sms", "requestId":"r\u00e9"}
        "#,
    );
    assert_eq!(request.request_id.as_deref(), Some("ré"));
    assert_eq!(request.app_name, "sms");
    assert_eq!(request.scheduled_time.unwrap().to_string(), "2025-11-03T16:00:00Z");
    assert_eq!(request.expires_time.unwrap().to_string(), "2025-11-03T23:00:00");
    assert_eq!(request.flexible_window_ms, Some(60_000));
    assert_eq!(request.concurrency_key.as_deref(), Some("cé"));
    assert_eq!(request.job_data.as_str(), r#"{"b":1.0, "a":[10e2,{}],"a":"\u0061"}"#);
    assert_eq!(request.priority, Priority::High);
    assert_eq!(request.idempotency_key.as_deref(), Some("k"));
    assert_eq!(request.operation, super::super::Operation::Reschedule);
    assert_eq!(request.target_request_id.as_deref(), Some("t"));
    assert_eq!(request.max_attempts.unwrap().get(), 5);
    assert_eq!(request.timeout_ms.unwrap().get(), 1500);
    assert_eq!(request.version, Some(3));
    assert_eq!(request.unknown_fields(), 0);
    assert_eq!(sound(&request.to_json()), request);
}

#[test]
fn null_and_absent_are_the_default() {
    let absent = sound(r#"{"appName":"sms","scheduledTime":0}"#);
    let null = sound(
        r#"{"appName":"sms","scheduledTime":0,"requestId":null,"expiresTime":null,
           "flexibleWindowMs":null,"concurrencyKey":null,
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
fn an_unknown_field_is_no_error_whatever_json_allows_in_it() {
    for field in [r#""\ud83d":1"#, r#""a\udc00":"\ud800""#, r#""x":1e400"#, r#""":{"\ud83d":[]}"#] {
        let request = sound(&SOUND.replacen('{', &format!("{{{field},"), 1));
        assert_eq!(request.unknown_fields(), 1, "{field}");
        assert_eq!(request, sound(SOUND), "{field}");
    }
    let raw = SOUND.replacen('{', "{\"a\nb\":1,", 1);
    check(raw, ErrorKind::InvalidJson, &["control character"]);
}

#[test]
fn job_data_keeps_its_bytes_whatever_json_allows_in_it() {
    let data = r#"{"text":"cut \ud83d", "\uDC00":1e400,"n":-0.0}"#;
    let request = sound(&SOUND.replacen('{', &format!("{{\"jobData\":{data},"), 1));
    assert_eq!(request.job_data.as_str(), data);
    assert_eq!(sound(&request.to_json()).job_data.as_str(), data);
}

#[test]
fn names_that_differ_in_white_space_or_case_are_other_names() {
    for name in [" r1", "r1 ", "R1", "r\u{a0}1", "r1\u{200b}"] {
        let request = sound(&SOUND.replace("\"r1\"", &format!("\"{name}\"")));
        assert_eq!(request.request_id.as_deref(), Some(name));
    }
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
fn what_a_serializer_put_around_a_request_is_named_with_the_way_out() {
    let framed = |id: [u8; 4], payload: &str| [&[0][..], &id, payload.as_bytes()].concat();
    let json = ErrorKind::InvalidJson;
    let said = ["Confluent", "schema 12)", "StringSerializer", "KafkaJsonSchemaSerializer"];
    check(framed([0, 0, 0, 12], SOUND), json, &said);
    check(framed([0, 0, 0, 12], &format!("\n {SOUND}")), json, &said);
    check(framed([0, 1, 0x86, 0xa0], SOUND), json, &["Confluent", "schema 100000)"]);
    check(framed([0, 0, 0, 1], "\u{6}sms"), json, &["Confluent", "KafkaAvroSerializer"]);
    for short in [&[0][..], &[0, 0, 0, 0, 12]] {
        let refusal = check(short, json, &["not JSON"]);
        assert!(!refusal.message.contains("Confluent"), "{refusal}");
    }
}

#[test]
fn utf_16_is_named() {
    let units: Vec<u16> = SOUND.encode_utf16().collect();
    let le: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let be: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    for value in [[&[0xff, 0xfe], &le[..]].concat(), [&[0xfe, 0xff], &be[..]].concat(), le, be] {
        check(value, ErrorKind::InvalidEncoding, &["UTF-16", "send JSON in UTF-8"]);
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
        ("requestId", r#""a\u0000b""#, &["without control characters"]),
        ("requestId", r#""a\n""#, &["\"a\\n\"", "without control characters"]),
        ("targetRequestId", r#""\u001f""#, &["without control characters"]),
        ("idempotencyKey", r#""\u007f""#, &["without control characters"]),
        ("requestId", r#""\ud800""#, &["Unicode"]),
        ("targetRequestId", &long(129), &["1 to 128 characters"]),
        ("idempotencyKey", &long(256), &["1 to 255 characters"]),
        ("concurrencyKey", &long(256), &["1 to 255 characters"]),
        ("concurrencyKey", "\"\"", &["1 to 255 characters"]),
        ("concurrencyKey", r#""\u0000""#, &["without control characters"]),
        ("concurrencyKey", "7", &["7 must be", "string"]),
        ("flexibleWindowMs", "-1", &["-1 must be", "from 0"]),
        ("flexibleWindowMs", "1.0", &["integer"]),
        ("flexibleWindowMs", "\"60000\"", &["integer"]),
        ("flexibleWindowMs", "9223372036854775808", &["from 0 to 9223372036854775807"]),
        ("idempotencyKey", "{\"a\":1}", &["{\"a\":1}", "string"]),
        ("scheduledTime", "\"2025-02-30T00:00\"", &["2025-02-30", "no day 30", "RFC 3339"]),
        ("scheduledTime", "1.5", &["1.5 is not a time"]),
        ("scheduledTime", "-62167219200001", &["outside the years 0 to 9999"]),
        ("expiresTime", "[10000,1,1,0,0]", &["the year is 10000"]),
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
        ("version", "9223372036854775808", &["from 0 to 9223372036854775807"]),
        ("version", "-1", &["-1 must be", "from 0"]),
    ] {
        check_field(field, value, said);
    }
}

#[test]
fn an_operation_of_a_later_version_is_named() {
    for name in ["upsert-schedule", "delete-schedule"] {
        let json = SOUND.replacen('{', &format!("{{\"operation\":\"{name}\","), 1);
        let said = [name, "recurring schedules"];
        let refusal = check(&json, ErrorKind::UnsupportedOperation, &said);
        assert_eq!(refusal.request_id.as_deref(), Some("r1"));
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
