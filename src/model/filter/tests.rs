//! Which filters are read and which are refused, in which words, and which data they select.

use super::*;
use crate::model::tests::zones;

fn read(pairs: &[(&str, &str)]) -> Result<JobFilter, InvalidFilter> {
    JobFilter::from_pairs(pairs.iter().copied(), None)
}

#[test]
fn every_value_is_read() {
    let filter = read(&[
        ("data", r#"[{"equals":1.0,"pointer":"/a/0"},{"pointer":"","equals":null}]"#),
        ("partition", "a.topic/3"),
        ("errorKind", "refused-by-target"),
        ("key", "k 1"),
        ("priority", "HIGH"),
        ("to", "2030-01-01T08:00:00.5+06:00"),
        ("from", "2030-01-01T01:00:00Z"),
        ("state", "due"),
        ("app", "sms"),
    ])
    .unwrap();
    assert_eq!(filter.app.as_deref(), Some("sms"));
    assert_eq!(filter.state, Some(ListState::Due));
    assert_eq!((filter.from_ms, filter.to_ms), (Some(1_893_459_600_000), Some(1_893_463_200_500)));
    assert_eq!(filter.priority, Some(Priority::High));
    assert_eq!(filter.key.as_deref(), Some("k 1"));
    let partition = TopicPartition { topic: "a.topic".into(), partition: Partition(3) };
    assert_eq!(filter.partition, Some(partition));
    assert_eq!(filter.error_kind, Some(ErrorKind::RefusedByTarget));
    let conditions = [("/a/0", "10e-1"), ("", "null")];
    let conditions = conditions.map(|(pointer, equals)| DataCondition::new(pointer, equals));
    assert_eq!(filter.data, conditions.map(Result::unwrap));
    assert_eq!(read(&[]), Ok(JobFilter::default()));
}

#[test]
fn from_must_be_before_to() {
    let checked = |from, to| read(&[("from", from), ("to", to)]).unwrap().check();
    let (one, two) = ("2030-01-01T08:00:00Z", "2030-01-01T08:00:00.001Z");
    assert_eq!(checked(one, two), Ok(()));
    let refused = checked(one, one).unwrap_err().to_string();
    assert_eq!(refused, format!("from ({one}) must be before to ({one})"));
    assert!(checked(two, one).is_err());
}

#[test]
fn nothing_unknown_repeated_empty_or_malformed_is_ignored() {
    for (pairs, said) in [
        (&[("apps", "sms")][..], &["apps is none of", "mean app?"][..]),
        (&[("App", "sms")], &["mean app?"]),
        (&[("status", "dead")], &["status is none of", "mean state?"]),
        (&[("\u{202e}x", "1")], &["\\u{202e}x is none of"]),
        (&[("", "1")], &["is none of"]),
        (&[("app", "sms"), ("app", "sms")], &["app is given twice"]),
        (&[("app", "")], &["app is empty"]),
        (&[("data", "")], &["data is empty"]),
        (&[("app", "SMS")], &["app is \"SMS\"", "a-z"]),
        (&[("state", "scheduld")], &["\"scheduld\"", "mean scheduled?"]),
        (&[("state", "runing")], &["\"runing\"", "mean running?"]),
        (&[("errorKind", "expird")], &["\"expird\"", "mean expired?"]),
        (&[("priority", "hihg")], &["mean high?"]),
        (&[("key", "a\nb")], &["without control characters"]),
        (&[("partition", "3")], &["\"3\"", "topic"]),
        (&[("partition", "/3")], &["topic"]),
        (&[("partition", "t/-1")], &["topic"]),
        (&[("partition", "t/99999999999")], &["topic"]),
        (&[("from", "2030-01-01T08:00:00 06:00")], &["write %2B"]),
        (&[("from", "2030-01-01T08:00:00")], &["without an offset"]),
        (&[("to", "tomorrow")], &["to \"tomorrow\" is not a time", "RFC 3339"]),
        (&[("data", "[]")], &["no condition"]),
        (&[("data", r#"[{"pointer":"/a"}]"#)], &["equals is missing"]),
        (&[("data", r#"[{"equals":1}]"#)], &["pointer is missing"]),
        (&[("data", r#"[{"pointr":"/a","equals":1}]"#)], &["\"pointr\"", "mean pointer?"]),
        (&[("data", r#"[{"pointer":"/a","pointer":"/a","equals":1}]"#)], &["given twice"]),
        (&[("data", r#"{"pointer":"/a","equals":1}"#)], &["cannot be read", "array"]),
        (&[("data", r#"[{"pointer":"a","equals":1}]"#)], &["begin with a slash"]),
        (&[("data", r#"[{"pointer":"/a~2","equals":1}]"#)], &["~0", "~1"]),
        (&[("data", "x")], &["cannot be read"]),
    ] {
        let refused = read(pairs).unwrap_err().to_string();
        for said in said {
            assert!(refused.contains(said), "{pairs:?}: {refused}");
        }
        assert!(!refused.contains(char::is_control), "{refused:?}");
    }
    let many = vec![r#"{"pointer":"/a","equals":1}"#; 17].join(",");
    assert!(read(&[("data", &format!("[{many}]"))]).is_err());
    let value = DataCondition::new("/a", "sms").unwrap_err().to_string();
    assert!(value.contains("a text needs quotes"), "{value}");
}

#[test]
fn a_time_without_an_offset_is_read_in_the_zone_that_is_given() {
    let berlin = zones::bundled("Europe/Berlin");
    for (text, meant_ms) in [
        ("2027-03-28 00:00", 1806188400000),
        // Skipped when the clocks go forward: the first instant after the gap.
        ("2027-03-28 02:30", 1806195600000),
        ("2027-03-28 00:00Z", 1806192000000),
    ] {
        let filter = JobFilter::from_pairs([("from", text)], Some(&berlin)).unwrap();
        assert_eq!(filter.from_ms, Some(meant_ms), "{text}");
    }
}

#[test]
fn data_is_compared_as_json() {
    let data = r#"{"a":{"b/c":[1,2.50,{"d":null}],"~":"x","":7},"n":1,"n":2,"t":"\u0061"}"#;
    let holds =
        |pointer: &str, equals: &str| DataCondition::new(pointer, equals).unwrap().holds(data);
    for (pointer, equals) in [
        ("/a/b~1c/0", "1.0"),
        ("/a/b~1c/1", "25e-1"),
        ("/a/b~1c/2", r#"{"d":null}"#),
        ("/a/b~1c/2/d", "null"),
        ("/a/~0", "\"x\""),
        ("/a/", "7"),
        ("/t", "\"a\""),
        ("/n", "2"),
        ("/a/b~1c", r#"[1,2.5,{ "d" : null }]"#),
    ] {
        assert!(holds(pointer, equals), "{pointer} {equals}");
    }
    for (pointer, equals) in [
        ("/a/b~1c/0", "\"1\""),
        ("/a/b~1c/00", "1"),
        ("/a/b~1c/+0", "1"),
        ("/a/b~1c/-", "1"),
        ("/a/b~1c/3", "null"),
        ("/x", "null"),
        ("/n", "1"),
        ("/t/0", "\"a\""),
        ("/T", "\"a\""),
        ("", "{}"),
    ] {
        assert!(!holds(pointer, equals), "{pointer} {equals}");
    }
    assert!(DataCondition::new("", data).unwrap().holds(data));
}

#[test]
fn a_filter_is_the_same_however_it_is_written() {
    let canonical = |pairs: &[(&str, &str)]| read(pairs).unwrap().canonical();
    let data = |one: &str, other: &str| format!("[{one},{other}]");
    let (a, b) = (r#"{"pointer":"/a","equals":1}"#, r#"{"equals":2.0,"pointer":"/b"}"#);
    let (one, other) = (data(a, b), data(b, &a.replace('1', "1.0")));
    assert_eq!(
        canonical(&[("app", "sms"), ("from", "2030-01-01T08:00:00Z"), ("data", &one)]),
        canonical(&[("data", &other), ("from", "2030-01-01 14:00:00+0600"), ("app", "sms")]),
    );
    let all = [
        &[][..],
        &[("app", "a")],
        &[("key", "a")],
        &[("state", "due")],
        &[("from", "2030-01-01T08:00:00Z")],
        &[("to", "2030-01-01T08:00:00Z")],
        &[("priority", "low")],
        &[("partition", "a/1")],
        &[("errorKind", "expired")],
        &[("data", r#"[{"pointer":"/a","equals":1}]"#)],
        &[("data", r#"[{"pointer":"/a","equals":2}]"#)],
    ];
    let texts: std::collections::BTreeSet<String> =
        all.iter().map(|pairs| canonical(pairs)).collect();
    assert_eq!(texts.len(), all.len());
}

#[test]
fn states_are_ranges_of_due_times() {
    for (pairs, range) in [
        (&[][..], (None, None)),
        (&[("state", "scheduled")], (Some(6), None)),
        (&[("state", "due")], (None, Some(6))),
        (&[("state", "due"), ("to", "1970-01-01T00:00:00Z")], (None, Some(0))),
        (&[("state", "running")], (None, Some(60_006))),
        (&[("state", "scheduled"), ("from", "1970-01-01T00:00:00.009Z")], (Some(9), None)),
        (&[("state", "scheduled"), ("from", "1970-01-01T00:00:00.001Z")], (Some(6), None)),
    ] {
        assert_eq!(read(pairs).unwrap().due_range(5), range, "{pairs:?}");
    }
}

#[test]
fn a_filter_selects_live_jobs_ended_ones_or_both() {
    use ListState::{Cancelled, Dead, Succeeded};
    for (pairs, live, ended) in [
        (&[][..], true, &[Succeeded, Dead, Cancelled][..]),
        (&[("state", "scheduled")], true, &[]),
        (&[("state", "due")], true, &[]),
        (&[("state", "succeeded")], false, &[Succeeded]),
        (&[("state", "cancelled"), ("priority", "low")], false, &[Cancelled]),
        (&[("errorKind", "expired")], false, &[Dead]),
        (&[("errorKind", "expired"), ("state", "dead")], false, &[Dead]),
    ] {
        let filter = read(pairs).unwrap();
        assert_eq!(filter.check(), Ok(()), "{pairs:?}");
        assert_eq!((filter.selects_live(), &*filter.ended_states()), (live, ended), "{pairs:?}");
        assert_eq!(filter.check_live().is_ok(), live, "{pairs:?}");
    }
    for (pairs, is_of_letters) in [
        (&[("app", "a"), ("errorKind", "expired"), ("partition", "t/1")][..], true),
        (&[("from", "2030-01-01T00:00:00Z")], true),
        (&[("key", "k")], false),
        (&[("state", "dead")], false),
        (&[("priority", "low")], false),
    ] {
        assert_eq!(read(pairs).unwrap().check_letters().is_ok(), is_of_letters, "{pairs:?}");
    }
    let refused = read(&[("errorKind", "expired"), ("state", "due")]).unwrap();
    let why = refused.check().unwrap_err().to_string();
    assert_eq!(why, "errorKind is expired, which no job that is due has: leave out one");
    let why = read(&[("state", "dead")]).unwrap().check_live().unwrap_err().to_string();
    assert_eq!(why, "state is dead, and what has ended cannot be changed: leave it out");
}
