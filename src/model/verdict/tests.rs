//! The form of verdicts.

use serde_json::{Value, json};

use super::*;

fn firing() -> Firing {
    Firing { attempt: 2, fence: Fence::new(1, 3), fired_ms: 1000 }
}

fn check(verdict: Verdict<'_>, name: &str, own: Value) {
    let subject = Subject {
        request_id: Some("r\"1".into()),
        app: Some("sms"),
        job_id: Some(JobId::from_bytes([1; 16])),
        source: Some(Source {
            topic: "in".into(),
            partition: Partition(3),
            offset: Offset(41),
            timestamp_ms: None,
        }),
    };
    let event = verdict.event(&subject, "what", 5);
    assert_eq!(event.key.as_deref(), Some("r\"1"));
    let mut data = json!({
        "verdict": name, "requestId": "r\"1", "appName": "sms",
        "jobId": "01010101-0101-0101-0101-010101010101",
        "topic": "in", "partition": 3, "offset": 41,
    });
    let (data_map, own) = (data.as_object_mut().unwrap(), own.as_object().unwrap().clone());
    data_map.extend(own);
    let expected = json!({
        "specversion": "1.0",
        "id": format!("what.{name}"),
        "source": "/infinite-scheduler",
        "type": format!("io.infinitescheduler.{name}"),
        "subject": "r\"1",
        "time": "1970-01-01T00:00:00.005Z",
        "datacontenttype": "application/json",
        "data": data,
    });
    assert_eq!(serde_json::from_str::<Value>(&event.json).unwrap(), expected);
}

#[test]
fn each_verdict_is_a_cloud_event_that_says_what_it_knows() {
    let kind = ErrorKind::Expired;
    let fired = json!({"attempt": 2, "fence": (1 << 20) + 3,
        "firedTime": "1970-01-01T00:00:01.000Z"});
    let with = |more: Value| {
        let mut all = fired.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    check(Verdict::Accepted, "accepted", json!({}));
    let duplicate = |cancelled| Verdict::Duplicate { of: "r0", cancelled };
    check(duplicate(false), "duplicate", json!({"duplicateOf": "r0"}));
    let of_cancelled = json!({"duplicateOf": "r0", "cancelled": true});
    check(duplicate(true), "duplicate", of_cancelled);
    check(Verdict::Cancelled, "cancelled", json!({}));
    let rescheduled = Verdict::Rescheduled { due_ms: 2000 };
    check(rescheduled, "rescheduled", json!({"dueTime": "1970-01-01T00:00:02.000Z"}));
    let refused = json!({"kind": "expired", "message": "m"});
    check(Verdict::Rejected { kind, message: "m" }, "rejected", refused.clone());
    check(Verdict::Fired(firing()), "fired", fired.clone());
    check(Verdict::Succeeded(firing()), "succeeded", fired.clone());
    let retrying = Verdict::Retrying { firing: firing(), due_ms: 2000, message: "m" };
    let more = json!({"dueTime": "1970-01-01T00:00:02.000Z", "message": "m"});
    check(retrying, "retrying", with(more));
    let dead = |firing| Verdict::Dead { firing, kind, message: "m" };
    check(dead(Some(firing())), "dead", with(refused.clone()));
    check(dead(None), "dead", refused);
}

#[test]
fn what_nobody_knows_is_left_out() {
    let event = Verdict::Accepted.event(&Subject::default(), "x", 0);
    assert_eq!(event.key, None);
    let json: Value = serde_json::from_str(&event.json).unwrap();
    assert_eq!(json["data"], json!({"verdict": "accepted"}));
    assert_eq!(json.get("subject"), None);
}

#[test]
fn packed_events_come_back_as_they_were() {
    let event = |key: Option<&str>, json: &str| Event {
        key: key.map(str::to_owned),
        json: json.to_owned(),
    };
    let all = vec![event(Some("é\"\n"), r#"{"a":1.0}"#), event(None, "{}")];
    assert_eq!(unpack(&pack(&all)).unwrap(), all);
    assert_eq!(unpack(&pack(&[])).unwrap(), []);
    assert!(unpack("[[]]").is_err());
}
