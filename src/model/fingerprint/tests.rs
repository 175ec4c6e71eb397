use proptest::prelude::*;

use serde::de::IgnoredAny;

use super::*;
use crate::model::json::MAX_DEPTH;
use crate::model::tests::arbitrary::{damaged, rngs, values};

fn fingerprint(text: &str) -> Fingerprint {
    Fingerprint::of_json(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn check(texts: &[&str], same: bool) {
    for (index, left) in texts.iter().enumerate() {
        for right in &texts[index + 1..] {
            assert_eq!(fingerprint(left) == fingerprint(right), same, "{left} and {right}");
        }
    }
}

#[test]
fn one_value_has_one_fingerprint_however_it_is_written() {
    check(&["1", "1.0", "1e0", "10e-1", "0.1E+1", "100.00e-2", "1e00", "1e-0"], true);
    check(&["0", "-0", "0.0", "-0e9", "0E-99999999999999999999999"], true);
    check(&["1200", "1.2e3", "12e2", "0.0012e6", "1200.000"], true);
    check(&["0.001", "1e-3", "10e-4", "0.1e-000000000000000000000000002"], true);
    check(&["-12.50", "-125e-1", "-1.25e1"], true);
    check(&["123456789012345678901234567890", "12345678901234567890123456789e1"], true);
    check(&["1e99999999999999999999", "1.0E+099999999999999999999"], true);
    check(&[r#""a/\"\\""#, r#""\u0061\/\u0022\u005C""#], true);
    check(&[r#""\n\t\b\f\r""#, r#""\u000a\u0009\u0008\u000C\u000d""#], true);
    check(&[r#""é😀""#, r#""\u00e9\ud83d\ude00""#, r#""\u00E9\uD83D\uDE00""#], true);
    check(
        &[r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true ,\n null ] , \"\\u0061\": 1.0 }"],
        true,
    );
}

#[test]
fn different_values_have_different_fingerprints() {
    check(&["1", "-1", "10", "0.1", "11", "1.01", "101", "0", r#""1""#, "[1]", "true"], false);
    check(&["9007199254740993", "9007199254740992", "9007199254740992.5"], false);
    check(&["0.1", "0.10000000000000000001", "1e400", "1e401", "-1e400", "1e-400"], false);
    check(&["1e99999999999999999999", "1e99999999999999999998"], false);
    check(&["1e99999999999999999999", "1e-99999999999999999999", "2e99999999999999999999"], false);
    check(&["null", "true", "false", "{}", "[]", r#""""#, r#""null""#, "[null]"], false);
    check(&["[1,2]", "[2,1]", "[[1],2]", "[1,[2]]", "[1,2,[]]", "[[1,2]]", "[12]"], false);
    check(&[r#"["a","b"]"#, r#"["ab"]"#, r#"["","ab"]"#, r#"["a\",\"b"]"#], false);
    check(&[r#"{"a":"b"}"#, r#"{"b":"a"}"#, r#"["a","b"]"#, r#"{"a":{"b":1}}"#], false);
    check(&[r#"{"a":{},"b":1}"#, r#"{"a":{"b":1}}"#, r#"{"a":null}"#, "{}"], false);
    check(
        &[r#""\ud800""#, r#""\ud801""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ufffd""#],
        false,
    );
    check(&[r#""\ud83d\ude00""#, r#""\ude00\ud83d""#, r#""\ud83d""#, r#""\ud83dx""#], false);
}

#[test]
fn of_a_key_given_twice_both_values_count_in_their_order() {
    check(&[r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#, r#"{"a":1}"#, r#"{"a":2}"#], false);
    check(&[r#"{"a":1,"b":0,"a":2}"#, r#"{"b":0,"\u0061":1,"a":2}"#], true);
}

#[test]
fn what_is_not_json_or_too_deep_is_an_error() {
    for bad in ["", "{", "01", "1.", "nul", "{} {}", r#""\x""#, "\"\n\"", r#""\ud8""#, "+1"] {
        assert!(Fingerprint::of_json(bad).is_err(), "{bad}");
    }
    let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
    assert!(Fingerprint::of_json(&nested(MAX_DEPTH)).is_ok());
    for depth in [MAX_DEPTH + 1, 100_000] {
        let error = Fingerprint::of_json(&nested(depth)).unwrap_err();
        assert!(error.to_string().contains("levels deep"), "{error}");
    }
}

#[test]
fn it_survives_being_a_row() {
    let fingerprint = fingerprint("{}");
    assert_eq!(Fingerprint::from_bytes(fingerprint.into_bytes()), fingerprint);
}

#[test]
fn it_never_changes_because_databases_hold_it() {
    let pinned = fingerprint(r#"{"b":[1.50,"x",null,true],"a":{}}"#);
    assert_eq!(format!("{pinned:?}"), "8dff8da4-7241-a6f6-2eb6-699c46c8a835");
    let pinned = fingerprint(
        r#"["\ud83d\ude00\ud9ab\u00e9\n",-0.5e-7,12300,1e99999999999999999999,-2E-99999999999999999999]"#,
    );
    assert_eq!(format!("{pinned:?}"), "b9fe2d30-c838-1eab-b2db-86d6df2b4520");
}

proptest! {
    #[test]
    fn the_way_a_value_is_written_does_not_count(value in values(), mut rng in rngs()) {
        let (left, right) = (value.written(&mut rng), value.written(&mut rng));
        prop_assert_eq!(fingerprint(&left), fingerprint(&right), "{} and {}", left, right);
    }

    #[test]
    fn the_smallest_change_of_a_value_counts(value in values(), mut rng in rngs()) {
        let other = value.changed(&mut rng);
        let (left, right) = (value.written(&mut rng), other.written(&mut rng));
        let same = value.sorted() == other.sorted();
        prop_assert_eq!(fingerprint(&left) == fingerprint(&right), same, "{} and {}", left, right);
    }

    #[test]
    fn values_that_differ_differ(left in values(), right in values(), mut rng in rngs()) {
        let same = left.sorted() == right.sorted();
        let (left, right) = (left.written(&mut rng), right.written(&mut rng));
        prop_assert_eq!(fingerprint(&left) == fingerprint(&right), same, "{} and {}", left, right);
    }

    #[test]
    fn any_text_gives_a_fingerprint_or_an_error(text in r#"[\[\]{}",:\\u0-9a-fe.+\- ]{0,40}"#) {
        let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        prop_assert_eq!(Fingerprint::of_json(&text).is_ok(), is_json);
    }

    #[test]
    fn json_that_was_damaged_gives_a_fingerprint_or_an_error(
        value in values(),
        mut rng in rngs(),
    ) {
        let text = damaged(&value.written(&mut rng), &mut rng);
        let text = String::from_utf8_lossy(&text);
        let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        prop_assert_eq!(Fingerprint::of_json(&text).is_ok(), is_json);
    }
}
