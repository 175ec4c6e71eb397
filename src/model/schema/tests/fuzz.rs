//! Any document as a schema, and any data held to it.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::super::*;
use crate::model::tests::arbitrary::{objects, rngs, values};

/// Keywords of all drafts that do something.
const KEYWORDS: [&str; 46] = [
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "$anchor",
    "$id",
    "$defs",
    "definitions",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependencies",
    "prefixItems",
    "items",
    "additionalItems",
    "contains",
    "minContains",
    "maxContains",
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "type",
    "enum",
    "const",
    "multipleOf",
    "maximum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "required",
    "format",
    "contentMediaType",
    "contentEncoding",
];

const DRAFTS: [&str; 5] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-04/schema#",
];

const TEXTS: [&str; 22] = [
    "#",
    "#/$defs/a",
    "#/properties/a",
    "#a",
    "a",
    "b",
    "string",
    "object",
    "array",
    "number",
    "null",
    "date-time",
    "email",
    "idn-hostname",
    "uri-template",
    "regex",
    "uuid",
    "duration",
    "ipv6",
    "json-pointer",
    "application/json",
    "base64",
];

fn leaves() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => prop::sample::select(&TEXTS[..]).prop_map(Value::from),
        2 => r"[a-c()\[\]*+?{}|\\^$.,0-3dwpLuk<>=!:-]{0,10}".prop_map(Value::from),
        2 => (-2..5_i64).prop_map(Value::from),
        2 => any::<bool>().prop_map(Value::from),
        1 => prop::num::f64::NORMAL.prop_map(Value::from),
        1 => Just(json!({})),
        1 => Just(json!(["a"])),
    ]
}

/// Schemas, or nearly: keywords with values that mostly are what they want.
fn documents() -> impl Strategy<Value = Value> {
    let keyword = || prop::sample::select(&KEYWORDS[..]);
    let name = prop::sample::select(vec!["a", "b", "$ref", "^a", "(", "x-y", "/~"]);
    let schema = leaves().prop_recursive(5, 40, 5, move |inner| {
        let named = prop::collection::vec((name.clone(), inner.clone()), 0..4);
        let keywords = prop::collection::vec((keyword(), inner.clone()), 0..4);
        prop_oneof![
            4 => keywords.prop_map(Value::from_iter),
            2 => named.prop_map(Value::from_iter),
            2 => prop::collection::vec(inner, 0..4).prop_map(Value::from),
        ]
    });
    let draft = prop::option::of(prop::sample::select(&DRAFTS[..]));
    (prop::collection::vec((keyword(), schema), 0..4), draft).prop_map(|(keywords, draft)| {
        let draft = draft.map(|draft| ("$schema", json!(draft)));
        Value::from_iter(keywords.into_iter().chain(draft))
    })
}

fn judged(document: Value, data: &str) -> Result<(), TestCaseError> {
    let shown = document.to_string();
    let schema = match JobSchema::new(document) {
        Ok(schema) => schema,
        Err(error) => {
            prop_assert!(error.to_string().starts_with("it is not a JSON Schema: "));
            return Ok(());
        }
    };
    if let Err(refusal) = schema.check(&JobData::from_trusted(data)) {
        let message = refusal.message;
        prop_assert!(message.chars().count() < 600, "{} and {}: {}", shown, data, message);
        prop_assert!(!message.contains(char::is_control), "{} and {}: {:?}", shown, data, message);
    }
    Ok(())
}

/// A text of each kind that some format or pattern may be slow with.
fn long_texts() -> impl Iterator<Item = String> {
    let parts = ["a", "(", "[", "1", "a.", "{", "-", "/", "@", "%", "é", "\\\\", "xn--", "::", " "];
    parts.into_iter().map(|part| part.repeat(40_000 / part.len()))
}

#[test]
fn no_format_is_slow_with_a_long_text_or_overflows_the_stack() {
    let formats = [
        "date",
        "date-time",
        "time",
        "duration",
        "email",
        "idn-email",
        "hostname",
        "idn-hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uri-reference",
        "iri",
        "iri-reference",
        "uuid",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "regex",
    ];
    let of = |format: &&str| json!({"format": format});
    let documents = formats.iter().map(of).chain([
        json!({"pattern": "^(a+)+$"}),
        json!({"pattern": "(a|aa)+$"}),
        json!({"pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}),
        json!({"pattern": ".*.*=.*"}),
        json!({"minLength": 7, "enum": ["a"], "contentEncoding": "base64"}),
    ]);
    for property in documents {
        let document = json!({"$schema": DRAFTS[2], "properties": {"x": property}});
        let schema = JobSchema::new(document).unwrap();
        for text in long_texts() {
            if let Err(refusal) =
                schema.check(&JobData::from_trusted(json!({"x": text}).to_string()))
            {
                assert!(refusal.message.chars().count() < 600, "{schema:?}: {refusal}");
            }
        }
    }
}

#[test]
fn the_deepest_data_does_not_overflow_the_stack() {
    let nested = json!({"anyOf": [
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "object", "additionalProperties": {"$ref": "#"}, "unevaluatedProperties": false},
    ]});
    let schema = JobSchema::new(nested).unwrap();
    for [open, close] in [["[", "]"], ["{\"a\":", "}"]] {
        let data = format!("{{\"a\":{}{{}}{}}}", open.repeat(125), close.repeat(125));
        assert_eq!(schema.check(&JobData::from_trusted(data)), Ok(()));
    }
}

proptest! {
    #[test]
    fn any_json_is_a_schema_or_a_reason(
        document in values(),
        data in objects(),
        mut rng in rngs(),
    ) {
        if let Ok(document) = serde_json::from_str(&document.written(&mut rng)) {
            judged(document, &data.written(&mut rng))?;
        }
    }

    #[test]
    fn any_schema_judges_any_data(document in documents(), data in objects(), mut rng in rngs()) {
        judged(document, &data.written(&mut rng))?;
    }

    #[test]
    fn any_pattern_judges_any_text(
        pattern in r"[a-c()\[\]*+?{}|\\^$.,0-9dwpLuk<>=!:-]{0,16}",
        text in any::<String>(),
    ) {
        let document = json!({
            "properties": {"a": {"pattern": pattern}},
            "patternProperties": Map::from_iter([(pattern, json!(false))]),
        });
        judged(document, &json!({"a": text, "b": "aaab"}).to_string())?;
    }
}
