//! The list of jobs: a filter in which nothing is ignored, and a walk while jobs come and go.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use super::{EACH, Served, answer, in_an_hour, job, kind};
use crate::support::services::Database;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_filter_of_jobs_is_ignored() {
    let database = Database::Postgres.fresh().await;
    let served = Served::on(&database).await;
    let jobs = json!([1, 2, 3].map(|n| job(Some(&format!("r-{n}")), in_an_hour(), "x")));
    assert_eq!(served.post("/api/jobs", &jobs).await.0, 200);
    for (query, said) in [
        ("status=dead", "did you mean state?"),
        ("apps=sms", "did you mean app?"),
        ("app=sms&app=sipcall", "given twice"),
        ("app=", "is empty"),
        ("app=SMS", "a-z, 0-9"),
        ("state=", "is empty"),
        ("state=scheduld", "scheduled"),
        ("state=runing", "mean running?"),
        ("errorKind=expird", "did you mean expired?"),
        ("priority=urgent", "normal"),
        ("key=%00", "control characters"),
        ("partition=3", "topic"),
        ("data=[]", "no condition"),
        (r#"data=[{"pointer":"/a"}]"#, "equals is missing"),
        (r#"data=[{"pointer":"a","equals":1}]"#, "slash"),
        ("from=2030-01-01T00:00:00+06:00", "write %2B"),
        ("from=2030-01-01T00:00:00", "without an offset"),
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("limit=-1", "1 to 1000"),
        ("limit=1e2", "1 to 1000"),
        ("limit=1&limit=1", "given twice"),
    ] {
        let (status, refused) = served.get(&format!("/api/jobs?{query}")).await;
        assert_eq!((status, kind(&refused)), (400, "invalid-query"), "{query}: {refused}");
        assert!(refused["detail"].as_str().expect("text").contains(said), "{query}: {refused}");
        assert!(refused["errors"][0]["parameter"].is_string(), "{query}: {refused}");
    }
    let backwards = "from=2030-01-01T00:00:00Z&to=2029-01-01T00:00:00Z";
    for list in ["jobs", "dead-letters", "audit"] {
        let (status, refused) = served.get(&format!("/api/{list}?{backwards}")).await;
        assert_eq!((status, kind(&refused)), (422, "invalid-request"), "{refused}");
        assert!(refused["detail"].as_str().expect("text").contains("before to"), "{refused}");
    }
    let (status, refused) = served.get("/api/jobs?app=smss").await;
    assert_eq!((status, kind(&refused)), (422, "invalid-request"), "{refused}");
    assert!(refused["detail"].as_str().expect("text").contains("did you mean sms?"), "{refused}");
    let found = async |query: &str| {
        let (status, page) = served.get(&format!("/api/jobs?{query}")).await;
        assert_eq!((status, &page["next"]), (200, &Value::Null), "{query}: {page}");
        page["items"].as_array().expect("items").len()
    };
    for (query, count) in [
        ("", 3),
        ("app=sms&state=scheduled", 3),
        ("state=due", 0),
        ("priority=high", 0),
        (r#"data=[{"pointer":"/message","equals":"x"}]"#, 3),
        (r#"data=[{"pointer":"/message","equals":"y"}]"#, 0),
    ] {
        assert_eq!(found(query).await, count, "{query}");
    }
    served.still_works("ok").await;
    served.end().await;
}

const JOBS: i64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_meets_each_job_that_stays_once_from_any_instance() {
    for database in EACH {
        let is_file = database == Database::Sqlite;
        let database = database.fresh().await;
        let served = Served::on(&database).await;
        let other = if is_file { None } else { Some(Served::on(&database).await) };
        let start = in_an_hour();
        let at = |n: i64| start + n * 1000;
        let jobs: Vec<Value> =
            (0..JOBS).map(|n| job(Some(&format!("stays-{n:02}")), at(n), "x")).collect();
        assert_eq!(served.post("/api/jobs", &json!(jobs)).await.0, 200);
        let list = "/api/jobs?app=sms&state=scheduled";
        let mut met: BTreeMap<String, usize> = BTreeMap::new();
        let (mut order, mut first) = (Vec::new(), None);
        let mut cursor = String::new();
        for page in 0.. {
            let asked = other.as_ref().filter(|_| page % 2 == 1).unwrap_or(&served);
            let (status, found) = asked.get(&format!("{list}&limit=7{cursor}")).await;
            assert_eq!(status, 200, "{found}");
            let items = found["items"].as_array().expect("items");
            for item in items {
                *met.entry(item["requestId"].as_str().expect("text").to_owned()).or_default() += 1;
                order.push(item["dueTime"].as_str().expect("text").to_owned());
            }
            let Some(next) = found["next"].as_str() else { break };
            first.get_or_insert_with(|| next.to_owned());
            cursor = format!("&cursor={next}");
            // New ones before and behind the cursor; the one that it stands at goes.
            let (before, behind) = (format!("a-{page}"), format!("z-{page}"));
            let new = json!([job(Some(&before), at(-1), "x"), job(Some(&behind), at(JOBS), "x")]);
            assert_eq!(served.post("/api/jobs", &new).await.0, 200);
            if page == 1 {
                let last = items.last().expect("a job");
                let path = format!("/api/jobs/{}", last["jobId"].as_str().expect("an id"));
                assert_eq!(answer(served.request(Method::DELETE, &path)).await.0, 200);
            }
        }
        for n in 0..JOBS {
            assert_eq!(met.get(&format!("stays-{n:02}")), Some(&1), "{n}: {met:?}");
        }
        assert!(met.values().all(|times| *times == 1), "{met:?}");
        assert!(order.is_sorted(), "{order:?}");

        let first = first.expect("a second page");
        let (status, again) = served.get(&format!("{list}&limit=37&cursor={first}")).await;
        assert_eq!((status, &again["items"][0]["requestId"]), (200, &json!("stays-07")));
        let mut changed = first.clone();
        let last = if changed.pop() == Some('A') { 'Q' } else { 'A' };
        changed.push(last);
        for path in [
            format!("/api/jobs?cursor={first}"),
            format!("{list}&priority=high&cursor={first}"),
            format!("{list}&cursor={changed}"),
            format!("{list}&cursor=x"),
            format!("/api/dead-letters?app=sms&cursor={first}"),
        ] {
            let (status, refused) = served.get(&path).await;
            assert_eq!((status, kind(&refused)), (400, "invalid-cursor"), "{path}: {refused}");
        }
        if let Some(other) = other {
            other.end().await;
        }
        served.end().await;
        let again = Served::on(&database).await;
        let (status, page) = again.get(&format!("{list}&limit=3&cursor={first}")).await;
        assert_eq!((status, &page["items"][0]["requestId"]), (200, &json!("stays-07")), "{page}");
        again.end().await;
    }
}
