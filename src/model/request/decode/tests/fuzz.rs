//! Any bytes, and any JSON that is a request, or nearly.

use std::num::NonZero;

use fastrand::Rng;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::super::*;
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::JobId;
use crate::model::request::{
    JobData, MAX_ATTEMPTS, MAX_TIMEOUT_MS, MAX_WINDOW_MS, Operation, Rules,
};
use crate::model::tests::arbitrary::{Json, damaged, objects, rngs, values};
use crate::model::tests::zones;

const FIELDS: [&str; 14] = [
    "requestId",
    "appName",
    "scheduledTime",
    "expiresTime",
    "flexibleWindowMs",
    "concurrencyKey",
    "jobData",
    "priority",
    "idempotencyKey",
    "operation",
    "targetRequestId",
    "maxAttempts",
    "timeoutMs",
    "version",
];

/// A sound request, and what each of its fields is written as.
#[derive(Clone, Debug)]
struct Sound {
    request: ScheduleJobRequest,
    fields: Vec<(&'static str, String)>,
    unknown: Vec<(String, Json)>,
}

impl Sound {
    /// One of the texts that say all this.
    fn written(&self, rng: &mut Rng) -> String {
        let known = self.fields.iter().map(|(name, value)| (*name, value.clone()));
        let unknown = self.unknown.iter().map(|(name, value)| (&**name, value.written(rng)));
        let mut fields: Vec<_> = known.chain(unknown.collect::<Vec<_>>()).collect();
        rng.shuffle(&mut fields);
        let fields: Vec<_> = fields
            .into_iter()
            .map(|(name, value)| format!(" {}\t:\n{value} ", Json::text(name).written(rng)))
            .collect();
        format!("{}{{{}}}\r\n", if rng.bool() { "\u{feff}" } else { "" }, fields.join(","))
    }
}

/// A time, and one of the ways to write it.
fn times() -> impl Strategy<Value = (ScheduledTime, String)> {
    prop_oneof![
        (-62_167_219_200_000..253_402_300_800_000_i64).prop_map(|ms| {
            (ScheduledTime::from_epoch_ms(ms).unwrap(), ms.to_string())
        }),
        prop::sample::select(vec![
            ("\"2025-11-03T22:00:00.5+06:00\"", "\"2025-11-03T16:00:00.500Z\""),
            ("\"2025-11-03t22:00z\"", "1762207200000"),
            ("\"2025-11-03 22:00\"", "[2025,11,3,22,0]"),
            ("[2025,11,3,22,0,7,9]", "\"2025-11-03T22:00:07.000000009\""),
            (
                "{\"time\":{\"hour\":22,\"minute\":0},\"date\":{\"day\":3,\"month\":11,\"year\":2025}}",
                "\"2025-11-03T22:00\""
            ),
            ("[9999,1,2,3,4]", "[9999,1,2,3,4,0,0]"),
        ])
        .prop_map(|(written, time)| (ScheduledTime::from_json(time).unwrap(), written.to_owned())),
    ]
}

/// A name of one to `most` characters that has no control character.
fn names(most: usize) -> impl Strategy<Value = String> {
    let char = prop_oneof![
        4 => prop::char::range(' ', '~'),
        2 => any::<char>().prop_filter("control", |char| !char.is_ascii_control()),
    ];
    let length = prop_oneof![8 => 1..10_usize, 1 => Just(most), 1 => 1..=most];
    length
        .prop_flat_map(move |length| prop::collection::vec(char.clone(), length))
        .prop_map(String::from_iter)
}

type Names = (String, Option<String>, [Option<String>; 2], Option<String>);

fn sound_names() -> impl Strategy<Value = Names> {
    let option = prop::option::of::<BoxedStrategy<String>>;
    let (id, key) = (names(128).boxed(), names(255).boxed());
    let keys = [option(key.clone()), option(key)];
    ("[a-z0-9_-]{1,64}", option(id.clone()), keys, option(id))
}

type Numbers = (Option<NonZero<u32>>, Option<NonZero<u64>>, Option<i64>, Option<u64>);

fn sound_numbers() -> impl Strategy<Value = Numbers> {
    (
        prop::option::of((1..=MAX_ATTEMPTS).prop_map(|n| NonZero::new(n).unwrap())),
        prop::option::of((1..=MAX_TIMEOUT_MS).prop_map(|n| NonZero::new(n).unwrap())),
        prop::option::of(0..=i64::MAX),
        prop::option::of(prop_oneof![0..=MAX_WINDOW_MS, 0..100_000_u64]),
    )
}

fn sound() -> impl Strategy<Value = Sound> {
    let times = (times(), prop::option::of(times()));
    let classes = (0..3_usize, any::<bool>(), 0..3_usize);
    let unknown = prop::collection::vec(("[a-zA-Z]{1,9}|.{0,3}", values()), 0..3);
    let parts = (sound_names(), times, sound_numbers(), classes, objects(), unknown, rngs());
    parts.prop_map(|(names, (time, expires), numbers, classes, data, unknown, mut rng)| {
        let (app, request_id, [key, concurrency_key], target) = names;
        let (max_attempts, timeout_ms, version, flexible_window_ms) = numbers;
        let (priority, upper, operation) = classes;
        let priority = Priority::ALL[priority];
        let operation = [Operation::Schedule, Operation::Cancel, Operation::Reschedule][operation];
        let target = match &key {
            None if operation != Operation::Schedule => Some(target.unwrap_or("t".into())),
            _ => target,
        };
        let data = data.written(&mut rng);
        let mut text = |text: &str| Json::text(text).written(&mut rng);
        let class = if upper { priority.as_str().to_uppercase() } else { priority.to_string() };
        let fields = [
            ("appName", Some(text(&app))),
            ("requestId", request_id.as_deref().map(&mut text)),
            ("scheduledTime", Some(time.1)),
            ("expiresTime", expires.as_ref().map(|time| time.1.clone())),
            ("flexibleWindowMs", flexible_window_ms.map(|number| number.to_string())),
            ("concurrencyKey", concurrency_key.as_deref().map(&mut text)),
            ("jobData", Some(data.clone())),
            ("priority", (upper || priority != Priority::Normal).then(|| text(&class))),
            ("idempotencyKey", key.as_deref().map(&mut text)),
            ("operation", Some(text(operation.as_str()))),
            ("targetRequestId", target.as_deref().map(&mut text)),
            ("maxAttempts", max_attempts.map(|number| number.to_string())),
            ("timeoutMs", timeout_ms.map(|number| number.to_string())),
            ("version", version.map(|number| number.to_string())),
        ];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let unknown: Vec<_> =
            unknown.into_iter().filter(|(name, _)| !FIELDS.contains(&&**name)).collect();
        let request = ScheduleJobRequest {
            request_id,
            app_name: app,
            scheduled_time: Some(time.0),
            expires_time: expires.map(|time| time.0),
            flexible_window_ms,
            concurrency_key,
            job_data: JobData::from_trusted(data),
            priority,
            idempotency_key: key,
            operation,
            target_request_id: target,
            max_attempts,
            timeout_ms,
            version,
            unknown_fields: UnknownFields(unknown.len() as u32),
        };
        Sound { request, fields, unknown }
    })
}

/// Whatever `value` is, it is a request that survives being written and can be checked further,
/// or a refusal that its producer can read and its columns can hold.
fn checked(value: &[u8]) -> Result<(), TestCaseError> {
    let request = match decode(value) {
        Ok(request) => request,
        Err(refusal) => return is_told(&refusal),
    };
    let again = decode(request.to_json().as_bytes());
    prop_assert_eq!(again.as_ref(), Ok(&request));
    prop_assert_eq!(&again.unwrap().job_data, &request.job_data);
    let data = request.job_data.as_str();
    prop_assert!(data.starts_with('{') && data.ends_with('}'), "{}", data);
    prop_assert!(Fingerprint::of_json(data).is_ok(), "{}", data);
    let zones = ["Asia/Dhaka", "America/St_Johns", "Africa/Casablanca", "Australia/Lord_Howe"];
    for zone in [zones::bundled(zones[value.len() % zones.len()]), TimeZone::UTC] {
        let rules = Rules { default_time_zone: zone, ..Rules::default() };
        match request.resolve(&rules, 1_762_185_600_000) {
            Ok(resolved) => {
                let due_ms = resolved.due_ms(JobId::derive(&request.app_name, ""));
                let last_ms = resolved.scheduled_ms as i128
                    + i128::from(request.flexible_window_ms.unwrap_or(0));
                prop_assert!(due_ms >= resolved.scheduled_ms && i128::from(due_ms) <= last_ms);
                prop_assert!(resolved.expires_ms.is_none_or(|expires_ms| due_ms <= expires_ms));
            }
            Err(refusal) => is_told(&refusal)?,
        }
    }
    match crate::model::request::check_required_fields(&request.job_data, &["a".to_owned()]) {
        Ok(()) => Ok(()),
        Err(refusal) => is_told(&refusal),
    }
}

fn is_told(refusal: &Refusal) -> Result<(), TestCaseError> {
    let message = &refusal.message;
    prop_assert!(!message.is_empty() && message.chars().count() < 600, "{}", message);
    prop_assert!(!message.contains(char::is_control), "{:?}", message);
    let id = refusal.request_id.as_deref();
    prop_assert!(id.is_none_or(|id| (1..=128).contains(&id.chars().count())));
    prop_assert!(id.is_none_or(|id| !id.contains(|c: char| c.is_ascii_control())));
    prop_assert!(refusal.app.as_deref().is_none_or(|app| (1..=64).contains(&app.len())));
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_a_refusal(value in prop::collection::vec(any::<u8>(), 0..80)) {
        checked(&value)?;
    }

    #[test]
    fn any_json_is_a_request_or_a_refusal(value in values(), mut rng in rngs()) {
        checked(value.written(&mut rng).as_bytes())?;
    }

    #[test]
    fn every_field_is_read_as_it_was_meant_however_it_is_written(
        sound in sound(),
        mut rng in rngs(),
    ) {
        let text = sound.written(&mut rng);
        let request = decode(text.as_bytes());
        prop_assert_eq!(request.as_ref(), Ok(&sound.request), "{}", text);
        let request = request.unwrap();
        prop_assert_eq!(request.unknown_fields(), sound.unknown.len() as u32, "{}", text);
        checked(text.as_bytes())?;
    }

    #[test]
    fn any_value_of_a_field_is_taken_or_refused_by_its_name(
        field in prop::sample::select(&FIELDS[..]),
        value in values(),
        sound in sound(),
        mut rng in rngs(),
    ) {
        let mut sound = sound;
        sound.fields.retain(|(name, _)| *name != field);
        sound.fields.push((field, value.written(&mut rng)));
        let text = sound.written(&mut rng);
        checked(text.as_bytes())?;
        if let Err(refusal) = decode(text.as_bytes()) {
            let named = refusal.message.starts_with(field)
                || refusal.message.contains("names its job by")
                || refusal.message.contains("says when the job is to fire");
            prop_assert!(named, "{}: {}", text, refusal);
            if field != "requestId" {
                prop_assert_eq!(refusal.request_id, sound.request.request_id);
            }
            if field != "appName" {
                prop_assert_eq!(refusal.app, Some(sound.request.app_name));
            }
        }
    }

    #[test]
    fn a_field_given_twice_is_refused_by_its_name(
        nth in any::<prop::sample::Index>(),
        value in values(),
        sound in sound(),
        mut rng in rngs(),
    ) {
        let (field, _) = sound.fields[nth.index(sound.fields.len())];
        let text = sound.written(&mut rng);
        let more = format!(",{}:{}}}", Json::text(field).written(&mut rng), value.written(&mut rng));
        let text = text.trim_end().strip_suffix('}').unwrap().to_owned() + &more;
        let refusal = decode(text.as_bytes()).unwrap_err();
        prop_assert_eq!(refusal.kind, ErrorKind::DuplicateField, "{}", text);
        prop_assert!(refusal.message.starts_with(field), "{}: {}", text, refusal);
        checked(text.as_bytes())?;
    }

    #[test]
    fn a_damaged_request_is_a_request_or_a_refusal(sound in sound(), mut rng in rngs()) {
        let text = sound.written(&mut rng);
        checked(&damaged(&text, &mut rng))?;
    }
}
