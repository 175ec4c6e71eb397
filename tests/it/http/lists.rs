//! Lists: a page at a time, by a filter in which nothing is ignored.

use infinite_scheduler::{AppConfig, JobContext, JobError, handler_fn};
use serde_json::{Value, json};

use super::{EACH, Served, builder, job, kind, local};
use crate::support::services::Database;
use crate::support::wait_until;

const LETTERS: usize = 25;

/// A scheduler with letters: `fax` fails for good.
async fn with_letters(database: &crate::support::services::TestDatabase) -> Served {
    let fax =
        handler_fn(|_: JobContext, _: Value| async move { Err(JobError::Fail("no paper".into())) });
    let builder = builder(database.url()).register_app(AppConfig::new("fax"), fax);
    let served = Served::of(builder, local()).await;
    let jobs: Vec<Value> = (0..LETTERS)
        .map(|n| {
            let mut job = job(Some(&format!("f-{n}")), 0, "x");
            job["appName"] = json!("fax");
            job
        })
        .collect();
    assert_eq!(served.post("/api/jobs", &json!(jobs)).await.0, 200);
    wait_until(super::DEADLINE, "all letters", async || {
        let (_, page) = served.get("/api/dead-letters?limit=1000").await;
        page["items"].as_array().is_some_and(|items| items.len() == LETTERS)
    })
    .await;
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_shows_each_letter_once_from_any_instance() {
    for database in EACH {
        let is_file = database == Database::Sqlite;
        let database = database.fresh().await;
        let served = with_letters(&database).await;
        let other = if is_file { None } else { Some(Served::on(&database).await) };
        let mut seen = Vec::new();
        let mut cursor = String::new();
        let mut first = String::new();
        for page in 0.. {
            let asked = other.as_ref().filter(|_| page % 2 == 1).unwrap_or(&served);
            let limit = if page == 1 { 3 } else { 4 };
            let path = format!("/api/dead-letters?app=fax&limit={limit}{cursor}");
            let (status, answer) = asked.get(&path).await;
            assert_eq!(status, 200, "{answer}");
            let items = answer["items"].as_array().expect("items");
            seen.extend(items.iter().map(|item| item["id"].to_string()));
            let Some(next) = answer["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
            if first.is_empty() {
                first = next.to_owned();
            }
        }
        assert_eq!(seen.len(), LETTERS);
        let mut unique = seen.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), LETTERS, "{seen:?}");

        let mut changed = first.clone();
        let last = if changed.pop() == Some('A') { 'Q' } else { 'A' };
        changed.push(last);
        for path in [
            format!("/api/dead-letters?app=fax&cursor={changed}"),
            format!("/api/dead-letters?app=sms&cursor={first}"),
            format!("/api/dead-letters?cursor={first}"),
            "/api/dead-letters?app=fax&cursor=x".into(),
            "/api/dead-letters?app=fax&cursor=%00".into(),
        ] {
            let (status, refused) = served.get(&path).await;
            assert_eq!((status, kind(&refused)), (400, "invalid-cursor"), "{path}: {refused}");
        }
        if let Some(other) = other {
            other.end().await;
        }
        served.end().await;
        let again = Served::on(&database).await;
        let (status, answer) =
            again.get(&format!("/api/dead-letters?app=fax&cursor={first}")).await;
        assert_eq!(status, 200, "after a restart: {answer}");
        assert_eq!(answer["items"][0]["id"].to_string(), seen[4]);
        again.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_filter_is_ignored() {
    let database = Database::Postgres.fresh().await;
    let served = Served::on(&database).await;
    for (query, said) in [
        ("status=dead", "state"),
        ("app=sms&app=fax", "given twice"),
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("limit=-1", "1 to 1000"),
        ("limit=1e2", "1 to 1000"),
        ("state=", "is empty"),
        ("state=ded", "\"dead\""),
        ("from=2030-01-01T00:00:00+06:00", "write %2B"),
        ("from=2030-01-01T00:00:00", "without an offset"),
        ("from=soon", "RFC 3339"),
        ("app=%ff", "not UTF-8"),
    ] {
        let (status, refused) = served.get(&format!("/api/dead-letters?{query}")).await;
        assert_eq!((status, kind(&refused)), (400, "invalid-query"), "{query}: {refused}");
        assert!(refused["detail"].as_str().expect("text").contains(said), "{query}: {refused}");
    }
    for path in ["/api/apps?x=1", "/api/ingest?x=1", "/api/metrics?x=1", "/api/schema?x=1"] {
        assert_eq!(served.get(path).await.0, 400, "{path}");
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_corrected_replayed_and_discarded() {
    let database = Database::Postgres.fresh().await;
    let served = with_letters(&database).await;
    let (_, page) = served.get("/api/dead-letters?app=fax&limit=2").await;
    let path =
        |n: usize| format!("/api/dead-letters/{}", page["items"][n]["id"].as_str().expect("an id"));
    let (status, letter) = served.get(&path(0)).await;
    assert_eq!((status, &letter["kind"]), (200, &json!("attempts-exhausted")), "{letter}");

    for (body, status, said) in [
        (json!({}), 422, "missing"),
        (json!({"valeu": "x"}), 422, "did you mean value?"),
        (json!({"value": 7}), 422, "/value"),
        (json!({"value": "{", "valueBase64": "e30="}), 422, "beside value"),
        (json!({"valueBase64": "!"}), 422, "not base64"),
        (json!({"value": "{"}), 400, "not JSON"),
        (json!({"value": "{\"appName\":\"fax\"}"}), 422, "scheduledTime is missing"),
    ] {
        let request = served.request(reqwest::Method::PATCH, &path(0)).json(&body);
        let (answered, refused) = super::answer(request).await;
        assert_eq!(answered, status, "{body}: {refused}");
        assert!(refused["detail"].as_str().expect("text").contains(said), "{body}: {refused}");
    }
    let mended = job(Some("mended"), super::in_an_hour(), "x").to_string();
    let edit = json!({ "value": mended });
    let request = || served.request(reqwest::Method::PATCH, &path(0)).json(&edit);
    let (status, edited) = super::answer(request()).await;
    assert_eq!((status, &edited["result"]), (200, &json!("edited")), "{edited}");
    let (status, refused) = super::answer(request()).await;
    assert_eq!((status, kind(&refused)), (409, "unconfirmed"), "{refused}");

    let replay = format!("{}/replay", path(0));
    let (status, foreseen) = served.post(&format!("{replay}?dryRun=true"), &json!({})).await;
    assert_eq!((status, &foreseen["dryRun"]), (200, &json!(true)), "{foreseen}");
    let empty = || super::answer(served.request(reqwest::Method::POST, &replay));
    let (status, replayed) = empty().await;
    assert_eq!((status, &replayed["result"]), (200, &json!("replayed")), "{replayed}");
    let (status, refused) = empty().await;
    assert_eq!((status, kind(&refused)), (409, "conflict"), "{refused}");
    let job_id = replayed["jobId"].as_str().expect("an id");
    assert!(refused["detail"].as_str().expect("text").contains(job_id), "{refused}");

    let delete = |path: String| super::answer(served.request(reqwest::Method::DELETE, &path));
    for _ in 0..2 {
        let (status, discarded) = delete(path(1)).await;
        assert_eq!((status, discarded), (200, json!({"result": "discarded"})));
    }
    assert_eq!(delete(path(0)).await.0, 409);
    let none = "/api/dead-letters/00000000-0000-0000-0000-000000000000";
    assert_eq!(delete(none.into()).await.0, 404);
    assert_eq!(served.get(none).await.0, 404);
    let (status, refused) = served.get("/api/dead-letters/not-a-uuid").await;
    assert_eq!((status, kind(&refused)), (400, "invalid-path"), "{refused}");
    served.end().await;
}
