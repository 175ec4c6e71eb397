use super::*;
use crate::model::verdict::{about_attempt, about_job};

#[test]
fn priorities_are_read_in_any_case_and_order_highest_first() {
    assert_eq!("HIGH".parse(), Ok(Priority::High));
    assert_eq!("Low".parse(), Ok(Priority::Low));
    assert_eq!("urgent".parse::<Priority>(), Err(()));
    assert!(Priority::High < Priority::Low);
    for priority in Priority::ALL {
        assert_eq!(Priority::from_rank(priority.rank()), priority);
    }
}

#[test]
fn job_data_is_written_as_it_was_read() {
    let text = r#"{"b":1.0, "a":10e2}"#;
    let data = JobData::from_trusted(text);
    assert_eq!(serde_json::to_string(&data).unwrap(), text);
    assert_eq!(format!("{data:?}"), text);
    let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
    assert_eq!(JobData::from(raw), data);
}

#[test]
fn a_class_has_a_name_and_a_number_and_what_is_unknown_is_low() {
    for (priority, name, rank) in
        [(Priority::High, "high", 0), (Priority::Normal, "normal", 1), (Priority::Low, "low", 2)]
    {
        assert_eq!((priority.to_string().as_str(), priority.rank()), (name, rank));
    }
    assert_eq!([-1, 3].map(Priority::from_rank), [Priority::Low; 2]);
}

fn job() -> Job {
    Job {
        id: JobId::from_bytes([1; 16]),
        shard: ShardId(1),
        priority: Priority::Normal,
        due_ms: 7,
        request_id: String::new(),
        scheduled_ms: 5,
        expires_ms: Some(9),
        flexible_ms: None,
        concurrency_key: None,
        created_ms: 0,
        attempts: 0,
        max_attempts: None,
        timeout_ms: None,
        data: JobData::from_trusted(""),
        trace: None,
        origin: None,
        last_error: None,
        letter: None,
        version: None,
        changes: Changes::default(),
    }
}

/// The same request may come back as another job under the same id.
#[test]
fn what_its_verdicts_are_about_names_the_admission_and_the_attempt() {
    let job = Job { created_ms: 3, ..job() };
    let id = "01010101-0101-0101-0101-010101010101";
    assert_eq!(about_job(&job), format!("{id}.3"));
    assert_eq!(about_attempt(&job, Fence::new(1, 2)), format!("{id}.3.{}", (1 << 20) + 2));
}

#[test]
fn a_job_is_expired_after_its_last_moment_not_at_it() {
    let expired = [8, 9, 10].map(|now_ms| job().is_expired(now_ms));
    assert_eq!(expired, [false, false, true]);
    assert!(!Job { expires_ms: None, ..job() }.is_expired(i64::MAX));
}

#[test]
fn its_instant_is_in_its_window_and_the_same_for_the_same_id() {
    let ids: Vec<JobId> =
        (0..1000).map(|number| JobId::derive("sms", &number.to_string())).collect();
    let instants = |window_ms, expires_ms| {
        let of = |id: &JobId| instant_of(*id, 100, Some(window_ms), expires_ms);
        ids.iter().map(of).collect::<Vec<_>>()
    };
    let chosen = instants(9, None);
    assert_eq!(chosen, instants(9, None));
    for instant in 100..=109 {
        let here = chosen.iter().filter(|other| **other == instant).count();
        assert!((60..140).contains(&here), "{here} of 1000 at {instant}");
    }
    assert_eq!(chosen.iter().filter(|instant| !(100..=109).contains(*instant)).count(), 0);
    assert_eq!(instants(9, Some(104)), instants(4, None), "spread over what is left");
    assert!(instants(9, Some(50)).iter().all(|instant| *instant == 100), "never early");
    assert!(instants(0, None).iter().all(|instant| *instant == 100));
    assert!(instants(u64::MAX, None).iter().all(|instant| *instant >= 100));
    // Rows hold what an earlier version computed.
    assert_eq!(instant_of(ids[0], 0, Some(999_999), None), 493015);
}

#[test]
fn its_own_limit_of_time_comes_before_the_apps() {
    let of_app = Duration::from_secs(60);
    assert_eq!(job().timeout(of_app), of_app);
    let own = Job { timeout_ms: Some(1_500), ..job() };
    assert_eq!(own.timeout(of_app), Duration::from_millis(1_500));
}

#[test]
fn it_stands_where_it_is_due_not_where_it_was_scheduled() {
    assert_eq!(job().key(), (7, JobId::from_bytes([1; 16])));
}

#[test]
fn its_size_grows_with_each_text_that_it_holds() {
    let plain = job().size();
    assert_eq!(plain, size_of::<Job>());
    let trace = |state: Option<&str>| {
        Some(TraceContext { parent: "12".into(), state: state.map(Into::into) })
    };
    for (job, more) in [
        (Job { data: JobData::from_trusted("{}"), ..job() }, 2),
        (Job { request_id: "abc".into(), ..job() }, 3),
        (Job { concurrency_key: Some("key".into()), ..job() }, 3),
        (Job { trace: trace(None), ..job() }, 2),
        (Job { trace: trace(Some("xyz")), ..job() }, 5),
        (Job { last_error: Some("four".into()), ..job() }, 4),
    ] {
        assert_eq!(job.size(), plain + more, "{job:?}");
    }
    let all = Job {
        data: JobData::from_trusted("{}"),
        request_id: "abc".into(),
        trace: trace(Some("xyz")),
        last_error: Some("four".into()),
        ..job()
    };
    assert_eq!(all.size(), plain + 14);
}
