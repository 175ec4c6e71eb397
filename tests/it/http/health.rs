//! Probes, and calls, while what the scheduler depends on does not answer.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::{Served, answer, builder, job, kind, local};
use crate::support::proxy::Proxy;
use crate::support::services::Database;
use crate::support::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_unavailable_is_told_at_once() {
    for backend in [Database::MariaDb, Database::Postgres] {
        let database = backend.fresh().await;
        let proxy = Proxy::start(database.url()).await;
        let served = Served::of(builder(&proxy.url(database.url())), local()).await;
        assert_eq!(served.get("/health/ready").await.0, 200);
        served.still_works("before").await;
        proxy.set_unavailable(true);
        wait_until(super::DEADLINE, "a server that is not ready", async || {
            served.get("/health/ready").await.0 == 503
        })
        .await;
        // Probes, and calls, are answered and do not wait for a time to run out.
        for method in [Method::GET, Method::HEAD] {
            let began = Instant::now();
            let live = served.request(method.clone(), "/health/live").send().await;
            assert_eq!(live.expect("an answer").status(), 200);
            assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
            let ready = served.request(method, "/health/ready").send().await;
            assert_eq!(ready.expect("an answer").status(), 503);
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        }
        let (_, health) = served.get("/health/ready").await;
        assert!(health["reasons"].to_string().contains("database"), "{health}");
        wait_until(super::DEADLINE, "a problem that names the database", async || {
            let (status, refused) = served.get("/api/apps").await;
            status == 503 && kind(&refused) == "unavailable"
        })
        .await;
        let began = Instant::now();
        for (method, path) in [
            (Method::GET, "/api/dead-letters"),
            (Method::GET, "/api/requests/sms/x"),
            (Method::POST, "/api/jobs"),
        ] {
            let request = served.request(method, path).json(&job(None, 0, "x"));
            let response = request.send().await.expect("an answer");
            assert_eq!(response.headers()["retry-after"], "1", "{path}");
            let (status, refused) = super::read(response).await;
            assert_eq!((status, kind(&refused)), (503, "unavailable"), "{path}: {refused}");
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(served.get("/api/metrics").await.0, 200, "counters are in memory");
        proxy.set_unavailable(false);
        wait_until(super::DEADLINE, "a server that is ready again", async || {
            served.get("/health/ready").await.0 == 200
        })
        .await;
        served.still_works("after").await;
        served.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_before_its_scheduler_has_started() {
    let database = Database::Postgres.fresh().await;
    let proxy = Proxy::start(database.url()).await;
    proxy.set_unavailable(true);
    let builder = builder(&proxy.url(database.url()));
    let server = infinite_scheduler::http::Server::start(local()).expect("a server");
    server.show_start(builder.progress());
    let starting = tokio::spawn(builder.start());
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", server.address());
    wait_until(super::DEADLINE, "what it waits for", async || {
        let (status, health) = answer(client.get(url("/health/ready"))).await;
        assert_eq!((status, &health["ready"]), (503, &json!(false)));
        health["reasons"].to_string().contains("database")
    })
    .await;
    assert_eq!(answer(client.get(url("/health/live"))).await.0, 200);
    let (status, refused) = answer(client.post(url("/api/jobs")).json(&job(None, 0, "x"))).await;
    assert_eq!((status, kind(&refused)), (503, "starting"), "{refused}");
    assert_eq!(answer(client.get(url("/api/schema"))).await.0, 200);
    proxy.set_unavailable(false);
    let scheduler = starting.await.expect("no panic").expect("a start");
    server.show(scheduler.clone());
    assert_eq!(answer(client.post(url("/api/jobs")).json(&job(None, 0, "x"))).await.0, 201);
    scheduler.shutdown(super::DEADLINE).await;
    server.stop().await;
}
