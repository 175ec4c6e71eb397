//! Any text, every spelling, and every zone on both sides of each of its transitions.

use std::collections::BTreeSet;

use chrono::FixedOffset;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::json;

use super::super::*;
use crate::model::tests::arbitrary::{Json, damaged, rngs, values};
use crate::model::tests::zones;

/// 1900 to 2100.
const SECONDS: std::ops::Range<i64> = -2_208_988_800..4_102_444_800;

const DAY: i64 = 86_400;

/// Where the clocks of a zone were set.
#[derive(Clone, Copy, Debug)]
struct Transition {
    /// The first second with the new offset, since the epoch.
    at: i64,
    /// Seconds to add to UTC, before and from then on.
    offsets: [i64; 2],
}

fn offset_at(zone: &TimeZone, second: i64) -> i64 {
    zone.to_offset(Timestamp::from_second(second).unwrap()).seconds().into()
}

/// The first transition of `zone` after `from`, if there is one before `to`. It is looked for
/// in steps of a week, for no zone ever set its clocks back and forth within one.
fn next_transition(zone: &TimeZone, from: i64, to: i64) -> Option<Transition> {
    let before = offset_at(zone, from);
    let mut high =
        (from..to).step_by(7 * DAY as usize).find(|at| offset_at(zone, *at) != before)?;
    let mut low = high - 7 * DAY;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        *(if offset_at(zone, middle) == before { &mut low } else { &mut high }) = middle;
    }
    Some(Transition { at: high, offsets: [before, offset_at(zone, high)] })
}

/// What clocks in `zone` show at `second`, as if it were UTC.
fn shown(zone: &TimeZone, second: i64) -> i64 {
    second + offset_at(zone, second)
}

/// The second that a local time means: the earliest that shows it, or else the first after
/// the gap. Tried out over all offsets that the zone has within a day.
fn meaning(zone: &TimeZone, local: i64) -> i64 {
    let around = (local - DAY..=local + DAY).step_by(6 * 3600);
    let offsets: BTreeSet<i64> = around.map(|second| offset_at(zone, second)).collect();
    let candidates = offsets.iter().map(|offset| local - offset);
    let showing = candidates.filter(|second| shown(zone, *second) == local).min();
    showing.unwrap_or_else(|| {
        let mut transition = local - DAY;
        loop {
            let next = next_transition(zone, transition, local + 8 * DAY).unwrap();
            if shown(zone, next.at - 1) < local && local < shown(zone, next.at) {
                return next.at;
            }
            transition = next.at;
        }
    })
}

fn name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or_default()
}

fn resolved(zone: &TimeZone, local: i64, nanos: u32) -> i64 {
    let local = DateTime::from_timestamp(local, nanos).unwrap().naive_utc();
    ScheduledTime::Local(local).resolve_ms(zone).unwrap()
}

/// Where around a transition something may go wrong: on its sides and at the ends of what it
/// skips or shows twice.
fn beside(Transition { at, offsets: [before, after] }: Transition) -> impl Iterator<Item = i64> {
    let ends = [at + before, at + after, at + (before + after) / 2];
    ends.into_iter().flat_map(|end| [end - 3600, end - 1, end, end + 1, end + 3600])
}

#[test]
fn in_every_zone_and_around_each_transition_a_local_time_has_its_one_meaning() {
    for zone in zones::all() {
        let zone = &zone;
        let mut from = SECONDS.start;
        // Until 2038, where tables end: after that the last law goes on for ever.
        while let Some(transition) = next_transition(zone, from, i64::from(i32::MAX)) {
            from = transition.at;
            for local in beside(transition) {
                let (ms, expected) = (resolved(zone, local, 0), meaning(zone, local) * 1000);
                assert_eq!(ms, expected, "{local} in {} at {transition:?}", name(zone));
            }
        }
    }
}

/// A date-time by its parts, of which some may not exist.
#[derive(Clone, Debug)]
struct Parts {
    date: [u32; 3],
    time: [u32; 3],
    /// One to nine digits, or none.
    fraction: String,
    /// Sign, hours and minutes.
    offset: (char, u32, u32),
}

impl Parts {
    /// As RFC 3339 has it, without the offset.
    fn local(&self) -> String {
        let ([year, month, day], [hour, minute, second]) = (self.date, self.time);
        let point = if self.fraction.is_empty() { "" } else { "." };
        format!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{point}{}",
            self.fraction
        )
    }

    fn rfc3339(&self) -> String {
        let (sign, hours, minutes) = self.offset;
        format!("{}{sign}{hours:02}:{minutes:02}", self.local())
    }

    /// The same in another spelling that is accepted.
    fn spelled(&self, rng: &mut fastrand::Rng) -> String {
        let (sign, hours, minutes) = self.offset;
        let mut local = self.local();
        if self.time[2] == 0 && self.fraction.is_empty() && rng.bool() {
            local.truncate(local.len() - ":00".len());
        }
        local.replace_range(10..11, ["T", "t", " "][rng.usize(..3)]);
        match rng.u8(..3) {
            0 if hours == 0 && minutes == 0 => local + ["Z", "z"][rng.usize(..2)],
            1 => format!("{local}{sign}{hours:02}{minutes:02}"),
            _ => format!("{local}{sign}{hours:02}:{minutes:02}"),
        }
    }

    fn nano(&self) -> u32 {
        format!("{:0<9}", self.fraction).parse().unwrap()
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let year = prop_oneof![6 => 1900..2101_u32, 1 => 0..10_000_u32];
    let (month, day) = (
        prop_oneof![20 => 1..13_u32, 1 => 0..15_u32],
        prop_oneof![
            20 => 1..29_u32, 3 => 28..33_u32, 1 => Just(0)
        ],
    );
    let hour = prop_oneof![20 => 0..24_u32, 1 => 23..26_u32];
    let (minute, second) = (
        prop_oneof![20 => 0..60_u32, 1 => 59..63_u32],
        prop_oneof![
            10 => 0..60_u32, 10 => Just(0), 1 => 61..100_u32
        ],
    );
    let hours = prop_oneof![4 => 0..15_u32, 2 => Just(0), 1 => 14..26_u32];
    let minutes = prop_oneof![4 => Just(0), 4 => 0..60_u32, 1 => 59..63_u32];
    let offset = (prop::sample::select(vec!['+', '-']), hours, minutes);
    ((year, month, day), (hour, minute, second), "[0-9]{0,9}", offset).prop_map(
        |(date, time, fraction, offset)| Parts {
            date: date.into(),
            time: time.into(),
            fraction,
            offset,
        },
    )
}

/// What is accepted is written in a form that is accepted, and means the same.
fn survives(time: ScheduledTime) -> Result<(), TestCaseError> {
    let written = serde_json::to_string(&time).unwrap();
    prop_assert_eq!(ScheduledTime::from_json(&written), Ok(time), "{}", written);
    prop_assert_eq!(serde_json::from_str::<ScheduledTime>(&written).unwrap(), time);
    if written.starts_with('"') {
        prop_assert_eq!(time.to_string().parse(), Ok(time));
    }
    Ok(())
}

fn judged(json: &str) -> Result<(), TestCaseError> {
    match ScheduledTime::from_json(json) {
        Ok(time) => survives(time),
        Err(error) => {
            let message = error.to_string();
            prop_assert!(message.contains("is not a time: ") && message.contains("RFC 3339"));
            prop_assert!(message.chars().count() < 500, "{}", message);
            prop_assert!(!message.contains(char::is_control), "{:?}", message);
            Ok(())
        }
    }
}

proptest! {
    #[test]
    fn a_local_time_has_its_one_meaning_and_is_never_early(
        zone in prop::sample::select(zones::all()),
        second in SECONDS,
        beside in -2 * DAY..2 * DAY,
        near in -5..=5_i64,
        nanos in prop_oneof![Just(0_u32), Just(999_999_999), 0..1_000_000_000_u32],
    ) {
        let zone = &zone;
        let transition = next_transition(zone, second, second + 400 * DAY);
        let mut locals = vec![second];
        if let Some(Transition { at, offsets }) = transition {
            locals.extend([at + beside, at + offsets[0] + near, at + offsets[1] + near]);
            locals.push(at + (offsets[0] + offsets[1]) / 2 + near);
        }
        for local in locals {
            let meant = meaning(zone, local);
            let ms = resolved(zone, local, nanos);
            // At a gap's end the fraction that was asked for has passed already.
            let in_gap = shown(zone, meant) != local;
            let up = if in_gap { 0 } else { i64::from(nanos.div_ceil(1_000_000)) };
            prop_assert_eq!(ms, meant * 1000 + up, "{} and {} ns in {}", local, nanos, name(zone));
            // Rounding may carry it on to where clocks were set back, so compare before that.
            prop_assert!(shown(zone, (ms - up) / 1000) >= local, "early: {} in {}", local, name(zone));
        }
    }

    #[test]
    fn an_instant_is_rounded_up_to_milliseconds_whatever_the_zone(
        zone in prop::sample::select(zones::all()),
        second in -62_167_219_200_i64..253_402_300_799,
        nanos in 0..1_000_000_000_u32,
    ) {
        let time = ScheduledTime::from(DateTime::from_timestamp(second, nanos).unwrap());
        let exact_ns = i128::from(second) * 1_000_000_000 + i128::from(nanos);
        let late_ns = i128::from(time.resolve_ms(&zone).unwrap()) * 1_000_000 - exact_ns;
        prop_assert!((0..1_000_000).contains(&late_ns), "{} ns late", late_ns);
        survives(time)?;
    }

    #[test]
    fn rfc_3339_in_every_spelling_is_what_chrono_reads(parts in parts(), mut rng in rngs()) {
        let text = parts.spelled(&mut rng);
        let ours = text.parse::<ScheduledTime>();
        let read = DateTime::<FixedOffset>::parse_from_rfc3339(&parts.rfc3339());
        let read = read.ok().map(|read| read.to_utc());
        let kept = read.filter(|utc| (0..=9999).contains(&utc.year()));
        prop_assert_eq!(ours.clone().ok(), kept.map(ScheduledTime::Instant), "{}", text);
        if let Ok(time) = ours {
            survives(time)?;
        }
    }

    #[test]
    fn a_local_time_is_the_same_as_text_as_array_and_as_object(parts in parts(), mut rng in rngs()) {
        let ([year, month, day], [hour, minute, second]) = (parts.date, parts.time);
        let nano = parts.nano();
        let text = ScheduledTime::from_json(&json!(parts.local()).to_string());
        let mut array = vec![year, month, day, hour, minute, second, nano];
        while array.len() > 5 && array.last() == Some(&0) && rng.bool() {
            array.pop();
        }
        let array = ScheduledTime::from_json(&json!(array).to_string());
        prop_assert_eq!(text.clone().ok(), array.ok(), "{:?}", parts);
        let mut time = json!({"hour": hour, "minute": minute, "second": second, "nano": nano});
        for (part, value) in [("second", second), ("nano", nano)] {
            if value == 0 && rng.bool() {
                time.as_object_mut().unwrap().remove(part);
            }
        }
        let object = json!({"date": {"year": year, "month": month, "day": day}, "time": time});
        let object = ScheduledTime::from_json(&object.to_string());
        prop_assert_eq!(text.clone().ok(), object.ok(), "{:?}", parts);
        let read = parts.local().parse::<NaiveDateTime>().ok().map(ScheduledTime::Local);
        prop_assert_eq!(text.ok(), read, "{:?}", parts);
    }

    #[test]
    fn any_bytes_are_a_time_or_a_message(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        judged(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn any_text_is_a_time_or_a_message(text in any::<String>(), mut rng in rngs()) {
        judged(&Json::text(&text).written(&mut rng))?;
        if let Err(error) = text.parse::<ScheduledTime>() {
            prop_assert!(error.to_string().contains("RFC 3339"));
        }
    }

    #[test]
    fn any_json_is_a_time_or_a_message(value in values(), mut rng in rngs()) {
        judged(&value.written(&mut rng))?;
    }

    #[test]
    fn nearly_a_time_is_a_time_or_a_message(parts in parts(), mut rng in rngs()) {
        let text = damaged(&parts.spelled(&mut rng), &mut rng);
        judged(&json!(String::from_utf8_lossy(&text)).to_string())?;
        let [year, month, day] = parts.date;
        let array = damaged(&json!([year, month, day, 23, 59, 59, parts.nano()]).to_string(), &mut rng);
        judged(&String::from_utf8_lossy(&array))?;
        let object = json!({
            "date": {"year": year, "month": month, "day": day},
            "time": {"hour": 1, "minute": 2},
        });
        judged(&String::from_utf8_lossy(&damaged(&object.to_string(), &mut rng)))?;
    }

    #[test]
    fn an_integer_is_its_milliseconds_or_outside_the_years(
        ms in prop_oneof![any::<i64>(), any::<i64>().prop_map(|ms| ms >> 15)],
    ) {
        match ScheduledTime::from_json(&ms.to_string()) {
            Ok(time) => {
                prop_assert_eq!(time.resolve_ms(&TimeZone::UTC), Some(ms));
                survives(time)?;
            }
            Err(error) => prop_assert!(error.to_string().contains("outside the years 0 to 9999")),
        }
    }

    #[test]
    fn an_array_of_any_numbers_is_a_time_or_a_message(
        numbers in prop::collection::vec(prop_oneof![0..61_i64, any::<i64>(), -300_000..300_000_i64], 4..9),
    ) {
        judged(&json!(numbers).to_string())?;
    }
}
