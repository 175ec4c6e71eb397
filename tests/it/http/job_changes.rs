//! Operations on one job, on apps and on the ingest: each answer has its status, and each change its
//! entry in the audit.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use futures::future::join_all;
use infinite_scheduler::config::{Role, TokenConfig};
use infinite_scheduler::{AppConfig, JobContext, JobError, Scheduler, handler_fn};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Answer, DEADLINE, EACH, Served, answer, builder, in_an_hour, job, kind, local};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

/// The owner of the job's shard, another instance, says nothing for a while.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_without_an_answer_is_accepted_and_answered_later() {
    let database = Database::Postgres.fresh().await;
    let served = Served::on(&database).await;
    let (_, accepted) = served.post("/api/jobs", &job(Some("r"), in_an_hour(), "x")).await;
    let path = format!("/api/jobs/{}", accepted["jobId"].as_str().expect("an id"));
    for sql in [
        "insert into scheduler_instance select 4711, 'silent', version, time_zones, apps, process, \
         started_ms, beat, lease_until_us + 3600000000, dead, drain_ms from scheduler_instance",
        "update scheduler_shard set owner = 4711, epoch = epoch + 1",
    ] {
        database.execute(sql).await;
    }
    let asked = served.request(Method::DELETE, &path).send().await.expect("an answer");
    let location = asked.headers().get("location").expect("where the answer will be");
    let location = location.to_str().expect("text").to_owned();
    let (status, answer) = super::read(asked).await;
    assert_eq!((status, &answer["result"]), (202, &json!("not-answered")), "{answer}");
    let (status, waits) = served.get(&location).await;
    assert_eq!((status, &waits["operation"]), (202, &answer["operation"]), "{waits}");
    for sql in [
        "update scheduler_shard set owner = null",
        "delete from scheduler_instance where id = 4711",
    ] {
        database.execute(sql).await;
    }
    wait_until(DEADLINE, "the answer", async || served.get(&location).await.0 == 200).await;
    let (_, shown) = served.get(&path).await;
    assert_eq!(shown["state"], "cancelled", "{shown}");
    served.end().await;
}

/// A scheduler whose jobs of `held` run until they are let go, and then fail if they are told to.
async fn with_held(database: &TestDatabase) -> (Served, Arc<Semaphore>) {
    let go = Arc::new(Semaphore::new(0));
    let gate = go.clone();
    let held = handler_fn(move |_: JobContext, data: Value| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.expect("open").forget();
            if data["message"] == "fail" { Err(JobError::retry("503")) } else { Ok(()) }
        }
    });
    let builder = Scheduler::builder()
        .database_url(database.url())
        .lease(LEASE)
        .register_app(AppConfig::new("held"), held)
        .register_app(AppConfig::new("sms"), infinite_scheduler::Discard);
    (Served::of(builder, local()).await, go)
}

impl Served {
    /// Submits a job and returns its path.
    async fn made(&self, job: &Value) -> String {
        let (status, made) = self.post("/api/jobs", job).await;
        assert_eq!(status, 201, "{made}");
        format!("/api/jobs/{}", made["jobId"].as_str().expect("an id"))
    }

    async fn patch(&self, path: &str, fields: &Value) -> Answer {
        answer(self.request(Method::PATCH, path).json(fields)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    async fn audit(&self, query: &str) -> Vec<Value> {
        let (status, page) = self.get(&format!("/api/audit?{query}")).await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().expect("items").clone()
    }

    async fn await_running(&self, path: &str) {
        wait_until(DEADLINE, "an attempt", async || self.get(path).await.1["state"] == "running")
            .await;
    }
}

fn time(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms).expect("a time");
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellations_at_the_same_time_have_true_answers_and_one_author() {
    for database in EACH {
        let is_file = database == Database::Sqlite;
        let database = database.fresh().await;
        let served = Served::on(&database).await;
        let other = if is_file { None } else { Some(Served::on(&database).await) };
        let path = served.made(&job(Some("c3"), in_an_hour(), "x")).await;
        let calls = (0..8).map(|n| {
            let asked = other.as_ref().filter(|_| n % 2 == 1).unwrap_or(&served);
            let path = format!("{path}?reason=typo-{n}");
            async move { asked.delete(&path).await }
        });
        for (status, cancelled) in join_all(calls).await {
            assert_eq!((status, &cancelled["result"]), (200, &json!("cancelled")), "{cancelled}");
            assert_eq!(cancelled["cancelledBy"], "anonymous", "{cancelled}");
        }
        let entries = served.audit("action=job.cancel").await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(
            (&entries[0]["who"], &entries[0]["source"]),
            (&json!("anonymous"), &json!("http"))
        );
        let reason = entries[0]["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("typo-"), "{reason}");
        let (status, shown) = served.get(&path).await;
        assert_eq!((status, &shown["state"]), (200, &json!("cancelled")), "{shown}");
        let (status, refused) = served.post(&format!("{path}/run"), &json!({})).await;
        assert_eq!((status, kind(&refused)), (409, "cancelled"), "{refused}");
        assert_eq!(refused["result"], "cancelled", "{refused}");
        if let Some(other) = other {
            other.end().await;
        }
        served.still_works("ok").await;
        served.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_is_cancelled_and_not_changed() {
    let database = Database::Postgres.fresh().await;
    let (served, go) = with_held(&database).await;
    let mut held = job(Some("c1"), 0, "fail");
    held["appName"] = json!("held");
    let path = served.made(&held).await;
    served.await_running(&path).await;
    for (method, path, body) in [
        (Method::PATCH, path.clone(), json!({ "priority": "high" })),
        (Method::PATCH, path.clone(), json!({ "scheduledTime": in_an_hour() })),
        (Method::POST, format!("{path}/run"), json!({})),
    ] {
        let (status, refused) = answer(served.request(method.clone(), &path).json(&body)).await;
        assert_eq!((status, kind(&refused)), (409, "running"), "{method} {path}: {refused}");
        assert_eq!(refused["result"], "running", "{refused}");
    }
    for _ in 0..2 {
        let (status, cancelled) = served.delete(&path).await;
        assert_eq!((status, &cancelled["result"]), (200, &json!("running")), "{cancelled}");
        assert_eq!(cancelled["willRetry"], false, "{cancelled}");
    }
    go.add_permits(1);
    wait_until(DEADLINE, "the attempt's end", async || {
        served.get(&path).await.1["state"] == "cancelled"
    })
    .await;
    let (status, cancelled) = served.delete(&path).await;
    assert_eq!((status, &cancelled["result"]), (200, &json!("cancelled")), "{cancelled}");
    served.still_works("ok").await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_job_has_the_status_of_its_answer() {
    for database in EACH {
        let database = database.fresh().await;
        let served = Served::on(&database).await;
        let due = in_an_hour();
        let made = async |id: &str, more: Value| {
            let mut job = job(Some(id), due, "x");
            let fields = more.as_object().expect("an object").clone();
            job.as_object_mut().expect("an object").extend(fields);
            served.made(&job).await
        };
        let path = made("m2", json!({ "expiresTime": due + 60_000, "maxAttempts": 2 })).await;
        let (_, before) = served.get(&path).await;
        for (body, status, said) in [
            (json!({ "scheduledTime": time(due + 120_000) }), 422, "expiresTime"),
            (json!({ "scheduledTime": "9000-01-01T00:00:00Z" }), 422, "9000"),
            (json!({ "scheduledTime": null }), 422, "scheduledTime null"),
            (json!({ "jobData": null }), 422, "jobData null"),
            (json!({ "jobData": [] }), 422, "jobData"),
            (json!({}), 422, "at least one field"),
            (json!({ "reason": "x" }), 422, "at least one field"),
            (json!({ "maxAttempts": 0 }), 422, "/maxAttempts is wrong"),
            (json!({ "maxAttempt": 1 }), 422, "did you mean maxAttempts?"),
            (json!({ "priority": "urgent" }), 422, "/priority is wrong"),
            (json!([]), 422, "is an array"),
        ] {
            let (answered, refused) = served.patch(&path, &body).await;
            assert_eq!(answered, status, "{body}: {refused}");
            assert!(refused["detail"].as_str().expect("text").contains(said), "{body}: {refused}");
        }
        for (body, status) in [(r#"{"timeoutMs":1,"timeoutMs":2}"#, 422), ("{", 400), ("", 400)] {
            let patch = served.request(Method::PATCH, &path).body(body);
            let (answered, refused) =
                answer(patch.header("Content-Type", "application/json")).await;
            assert_eq!(answered, status, "{body}: {refused}");
        }
        assert_eq!(served.get(&path).await.1, before, "nothing was changed");

        let m3 = made("m3", json!({})).await;
        let (status, same) = served.patch(&m3, &json!({ "scheduledTime": time(due) })).await;
        assert_eq!((status, &same["result"]), (200, &json!("rescheduled")), "{same}");
        let m4 = made("m4", json!({ "flexibleWindowMs": 60_000 })).await;
        let sooner = due - 1_000_000;
        let mut instants = Vec::new();
        for _ in 0..2 {
            let (status, moved) = served.patch(&m4, &json!({ "scheduledTime": sooner })).await;
            assert_eq!((status, &moved["result"]), (200, &json!("rescheduled")), "{moved}");
            instants.push(moved["dueTime"].as_str().expect("a time").to_owned());
        }
        assert_eq!(instants[0], instants[1]);
        assert!((time(sooner)..=time(sooner + 60_000)).contains(&instants[0]), "{instants:?}");
        let (_, page) = served.get("/api/jobs?app=sms&state=scheduled").await;
        let items = page["items"].as_array().expect("items");
        assert_eq!(items[0]["dueTime"], instants[0], "{page}");
        assert_eq!(items.len(), 3, "nothing is left at its old place: {page}");

        let m1 = made("m1", json!({})).await;
        let hour_ago = time(due - 7_200_000);
        let (status, moved) = served.patch(&m1, &json!({ "scheduledTime": hour_ago })).await;
        assert_eq!((status, &moved["result"]), (200, &json!("rescheduled")), "{moved}");
        let has_ended = async || served.get(&m1).await.1["state"] == "succeeded";
        wait_until(Duration::from_secs(20), "its end", has_ended).await;
        let (status, refused) = served.patch(&m1, &json!({ "priority": "high" })).await;
        assert_eq!((status, &refused["result"]), (409, &json!("already-fired")), "{refused}");
        let m1 = "/api/jobs/00000000-0000-8000-8000-000000000000".to_owned();
        for (method, path) in [
            (Method::GET, m1.clone()),
            (Method::DELETE, m1.clone()),
            (Method::POST, format!("{m1}/run")),
        ] {
            let (status, refused) = answer(served.request(method.clone(), &path)).await;
            assert_eq!((status, kind(&refused)), (404, "not-found"), "{method}: {refused}");
        }
        let (status, refused) = served.patch(&m1, &json!({ "priority": "high" })).await;
        assert_eq!((status, &refused["result"]), (404, &json!("unknown")), "{refused}");
        for path in ["/api/jobs/not-a-uuid", "/api/operations/x", "/api/operations/1.5"] {
            let (status, refused) = served.get(path).await;
            assert_eq!((status, kind(&refused)), (400, "invalid-path"), "{refused}");
        }
        served.still_works("ok").await;
        served.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_since_is_not_changed_again() {
    let database = Database::Postgres.fresh().await;
    let served = Served::on(&database).await;
    let path = served.made(&job(Some("e"), in_an_hour(), "x")).await;
    let etag = async || {
        let shown = served.request(Method::GET, &path).send().await.expect("an answer");
        shown.headers()["etag"].to_str().expect("text").to_owned()
    };
    let change = async |method: Method, path: &str, etag: &str| {
        let body = json!({ "priority": "high" });
        let request = served.request(method.clone(), path).header("If-Match", etag);
        let request = if method == Method::PATCH { request.json(&body) } else { request };
        answer(request).await
    };
    let first = etag().await;
    assert!(first.starts_with('"') && first.ends_with('"'), "{first}");
    let (status, edited) = change(Method::PATCH, &path, &first).await;
    assert_eq!((status, &edited["result"]), (200, &json!("edited")), "{edited}");
    assert_ne!(etag().await, first);
    let run = format!("{path}/run");
    for (method, path) in [(Method::PATCH, &path), (Method::DELETE, &path), (Method::POST, &run)] {
        let (status, refused) = change(method.clone(), path, &first).await;
        assert_eq!((status, kind(&refused)), (412, "precondition-failed"), "{method}: {refused}");
        let (status, refused) = change(method.clone(), path, "\"a\", \"b\"").await;
        assert_eq!((status, kind(&refused)), (400, "invalid-header"), "{method}: {refused}");
    }
    let (status, cancelled) = change(Method::DELETE, &path, &etag().await).await;
    assert_eq!((status, &cancelled["result"]), (200, &json!("cancelled")), "{cancelled}");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_names_the_token_and_the_reason() {
    let database = Database::Postgres.fresh().await;
    let options = local().token(TokenConfig::new("ops", Role::Admin, "a"));
    let served = Served::of(builder(database.url()), options).await;
    let by_ops = async |method: Method, path: &str, body: Option<Value>| {
        let request = served.request(method, path).bearer_auth("a");
        answer(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    };
    let because = |reason: &str| Some(json!({ "reason": reason }));
    let (_, made) =
        by_ops(Method::POST, "/api/jobs", Some(job(Some("a"), in_an_hour(), "x"))).await;
    let path = format!("/api/jobs/{}", made["jobId"].as_str().expect("an id"));
    let pause = json!({ "reason": "storm", "refuseRequests": true });
    for (method, path, body, status, result) in [
        (Method::POST, "/api/apps/sms/pause", Some(pause.clone()), 200, "paused"),
        (Method::POST, "/api/apps/sms/pause", Some(pause), 200, "unchanged"),
        (Method::PATCH, &path, Some(json!({ "priority": "low", "reason": "calm" })), 200, "edited"),
        (Method::DELETE, &format!("{path}?reason=typo&stop=true"), None, 200, "cancelled"),
        (Method::POST, "/api/apps/sms/resume", because("over"), 200, "resumed"),
        (Method::POST, "/api/apps/sms/resume", None, 200, "unchanged"),
    ] {
        let (answered, answer) = by_ops(method.clone(), path, body).await;
        assert_eq!((answered, &answer["result"]), (status, &json!(result)), "{path}: {answer}");
        if result == "edited" {
            assert_eq!(answer["appPaused"], true, "{answer}");
        }
    }
    let (status, refused) = by_ops(Method::DELETE, "/api/apps/sms", None).await;
    assert_eq!((status, kind(&refused)), (409, "conflict"), "{refused}");
    let misspelt = Some(json!({ "refuserequests": true }));
    let (status, refused) = by_ops(Method::POST, "/api/apps/sms/pause", misspelt).await;
    assert_eq!(status, 422, "{refused}");
    let (status, refused) = by_ops(Method::POST, "/api/instances/x/drain", None).await;
    assert_eq!((status, kind(&refused)), (400, "invalid-path"), "{refused}");
    let (_, instances) = by_ops(Method::GET, "/api/instances", None).await;
    let id = instances["items"][0]["id"].as_str().expect("an id");
    let drain = format!("/api/instances/{id}/drain");
    for result in ["draining", "unchanged"] {
        let (status, answer) = by_ops(Method::POST, &drain, because("move")).await;
        assert_eq!((status, &answer["result"]), (200, &json!(result)), "{answer}");
    }

    let audit = async |query: &str| {
        let (status, page) = by_ops(Method::GET, &format!("/api/audit?{query}"), None).await;
        (status, page)
    };
    let (_, page) = audit("who=ops&source=http").await;
    let entries = page["items"].as_array().expect("items");
    let told: Vec<_> = entries
        .iter()
        .map(|entry| [&entry["action"], &entry["reason"]].map(|it| it.as_str().expect("text")))
        .collect();
    let meant = [
        ["instance.drain", "move"],
        ["app.resume", "over"],
        ["job.cancel", "typo"],
        ["job.edit", "calm"],
        ["app.pause", "storm"],
    ];
    assert_eq!(told, meant, "newest first");
    let mut walked = Vec::new();
    let mut cursor = String::new();
    loop {
        let (_, page) = audit(&format!("who=ops&limit=2{cursor}")).await;
        walked.extend(page["items"].as_array().expect("items").clone());
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(&walked, entries);
    for (query, meant) in [
        (format!("who=other{cursor}"), "invalid-cursor"),
        ("action=app.pose".into(), "invalid-query"),
        ("source=page".into(), "invalid-query"),
        ("whom=ops".into(), "invalid-query"),
    ] {
        let (status, refused) = audit(&query).await;
        assert_eq!((status, kind(&refused)), (400, meant), "{query}: {refused}");
    }
    served.end().await;
}
