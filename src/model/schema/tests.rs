//! What a schema takes, what it refuses and in which words.

mod fuzz;

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
