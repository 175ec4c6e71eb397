//! Every form, every gap and overlap, and what is refused.

mod fuzz;

use super::*;
use crate::model::tests::zones;

/// What `json` means, written out; a refusal must show the value and the way out.
fn check(json: &str, expected: Result<&str, &str>) {
    let read = ScheduledTime::from_json(json);
    match expected {
        Ok(time) => {
            let read = read.unwrap_or_else(|error| panic!("{json}: {error}"));
            assert_eq!(read.to_string(), time, "{json}");
            let again = ScheduledTime::from_json(&serde_json::to_string(&read).unwrap());
            assert_eq!(again, Ok(read), "{json}");
        }
        Err(reason) => {
            let message = read.expect_err(json).to_string();
            assert!(message.contains(reason), "{json}: {message}");
            assert!(message.starts_with(&shortened(json)), "{json}: {message}");
            assert!(message.contains("RFC 3339"), "{json}: {message}");
            assert!(serde_json::from_str::<ScheduledTime>(json).is_err(), "{json}");
        }
    }
}

#[test]
fn every_documented_form_is_read() {
    for (json, time) in [
        (r#""2025-11-03T22:00:00+06:00""#, "2025-11-03T16:00:00Z"),
        (r#""2025-11-03 22:00:00+0600""#, "2025-11-03T16:00:00Z"),
        (r#""2025-11-03t22:00:00z""#, "2025-11-03T22:00:00Z"),
        (r#""2025-11-03T22:00:00.5-00:00""#, "2025-11-03T22:00:00.500Z"),
        (r#""2025-11-03T22:00:00.123456789Z""#, "2025-11-03T22:00:00.123456789Z"),
        (r#""2025-11-03T22:00-03:30""#, "2025-11-04T01:30:00Z"),
        (r#""2025-11-03T22:00:00""#, "2025-11-03T22:00:00"),
        (r#""2025-11-03T22:00""#, "2025-11-03T22:00:00"),
        (r#""2025-11-03 22:00:00.25""#, "2025-11-03T22:00:00.250"),
        (r#""2024-02-29T00:00""#, "2024-02-29T00:00:00"),
        (r#""\u0032025-11-03T22:00""#, "2025-11-03T22:00:00"),
        ("1762185600000", "2025-11-03T16:00:00Z"),
        ("0", "1970-01-01T00:00:00Z"),
        ("-1", "1969-12-31T23:59:59.999Z"),
        ("1762185600", "1970-01-21T09:29:45.600Z"),
        ("[2025,11,3,22,0]", "2025-11-03T22:00:00"),
        ("[2025, 11, 3, 22, 0, 7]", "2025-11-03T22:00:07"),
        ("[2025,11,3,22,0,7,1000]", "2025-11-03T22:00:07.000001"),
        (
            r#"{"date":{"year":2025,"month":11,"day":3},
                "time":{"hour":22,"minute":0,"second":0,"nano":5000000}}"#,
            "2025-11-03T22:00:00.005",
        ),
    ] {
        check(json, Ok(time));
    }
}

#[test]
fn years_are_0_to_9999_in_every_form() {
    check("-62167219200000", Ok("0000-01-01T00:00:00Z"));
    check("253402300799999", Ok("9999-12-31T23:59:59.999Z"));
    check("[0,1,1,0,0]", Ok("0000-01-01T00:00:00"));
    check("[9999,12,31,23,59,59,999999999]", Ok("9999-12-31T23:59:59.999999999"));
    for (json, reason) in [
        ("-62167219200001", "outside the years 0 to 9999"),
        ("253402300800000", "outside the years 0 to 9999"),
        ("[-1,12,31,23,59]", "the year is -1, it must be 0 to 9999"),
        ("[12345,1,2,3,4,5,6]", "the year is 12345"),
        (
            r#"{"date":{"year":10000,"month":1,"day":1},"time":{"hour":0,"minute":0}}"#,
            "the year is 10000",
        ),
        (r#""9999-12-31T23:59:59-00:01""#, "in UTC its year is not one of 0 to 9999"),
    ] {
        check(json, Err(reason));
    }
}

#[test]
fn a_time_that_a_zone_or_rounding_takes_out_of_those_years_has_no_millisecond() {
    for (time, zone, resolved) in [
        ("0000-01-01T05:59", "Asia/Dhaka", None),
        ("9999-12-31T22:00", "America/New_York", None),
        ("9999-12-31T18:59:59", "Etc/GMT+5", Some(253_402_300_799_000)),
        ("9999-12-31T23:59:59.999", "UTC", Some(253_402_300_799_999)),
        ("9999-12-31T23:59:59.9990001", "UTC", None),
        ("9999-12-31T23:59:59.9990001Z", "UTC", None),
    ] {
        let read: ScheduledTime = time.parse().unwrap();
        assert_eq!(read.resolve_ms(&zones::bundled(zone)), resolved, "{time} in {zone}");
    }
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    for (json, reason) in [
        (r#""""#, "year must have 4 digits"),
        (r#""soon""#, "year must have 4 digits"),
        (r#""2025-11-03""#, "time of day"),
        (r#""2025-02-30T00:00:00""#, "no day 30 in month 2 of year 2025"),
        (r#""2025-13-01T00:00:00""#, "month is 13"),
        (r#""2025-11-03T24:00:00""#, "hour is 24"),
        (r#""2025-11-03T22:60:00""#, "minute is 60"),
        (r#""2016-12-31T23:59:60Z""#, "leap seconds"),
        (r#""2025-11-03T22:00:61""#, "second is 61"),
        (r#""2025-11-03T22:00:00.""#, "fraction has no digits"),
        (r#""2025-11-03T22:00:00.1234567890Z""#, "more than 9 digits"),
        (r#""2025-11-03T22:00:00+25:00""#, "offset's hour is 25"),
        (r#""2025-11-03T22:00:00+06""#, "offset's minute must have 2 digits"),
        (r#""2025-11-03T22:00:00+06:00[Asia/Dhaka]""#, "[Asia/Dhaka]"),
        (r#""2025-11-03T22:00:00 UTC""#, "should not be there"),
        (r#"" 2025-11-03T22:00:00""#, "year must have 4 digits"),
        (r#""-2025-11-03T22:00:00Z""#, "year must have 4 digits"),
        (r#""2025-11-03T22:00:00é""#, "é"),
        (r#""0000-01-01T00:00:00+01:00""#, "in UTC"),
        (r#""1762185600000""#, "without the quotes"),
        ("1762185600000.5", "whole number"),
        ("1762185600000.0", "whole number"),
        ("1e12", "whole number"),
        ("9223372036854775807", "outside the years 0 to 9999"),
        ("-9223372036854775808", "outside the years 0 to 9999"),
        ("18446744073709551615", "outside the years 0 to 9999"),
        ("99999999999999999999999", "whole number"),
        ("[2025,11,3,22]", "5 to 7"),
        ("[2025,11,3,22,0,0,0,0]", "5 to 7"),
        ("[2025,11,3,22,0,0,1000000000]", "nanosecond is 1000000000"),
        ("[2025,11,31,22,0]", "no day 31"),
        ("[99999999999,1,1,0,0]", "the year is 99999999999"),
        ("[300000,1,1,0,0]", "the year is 300000"),
        (r#"[2025,11,3,22,"0"]"#, "invalid type"),
        (r#"{"date":{"year":2025,"month":11,"day":3}}"#, "missing field `time`"),
        (r#"{"seconds":1762185600,"nanos":0}"#, "unknown field `seconds`"),
        ("true", "invalid type: boolean `true`, expected a time"),
        ("null", "invalid type: null"),
    ] {
        check(json, Err(reason));
    }
}

#[test]
fn a_long_value_is_shown_shortened() {
    let message = "x".repeat(5000).parse::<ScheduledTime>().unwrap_err().to_string();
    assert!(message.chars().count() < 400, "{message}");
}

#[test]
fn a_refusal_does_not_repeat_the_keys_and_texts_of_a_value_at_full_length() {
    let long = "x".repeat(5000);
    for json in [
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"date":{{"year":"{long}"}}}}"#),
        format!(r#"[2025,11,3,22,"{long}"]"#),
        r#"{"a
b":1}"#
            .to_owned(),
    ] {
        let message = ScheduledTime::from_json(&json).unwrap_err().to_string();
        assert!(message.chars().count() < 500, "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn a_leap_second_given_as_a_value_is_written_as_the_next() {
    let day = NaiveDate::from_ymd_opt(2016, 12, 31).unwrap();
    let leap = ScheduledTime::Local(day.and_hms_nano_opt(23, 59, 59, 1_500_000_000).unwrap());
    assert_eq!(serde_json::to_string(&leap).unwrap(), r#""2017-01-01T00:00:00.500""#);
}

#[test]
fn dates_and_text_are_taken_as_they_are() {
    let local = NaiveDate::from_ymd_opt(2025, 11, 3).unwrap().and_hms_opt(22, 0, 0).unwrap();
    assert_eq!(ScheduledTime::from(local), ScheduledTime::Local(local));
    assert_eq!(ScheduledTime::from(local.and_utc()), ScheduledTime::Instant(local.and_utc()));
    assert_eq!(ScheduledTime::try_from("2025-11-03T22:00"), Ok(ScheduledTime::Local(local)));
    assert_eq!(ScheduledTime::from_epoch_ms(0), Some(ScheduledTime::Instant(DateTime::UNIX_EPOCH)));
    for beyond in [i64::MIN, EPOCH_MS.start() - 1, EPOCH_MS.end() + 1, i64::MAX] {
        assert_eq!(ScheduledTime::from_epoch_ms(beyond), None);
    }
}

fn resolves(text: &str, zone: &str, instant: &str) {
    let time: ScheduledTime = text.parse().unwrap();
    let expected = DateTime::parse_from_rfc3339(instant).unwrap().timestamp_millis();
    let resolved = time.resolve_ms(&zones::bundled(zone)).unwrap();
    let shown = DateTime::from_timestamp_millis(resolved).unwrap();
    assert_eq!(resolved, expected, "{text} in {zone} gave {shown}");
}

#[test]
fn a_local_time_is_read_in_the_zone_and_an_instant_is_not() {
    resolves("2025-11-03T22:00", "UTC", "2025-11-03T22:00:00Z");
    resolves("2025-11-03T22:00", "Asia/Dhaka", "2025-11-03T16:00:00Z");
    resolves("2025-11-03T22:00Z", "Asia/Dhaka", "2025-11-03T22:00:00Z");
}

#[test]
fn a_local_time_that_does_not_exist_means_the_first_instant_after_the_gap() {
    for (local, zone, instant) in [
        ("2025-03-30T01:59:59.999", "Europe/Berlin", "2025-03-30T00:59:59.999Z"),
        ("2025-03-30T02:00", "Europe/Berlin", "2025-03-30T01:00:00Z"),
        ("2025-03-30T02:30:10.7", "Europe/Berlin", "2025-03-30T01:00:00Z"),
        ("2025-03-30T02:59:59.999999999", "Europe/Berlin", "2025-03-30T01:00:00Z"),
        ("2025-03-30T03:00", "Europe/Berlin", "2025-03-30T01:00:00Z"),
        ("2025-03-09T02:30", "America/New_York", "2025-03-09T07:00:00Z"),
        ("2025-10-05T02:15", "Australia/Lord_Howe", "2025-10-04T15:30:00Z"),
        ("2011-12-30T00:00", "Pacific/Apia", "2011-12-30T10:00:00Z"),
        ("2011-12-30T13:37", "Pacific/Apia", "2011-12-30T10:00:00Z"),
        ("2011-12-30T23:59:59.5", "Pacific/Apia", "2011-12-30T10:00:00Z"),
        ("1993-08-21T12:00", "Pacific/Kwajalein", "1993-08-21T12:00:00Z"),
        ("2018-05-04T23:45", "Asia/Pyongyang", "2018-05-04T15:00:00Z"),
        ("2007-12-09T03:10", "America/Caracas", "2007-12-09T07:40:00Z"),
        ("2016-05-01T02:45", "America/Caracas", "2016-05-01T07:00:00Z"),
    ] {
        resolves(local, zone, instant);
    }
}

#[test]
fn a_local_time_that_exists_twice_means_the_earlier() {
    for (local, zone, instant) in [
        ("2025-10-26T02:30", "Europe/Berlin", "2025-10-26T00:30:00Z"),
        ("2025-11-02T01:30", "America/New_York", "2025-11-02T05:30:00Z"),
        ("2025-04-06T01:45", "Australia/Lord_Howe", "2025-04-05T14:45:00Z"),
        ("2025-10-26T01:30", "Europe/Dublin", "2025-10-26T00:30:00Z"),
    ] {
        resolves(local, zone, instant);
    }
}

#[test]
fn a_fraction_of_a_millisecond_is_rounded_up() {
    resolves("2025-11-03T22:00:00.000000001Z", "UTC", "2025-11-03T22:00:00.001Z");
    resolves("2025-11-03T22:00:00.001Z", "UTC", "2025-11-03T22:00:00.001Z");
    resolves("1960-01-01T00:00:00.9990001Z", "UTC", "1960-01-01T00:00:01Z");
    resolves("2025-11-03T22:00:00.9999", "Asia/Dhaka", "2025-11-03T16:00:01Z");
}

#[test]
fn a_zone_is_read_by_the_rules_of_this_year() {
    for (zone, ms) in [
        ("Africa/Casablanca", 1_797_336_000_000),
        ("America/Vancouver", 1_797_361_200_000),
        ("America/Edmonton", 1_797_357_600_000),
    ] {
        let noon: ScheduledTime = "2026-12-15T12:00:00".parse().unwrap();
        assert_eq!(noon.resolve_ms(&zones::bundled(zone)), Some(ms), "{zone}");
    }
}

#[test]
fn times_of_dates_beyond_the_calendar_are_shown_and_do_not_panic() {
    let zones = ["UTC", "Pacific/Apia", "America/New_York"].map(zones::bundled);
    let ends = [NaiveDateTime::MIN, NaiveDateTime::MAX].map(ScheduledTime::Local);
    let last = ScheduledTime::from(DateTime::<Utc>::MAX_UTC);
    for time in ends.into_iter().chain([last]) {
        assert!(!time.is_in_calendar());
        assert!(serde_json::to_string(&time).is_ok());
        for zone in &zones {
            assert_eq!(time.resolve_ms(zone), None);
        }
    }
}

#[test]
fn what_is_no_time_is_shown_as_it_was_written() {
    for (json, shown) in [
        (r#""noon""#, r#""noon""#),
        ("[2025,13,1,0,0]", "[2025, 13, 1, 0, 0"),
        ("9223372036854775807", "9223372036854775807"),
    ] {
        let message = serde_json::from_str::<ScheduledTime>(json).unwrap_err().to_string();
        assert!(message.starts_with(shown), "{message}");
    }
}
