//! Whether listing all faults of one value by a schema takes bounded time.
//!
//! Whether a value is valid is found in one pass, since results for its parts are cached. A list
//! of all faults is not: each reference is followed anew, and if a schema refers to itself in two
//! places, each level of a value doubles the work.

use std::collections::BTreeMap;

use serde_json::Value;

/// The maximum number of references that listing faults may follow.
const MOST_REFERENCES: usize = 1000;

/// Whether following every reference of `document` ends, and within [`MOST_REFERENCES`].
///
/// References that are not JSON pointers in the document, such as anchors, count as unbounded.
pub(super) fn is_bounded(document: &Value) -> bool {
    // The references of each place, including the document itself.
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut unread = vec![""];
    while let Some(place) = unread.pop() {
        if places.contains_key(place) {
            continue;
        }
        let Some(references) = document.pointer(place).and_then(references) else { return false };
        unread.extend(&references);
        places.insert(place, references);
    }
    // The number of references followed from each place, through one more level in each round.
    let mut followed: BTreeMap<&str, usize> = places.keys().map(|place| (*place, 0)).collect();
    loop {
        let through = |to: &Vec<&str>| to.iter().map(|to| 1 + followed[to]).sum::<usize>();
        let further = places.iter().map(|(place, to)| (*place, through(to))).collect();
        if followed == further {
            return true;
        }
        followed = further;
        if followed.values().any(|count| *count > MOST_REFERENCES) {
            return false;
        }
    }
}

/// The places that `schema` refers to, as JSON pointers; `None` if one may not be such a place,
/// for example in a part with its own `$id`, to which its references are relative.
fn references(schema: &Value) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut unread = vec![schema];
    while let Some(value) = unread.pop() {
        match value {
            Value::Array(items) => unread.extend(items),
            Value::Object(members) => {
                for (name, value) in members {
                    match (name.as_str(), value) {
                        ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(to)) => {
                            found.push(to.strip_prefix('#')?);
                        }
                        ("$id" | "id", Value::String(_)) if Some(members) != schema.as_object() => {
                            return None;
                        }
                        _ => unread.push(value),
                    }
                }
            }
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(document: Value, bounded: bool) {
        assert_eq!(is_bounded(&document), bounded, "{document}");
    }

    #[test]
    fn what_ends_is_bounded() {
        check(json!(true), true);
        check(json!({"properties": {"$ref": {"type": "string"}}}), true);
        check(json!({"$id": "a:b", "properties": {"id": {"type": "string"}}}), true);
        let parts = json!({"b": {}, "c": {"items": {"$ref": "#/$defs/b"}}});
        check(
            json!({"anyOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/b"}], "$defs": parts}),
            true,
        );
    }

    #[test]
    fn what_refers_to_itself_or_to_who_knows_where_is_not() {
        check(json!({"properties": {"a": {"$ref": "#"}}}), false);
        check(json!({"items": {"$ref": "#/items"}}), false);
        let circle = json!({"b": {"$ref": "#/$defs/c"}, "c": {"not": {"$ref": "#/$defs/b"}}});
        check(json!({"$ref": "#/$defs/b", "$defs": circle}), false);
        check(json!({"$ref": "#there", "$defs": {"x": {"$anchor": "there"}}}), false);
        check(json!({"$dynamicRef": "#"}), false);
        check(json!({"items": {"$recursiveRef": "#"}}), false);
        check(json!({"$ref": "http://json-schema.org/draft-07/schema#"}), false);
        check(json!({"$ref": "#/$defs/b"}), false);
        check(json!({"$id": "a:b", "items": {"$id": "c:d"}}), false);
    }

    #[test]
    fn what_doubles_with_each_reference_is_not_for_long() {
        let doubling = |levels: usize| {
            let level = |n: usize| {
                let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
                (n.to_string(), json!({"anyOf": [next, next]}))
            };
            let mut parts: serde_json::Map<_, _> = (0..levels).map(level).collect();
            parts.insert(levels.to_string(), json!({}));
            json!({"properties": {"x": {"$ref": "#/$defs/0"}}, "$defs": parts})
        };
        let wide = |count: usize| {
            let reference = json!({"$ref": "#/$defs/b"});
            json!({"anyOf": vec![reference; count], "$defs": {"b": {}}})
        };
        check(wide(MOST_REFERENCES), true);
        check(wide(MOST_REFERENCES + 1), false);
        check(doubling(3), true);
        check(doubling(20), false);
    }
}
