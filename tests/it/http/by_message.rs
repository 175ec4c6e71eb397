//! Operations in the form of a request: each answer has the status of the operation that it is.

use std::time::Duration;

use serde_json::{Value, json};

use super::{EACH, Served, in_an_hour, job, kind};
use crate::support::wait_until;

fn operation(operation: &str, target: &str, more: Value) -> Value {
    let mut request =
        json!({ "appName": "sms", "operation": operation, "targetRequestId": target });
    let fields = more.as_object().expect("an object").clone();
    request.as_object_mut().expect("an object").extend(fields);
    request
}

fn versioned(id: &str, due: i64, message: &str, version: i64) -> Value {
    let mut job = job(Some(id), due, message);
    job["version"] = version.into();
    job
}

impl Served {
    /// The status, and the `result` of the answer.
    async fn said(&self, request: &Value) -> (u16, String) {
        let (status, answer) = self.post("/api/jobs", request).await;
        let result = answer["result"].as_str().unwrap_or_else(|| kind(&answer)).to_owned();
        (status, result)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_in_the_form_of_a_request_is_answered_by_what_is_true() {
    for database in EACH {
        let database = database.fresh().await;
        let served = Served::on(&database).await;
        let due = in_an_hour();
        let said = async |request: Value, status: u16, result: &str| {
            let answer = served.said(&request).await;
            assert_eq!(answer, (status, result.to_owned()), "{request}");
        };

        // Before its job.
        let cancel = |target: &str, version: Option<i64>| {
            operation("cancel", target, json!({ "version": version }))
        };
        for _ in 0..2 {
            let (status, answer) = served.post("/api/jobs", &cancel("m1", None)).await;
            assert_eq!((status, &answer["remembered"]), (202, &json!(true)), "{answer}");
            assert_eq!(answer["result"], "unknown");
        }
        let (_, status) = served.get("/api/requests/sms/m1").await;
        assert_eq!(status["status"], "awaited", "{status}");
        let (_, page) = served.get("/api/jobs?app=sms").await;
        assert_eq!(page["items"], json!([]), "no list has it");
        said(job(Some("m1"), due, "x"), 201, "accepted").await;
        let (_, status) = served.get("/api/requests/sms/m1").await;
        assert_eq!(status["status"], "cancelled", "{status}");

        // Of a job that waits.
        said(versioned("m2", due, "x", 1), 201, "accepted").await;
        let moved = operation("reschedule", "m2", json!({ "scheduledTime": due + 60_000 }));
        said(moved.clone(), 200, "rescheduled").await;
        said(moved, 200, "rescheduled").await;
        said(versioned("m2", due, "y", 3), 200, "replaced").await;
        said(versioned("m2", due, "y", 3), 200, "duplicate").await;
        said(versioned("m2", due, "z", 3), 409, "request-conflict").await;
        said(versioned("m2", due, "x", 2), 409, "superseded").await;
        said(cancel("m2", Some(2)), 409, "superseded").await;
        let foreseen = served.post("/api/jobs?dryRun=true", &cancel("m2", Some(3))).await;
        assert_eq!((foreseen.0, &foreseen.1["dryRun"]), (200, &json!(true)), "{}", foreseen.1);
        said(cancel("m2", Some(3)), 200, "cancelled").await;
        said(cancel("m2", None), 200, "cancelled").await;
        let moved = operation("reschedule", "m2", json!({ "scheduledTime": due }));
        said(moved, 409, "cancelled").await;
        said(versioned("m2", due, "y", 3), 200, "duplicate").await;
        said(versioned("m2", due, "y", 4), 201, "accepted").await;
        let (_, audit) = served.get("/api/audit?app=sms").await;
        let actions: Vec<&str> = audit["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|entry| entry["action"].as_str().expect("an action"))
            .collect();
        assert_eq!(actions, ["job.cancel", "job.replace", "job.reschedule"]);

        // Of one that has fired.
        said(job(Some("m3"), 0, "x"), 201, "accepted").await;
        let has_ended = async || {
            let (_, status) = served.get("/api/requests/sms/m3").await;
            status["status"] == "succeeded"
        };
        wait_until(Duration::from_secs(20), "its end", has_ended).await;
        said(cancel("m3", Some(9)), 409, "already-fired").await;

        // In an array, in its order.
        let array = json!([
            job(Some("a1"), due, "x"),
            cancel("a1", None),
            operation("cancel", "a2", json!({})),
            { "appName": "sms", "operation": "cancel" },
            operation("reschedule", "a1", json!({})),
        ]);
        let (status, answers) = served.post("/api/jobs", &array).await;
        assert_eq!(status, 200, "{answers}");
        let statuses: Vec<&Value> =
            answers.as_array().expect("answers").iter().map(|answer| &answer["status"]).collect();
        assert_eq!(statuses, [201, 200, 202, 422, 422], "{answers}");
        served.still_works("ok").await;
        served.end().await;
    }
}
