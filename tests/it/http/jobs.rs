//! Submitting one job or an array of them, once whatever happens.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, EACH, Served, answer, in_an_hour, job, kind, read};
use crate::support::services::Database;

async fn with_key(served: &Served, key: &[u8], body: &Value) -> Answer {
    let request = served.request(Method::POST, "/api/jobs").header("Idempotency-Key", key);
    answer(request.json(body)).await
}

async fn a_key_in_the_header_makes_one_job(database: Database) {
    let database = database.fresh().await;
    let served = Served::on(&database).await;
    let time = in_an_hour();
    let (status, first) = with_key(&served, b"k1", &job(None, time, "hi")).await;
    assert_eq!((status, &first["result"]), (201, &json!("accepted")), "{first}");
    let (status, again) = with_key(&served, b"k1", &job(None, time + 2000, "hi")).await;
    assert_eq!((status, &again["result"]), (200, &json!("duplicate")), "{again}");
    assert_eq!((&again["jobId"], &again["of"]), (&first["jobId"], &first["requestId"]));
    let (status, other) = with_key(&served, b"\"k1\"", &job(None, time, "changed")).await;
    assert_eq!((status, kind(&other)), (409, "idempotency-conflict"), "{other}");

    let mut named = job(None, time, "hi");
    named["idempotencyKey"] = json!("k3");
    assert_eq!(with_key(&served, b"k2", &named).await.0, 201);
    assert_eq!(with_key(&served, b"k3", &job(None, time, "hi")).await.0, 200);
    assert_eq!(with_key(&served, b"k2", &job(None, time, "hi")).await.0, 201);

    let array = json!([job(None, time, "a"), job(None, time, "b"), job(None, time, "c")]);
    let (status, refused) = with_key(&served, b"k4", &array).await;
    assert_eq!((status, kind(&refused)), (400, "invalid-header"), "{refused}");
    assert_eq!(with_key(&served, b"k4", &job(None, time, "hi")).await.0, 201, "none was admitted");

    let long = "k".repeat(256);
    for key in [&b""[..], b"\"\"", long.as_bytes(), b"\xff", b"\"k", b"a\tb"] {
        let (status, refused) = with_key(&served, key, &job(None, time, "hi")).await;
        assert_eq!((status, kind(&refused)), (400, "invalid-header"), "{key:?}: {refused}");
    }
    let twice = served.request(Method::POST, "/api/jobs").json(&job(None, time, "hi"));
    let (status, refused) =
        answer(twice.header("Idempotency-Key", "x").header("Idempotency-Key", "y")).await;
    assert_eq!((status, kind(&refused)), (400, "invalid-header"), "{refused}");

    let first = format!("/api/jobs/{}", first["jobId"].as_str().expect("an id"));
    let (status, cancelled) = answer(served.request(Method::DELETE, &first)).await;
    assert_eq!((status, &cancelled["result"]), (200, &json!("cancelled")), "{cancelled}");
    let (status, new) = with_key(&served, b"k1", &job(None, time, "hi")).await;
    assert_eq!((status, &new["result"]), (201, &json!("accepted")), "{new}");
    assert_ne!(new["jobId"], cancelled["jobId"], "the key was given back");

    served.still_works("ok").await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_header_makes_one_job_on_every_database() {
    for database in EACH {
        a_key_in_the_header_makes_one_job(database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_parallel_over_two_instances_make_one_job() {
    for database in [Database::MariaDb, Database::Postgres] {
        let database = database.fresh().await;
        let (one, other) = (Served::on(&database).await, Served::on(&database).await);
        let time = in_an_hour();
        let calls = (0..20).map(|n| {
            let served = if n % 2 == 0 { &one } else { &other };
            async move { with_key(served, b"k5", &job(None, time, "hi")).await }
        });
        let answers = join_all(calls).await;
        let of = |status| answers.iter().filter(|answer| answer.0 == status).count();
        assert_eq!((of(201), of(200)), (1, 19), "{answers:?}");
        let ids: Vec<_> = answers.iter().map(|(_, answer)| &answer["jobId"]).collect();
        assert!(ids.iter().all(|id| *id == ids[0] && id.is_string()), "{ids:?}");
        one.end().await;
        other.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_an_array_has_an_answer_of_its_own() {
    for database in EACH {
        let database = database.fresh().await;
        let served = Served::on(&database).await;
        let time = in_an_hour();
        let mut unknown = job(Some("u"), time, "x");
        unknown["appName"] = json!("nobody");
        let mut much: Vec<Value> =
            (0..1200).map(|n| job(Some(&format!("r-{n}")), time, "x")).collect();
        much.extend([
            job(Some("r-7"), time, "x"),
            job(Some("r-7"), time, "other"),
            json!({"appName": "sms", "requestId": "no-time"}),
            json!(7),
            unknown,
            job(Some("last"), time, "x"),
        ]);
        let (status, answers) = served.post("/api/jobs", &json!(much)).await;
        assert_eq!(status, 200, "{answers}");
        let answers = answers.as_array().expect("an array");
        assert_eq!(answers.len(), 1206);
        for (n, answer) in answers[..1200].iter().enumerate() {
            assert_eq!((&answer["status"], &answer["result"]), (&json!(201), &json!("accepted")));
            assert_eq!(answer["requestId"], format!("r-{n}"));
        }
        for (answer, status, meant) in [
            (&answers[1200], 200, "duplicate"),
            (&answers[1201], 409, "request-conflict"),
            (&answers[1202], 422, "missing-field"),
            (&answers[1203], 400, "invalid-json"),
            (&answers[1204], 422, "unknown-app"),
            (&answers[1205], 201, "accepted"),
        ] {
            let said = answer["result"].as_str().unwrap_or(kind(answer));
            assert_eq!((answer["status"].as_u64(), said), (Some(status), meant), "{answer}");
        }
        assert_eq!(answers[1202]["errors"][0]["pointer"], "/scheduledTime");
        assert_eq!(served.post("/api/jobs", &json!([])).await, (200, json!([])));
        served.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_answers_with_the_instant_and_writes_nothing() {
    let database = Database::Postgres.fresh().await;
    let builder = super::builder(database.url()).default_time_zone("Europe/Berlin");
    let served = Served::of(builder, super::local()).await;
    let mut local = job(Some("d"), 0, "x");
    local["scheduledTime"] = json!("2027-07-01T10:00:00");
    local["expiresTime"] = json!("2027-07-01T12:00:00+02:00");
    let (status, foreseen) = served.post("/api/jobs?dryRun=true", &local).await;
    assert_eq!((status, &foreseen["dryRun"]), (200, &json!(true)), "{foreseen}");
    assert_eq!(foreseen["result"], "accepted");
    assert_eq!(foreseen["scheduledTime"], "2027-07-01T08:00:00.000Z");
    assert_eq!(foreseen["expiresTime"], "2027-07-01T10:00:00.000Z");
    assert_eq!(served.get("/api/requests/sms/d").await.0, 404);
    let (status, real) = served.post("/api/jobs?dryRun=false", &local).await;
    assert_eq!((status, &real["jobId"]), (201, &foreseen["jobId"]), "{real}");
    let (status, again) = served.post("/api/jobs?dryRun=true", &json!([local])).await;
    assert_eq!((status, &again[0]["result"]), (200, &json!("duplicate")), "{again}");
    for (query, said) in [
        ("dryrun=true", "did you mean dryRun?"),
        ("dryRun=yes", "true or false"),
        ("dryRun=true&dryRun=true", "given twice"),
    ] {
        let (status, refused) = served.post(&format!("/api/jobs?{query}"), &local).await;
        assert_eq!((status, kind(&refused)), (400, "invalid-query"), "{refused}");
        assert!(refused["detail"].as_str().expect("text").contains(said), "{refused}");
    }
    let (status, known) = served.get("/api/requests/sms?requestId=d").await;
    assert_eq!((status, &known["status"]), (200, &json!("accepted")), "{known}");
    assert_eq!(known["scheduledTime"], "2027-07-01T08:00:00.000Z");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_an_answer_and_no_dead_letter() {
    let database = Database::Postgres.fresh().await;
    let served = Served::on(&database).await;
    for (body, status, meant) in [
        ("", 400, "empty-value"),
        ("{", 400, "invalid-json"),
        ("[1", 400, "invalid-json"),
        ("null", 400, "invalid-json"),
        (r#"{"appName":"sms"}"#, 422, "missing-field"),
        (r#"{"appName":"sms","scheduledTime":"soon"}"#, 422, "invalid-field"),
        (r#"{"appName":"sms","scheduledTime":0,"scheduledTime":0}"#, 422, "duplicate-field"),
        (r#"{"appName":"sms","scheduledTime":"9000-01-01T00:00:00Z"}"#, 422, "schedule-too-far"),
        (r#"{"appName":"fax","scheduledTime":0}"#, 422, "unknown-app"),
        (r#"{"appName":"sms","scheduledTime":0,"requestId":"a\u0000b"}"#, 422, "invalid-field"),
    ] {
        let request = served.request(Method::POST, "/api/jobs");
        let request = request.header("Content-Type", "application/json").body(body);
        let (answered, refused) = answer(request).await;
        assert_eq!((answered, kind(&refused)), (status, meant), "{body}: {refused}");
    }
    let (status, letters) = served.get("/api/dead-letters").await;
    assert_eq!((status, letters), (200, json!({"items": [], "next": null})));
    // Each of many calls at once has the answer to its own request.
    let time = in_an_hour();
    let calls = (0..200).map(|n| {
        let served = &served;
        async move {
            let id = format!("many-{n}");
            let body = job(Some(&id), if n % 10 == 0 { i64::MAX } else { time }, "x");
            (
                n,
                id,
                read(
                    served
                        .request(Method::POST, "/api/jobs")
                        .json(&body)
                        .send()
                        .await
                        .expect("an answer"),
                )
                .await,
            )
        }
    });
    for (n, id, (status, answer)) in join_all(calls).await {
        match n % 10 {
            0 => assert_eq!((status, kind(&answer)), (422, "invalid-field"), "{answer}"),
            _ => assert_eq!((status, &answer["requestId"]), (201, &json!(id)), "{answer}"),
        }
    }
    served.end().await;
}
