//! Every kind of invalid record, and the message of its letter.

use crate::support::kafka::RawRecord;

/// A record that must become a dead letter.
pub(super) struct Bad {
    what: &'static str,
    pub(super) record: RawRecord,
    kind: &'static str,
    /// What its message must name: the field, the value, what would be valid.
    says: Vec<&'static str>,
    request_id: Option<&'static str>,
}

impl Bad {
    pub(super) fn check(&self, letter: &RawRecord, topic: &str, offset: i64) {
        let what = self.what;
        assert_eq!(letter.key, self.record.key, "{what}: the key");
        assert!(letter.value == self.record.value, "{what}: the value");
        let (own, added) = letter.headers.split_at(self.record.headers.len());
        assert_eq!(own, self.record.headers, "{what}: the record's own headers");

        let mut names = vec![
            "original-topic",
            "original-partition",
            "original-offset",
            "original-timestamp",
            "error-kind",
            "error-message",
            "error-timestamp",
            "attempts",
        ];
        names.extend(self.request_id.map(|_| "request-id"));
        let added_names: Vec<_> = added.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(added_names, names, "{what}: the headers that are added");
        let header = |name: &str| letter.header(name).unwrap_or_else(|| panic!("{what}: {name}"));
        assert_eq!(header("original-topic"), topic, "{what}");
        assert_eq!(header("original-partition"), "0", "{what}");
        assert_eq!(header("original-offset"), offset.to_string(), "{what}");
        assert_eq!(header("attempts"), "1", "{what}");
        assert_eq!(letter.header("request-id"), self.request_id, "{what}");
        for name in ["original-timestamp", "error-timestamp"] {
            let ms: i64 = header(name).parse().expect("epoch milliseconds");
            assert!((letter.timestamp_ms - ms).abs() < 600_000, "{what}: {name} {ms}");
        }
        let (kind, message) = (header("error-kind"), header("error-message"));
        assert_eq!(kind, self.kind, "{what}: {message}");
        for said in &self.says {
            assert!(message.contains(said), "{what}: {said:?} must be in {message:?}");
        }
        // A value may be as long as a record: it is shown, not repeated.
        assert!(message.chars().count() < 500, "{what}: {message}");
    }
}

pub(super) fn bad_records() -> Vec<Bad> {
    let mut all: Vec<Bad> = Vec::new();
    let mut add = |what, value: Option<Vec<u8>>, kind, says: &[&'static str], request_id| {
        // Binary keys and headers, and one that is named like one of ours.
        let n = all.len() as u8;
        let record = RawRecord { value, ..RawRecord::default() }
            .with_key([0, 255, n])
            .with_header("binary", [0xff, 0x00, 0xfe, n])
            .with_header("empty", [])
            .with_header("text", "é\u{1F600}")
            .with_header("error-kind", "the producer's own");
        all.push(Bad { what, record, kind, says: says.to_vec(), request_id });
    };
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let json = ["not JSON", "line 1", "send a request as a JSON object"];
    add("not JSON", text("hello"), "invalid-json", &json, None);
    add("JSON that ends", text(r#"{"requestId":"r","#), "invalid-json", &json, Some("r"));
    add("NUL bytes", text("\0\0"), "invalid-json", &json, None);
    let framed = |payload: &[u8]| Some([&[0, 0, 0, 0, 12], payload].concat());
    let framing = ["Confluent", "schema 12", "send the JSON alone", "KafkaJsonSchemaSerializer"];
    let sound = br#"{"requestId":"r","appName":"sms","scheduledTime":0}"#;
    add("JSON framed by Confluent", framed(sound), "invalid-json", &framing, None);
    add("Avro", framed(b"\x02r\x06sms"), "invalid-json", &["Confluent", "Avro"], None);
    let utf16 = sound.iter().flat_map(|byte| [*byte, 0]).collect();
    add("UTF-16", Some(utf16), "invalid-encoding", &["UTF-16", "send JSON in UTF-8"], None);
    add("an array", text("[1]"), "invalid-json", &["an array", "must be a JSON object"], None);
    add("null as JSON", text("null"), "invalid-json", &["null", "must be a JSON object"], None);
    let not_utf8 = b"{\"appName\":\"\xff\"}".to_vec();
    add(
        "not UTF-8",
        Some(not_utf8),
        "invalid-encoding",
        &["UTF-8", "byte 12 is 0xff", "send JSON in UTF-8"],
        None,
    );
    add(
        "no byte",
        Some(Vec::new()),
        "empty-value",
        &["no value", "send a request as a JSON"],
        None,
    );
    add("a null value", None, "empty-value", &["null value", "send a ScheduleJobRequest"], None);

    for (what, fields, kind, says) in [
        (
            "no appName",
            r#""scheduledTime":0"#,
            "missing-field",
            &["appName is missing", "names its app"][..],
        ),
        ("no time", r#""appName":"sms""#, "missing-field", &["scheduledTime is missing", "when"]),
        (
            "null time",
            r#""appName":"sms","scheduledTime":null"#,
            "missing-field",
            &["scheduledTime"],
        ),
        (
            "app as number",
            r#""appName":7,"scheduledTime":0"#,
            "invalid-field",
            &["appName 7", "a-z"],
        ),
        (
            "unknown app",
            r#""appName":"nobody","scheduledTime":0"#,
            "unknown-app",
            &["appName \"nobody\"", "register it", "sms"],
        ),
        (
            "NUL in appName",
            r#""appName":"s\u0000s","scheduledTime":0"#,
            "invalid-field",
            &["appName", "s\\0s", "a-z"],
        ),
        (
            "appName twice",
            r#""appName":"sms","appName":"sms","scheduledTime":0"#,
            "duplicate-field",
            &["appName occurs twice", "send it once"],
        ),
        (
            "jobData twice",
            r#""appName":"sms","jobData":{},"scheduledTime":0,"jobData":{}"#,
            "duplicate-field",
            &["jobData occurs twice", "send it once"],
        ),
    ] {
        let value = format!(r#"{{"requestId":"r",{fields}}}"#);
        add(what, Some(value.into_bytes()), kind, says, Some("r"));
    }
    for (what, fields, kind, says) in [
        (
            "time as boolean",
            r#""scheduledTime":true"#,
            "invalid-field",
            &["scheduledTime true", "RFC 3339"][..],
        ),
        (
            "tomorrow",
            r#""scheduledTime":"tomorrow""#,
            "invalid-field",
            &["scheduledTime \"tomorrow\"", "RFC 3339"],
        ),
        (
            "30 February",
            r#""scheduledTime":"2026-02-30T00:00:00Z""#,
            "invalid-field",
            &["scheduledTime \"2026-02-30T00:00:00Z\"", "no day 30", "RFC 3339"],
        ),
        (
            "too far ahead",
            r#""scheduledTime":"2999-01-01T00:00:00Z""#,
            "schedule-too-far",
            &["scheduledTime 2999-01-01T00:00:00Z", "3650 days", "max_schedule_ahead", "ask again"],
        ),
        (
            "no time at all",
            r#""scheduledTime":9223372036854775807"#,
            "invalid-field",
            &["scheduledTime 9223372036854775807"],
        ),
        (
            "the year 10000",
            r#""scheduledTime":0,"expiresTime":253402300800000"#,
            "invalid-field",
            &["expiresTime 253402300800000", "years 0 to 9999"],
        ),
        (
            "before the year 0",
            r#""scheduledTime":-8000000000000000"#,
            "invalid-field",
            &["scheduledTime -8000000000000000", "years 0 to 9999"],
        ),
        (
            "too far ahead by a local time",
            r#""scheduledTime":"2999-01-01T00:00""#,
            "schedule-too-far",
            &["scheduledTime 2999-01-01T00:00:00 (2999-01-01T00:00:00Z, read in UTC)"],
        ),
        (
            "expired before it begins",
            r#""scheduledTime":1000,"expiresTime":999"#,
            "invalid-field",
            &["expiresTime", "before scheduledTime"],
        ),
        (
            "data as array",
            r#""scheduledTime":0,"jobData":[1]"#,
            "invalid-field",
            &["jobData [1]", "a JSON object"],
        ),
        (
            "data as text",
            r#""scheduledTime":0,"jobData":"{}""#,
            "invalid-field",
            &["jobData \"{}\"", "a JSON object"],
        ),
        (
            "urgent",
            r#""scheduledTime":0,"priority":"urgent""#,
            "invalid-field",
            &["priority \"urgent\"", "\"high\""],
        ),
        (
            "attempts as text",
            r#""scheduledTime":0,"maxAttempts":"3""#,
            "invalid-field",
            &["maxAttempts \"3\"", "integer"],
        ),
        (
            "no attempt",
            r#""scheduledTime":0,"maxAttempts":0"#,
            "invalid-field",
            &["maxAttempts 0", "from 1"],
        ),
        (
            "negative timeout",
            r#""scheduledTime":0,"timeoutMs":-1"#,
            "invalid-field",
            &["timeoutMs -1", "from 1"],
        ),
        (
            "version as text",
            r#""scheduledTime":0,"version":"1""#,
            "invalid-field",
            &["version \"1\"", "integer"],
        ),
        (
            "key as object",
            r#""scheduledTime":0,"idempotencyKey":{}"#,
            "invalid-field",
            &["idempotencyKey {}", "string"],
        ),
        (
            "a line feed in the key",
            r#""scheduledTime":0,"idempotencyKey":"k\n""#,
            "invalid-field",
            &["idempotencyKey \"k\\n\"", "without control characters"],
        ),
        (
            "NUL in the key",
            r#""scheduledTime":0,"idempotencyKey":"a\u0000b""#,
            "invalid-field",
            &["idempotencyKey", "a\\0b", "without control characters"],
        ),
        (
            "unknown operation",
            r#""scheduledTime":0,"operation":"delete""#,
            "invalid-field",
            &["operation \"delete\"", "\"schedule\""],
        ),
    ] {
        let value = format!(r#"{{"requestId":"r","appName":"sms",{fields}}}"#);
        add(what, Some(value.into_bytes()), kind, says, Some("r"));
    }
    for (what, fields, says) in [
        ("request id as number", r#""requestId":17"#, &["requestId 17", "string"][..]),
        ("empty request id", r#""requestId":"""#, &["requestId \"\"", "1 to 128 characters"]),
        (
            "NUL in the request id",
            r#""requestId":"a\u0000b""#,
            &["requestId", "a\\0b", "without control characters"],
        ),
        ("half a character", r#""requestId":"\ud800""#, &["requestId", "Unicode"]),
    ] {
        let value = format!(r#"{{"appName":"sms","scheduledTime":0,{fields}}}"#);
        add(what, Some(value.into_bytes()), "invalid-field", says, None);
    }
    let long = |field: &str, length: usize| {
        let sound = [("requestId", "r"), ("appName", "sms")].into_iter();
        let sound = sound.filter(|(name, _)| *name != field);
        let fields: String = sound.map(|(name, value)| format!(r#""{name}":"{value}","#)).collect();
        let value = "é".repeat(length);
        Some(format!(r#"{{{fields}"scheduledTime":0,"{field}":"{value}"}}"#).into_bytes())
    };
    let id = ["requestId \"é", "…", "1 to 128 characters"];
    add("a request id of 129", long("requestId", 129), "invalid-field", &id, None);
    let key = ["idempotencyKey \"é", "…", "1 to 255 characters"];
    add("a key of 256", long("idempotencyKey", 256), "invalid-field", &key, Some("r"));
    let app = format!(r#"{{"appName":"{}","scheduledTime":0,"requestId":"r"}}"#, "a".repeat(65));
    let says = ["appName \"aaa", "1 to 64"];
    add("an app name of 65", Some(app.into_bytes()), "invalid-field", &says, Some("r"));

    for (what, field) in [("deep data", "jobData"), ("a deep unknown field", "other")] {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(20_000), "}".repeat(20_000));
        let value =
            format!(r#"{{"requestId":"r","appName":"sms","scheduledTime":0,"{field}":{deep}}}"#);
        add(
            what,
            Some(value.into_bytes()),
            "invalid-json",
            &["127 levels deep", "send it flatter"],
            Some("r"),
        );
    }
    let brackets = "[".repeat(20_000).into_bytes();
    add("brackets that never close", Some(brackets), "invalid-json", &["JSON"], None);
    all
}
