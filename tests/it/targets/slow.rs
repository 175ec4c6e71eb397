//! Receivers that are slow at a step, or whose answers have no end: each attempt ends, and tells
//! at which step.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::http::http;
use super::receiver::{Receiver, Then};
use super::{DEADLINE, DRAIN, fire_to, schedule_to};
use crate::support::wait_until;

/// Accepts connections and never reads. Returns its port.
async fn deaf() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.expect("a connection"));
        }
    });
    port
}

async fn always(answer: String, then: Then) -> Receiver {
    Receiver::deciding(move |_, _| (answer.clone(), then)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_ends_at_the_step_that_is_slow_and_the_status_alone_decides() {
    let deaf = deaf().await;
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(1000);
    let headers: String = (0..1024).map(|n| format!("X-{n}: {}\r\n", "x".repeat(1000))).collect();
    let end = "Connection: close\r\nContent-Length: 0\r\n\r\n";
    let drips = always("HTTP/1.1 200 OK".into(), Then::Drip).await;
    let trickle =
        always("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".into(), Then::Drip).await;
    let hinted = always(format!("{hints}HTTP/1.1 200 OK\r\n{end}"), Then::Close).await;
    let packed = "HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: 1000000\r\n\r\n";
    let packed = always(packed.into(), Then::Zeros).await;
    let wordy = always(format!("HTTP/1.1 200 OK\r\n{headers}{end}"), Then::Close).await;
    let limits =
        "max_attempts = 2\ntimeout_ms = 1000\nshards = 1\nbackoff = { delays_ms = [10] }\n";
    let app = |name: &str, url: &str| format!("[apps.{name}]\n{limits}{}", http(url));
    let keys = [
        app("deaf", &format!("http://127.0.0.1:{deaf}/")),
        app("handshake", &format!("https://127.0.0.1:{deaf}/")),
        app("drips", &drips.url()),
        app("trickle", &trickle.url()),
        app("hinted", &hinted.url()),
        app("packed", &packed.url()),
        app("wordy", &wordy.url()),
    ];
    let (database, scheduler) =
        fire_to(&format!("dispatch = \"discard\"\n{}", keys.concat())).await;
    let started = Instant::now();
    let large = "x".repeat(900_000);
    let request = infinite_scheduler::ScheduleJobRequest::builder("deaf").request_id("r");
    let request = request.at("2020-01-01T00:00:00Z").job_data(&serde_json::json!({"a": large}));
    scheduler.schedule(request.build().expect("a request")).await.expect("a job");
    for app in ["handshake", "drips", "trickle", "hinted", "packed", "wordy"] {
        schedule_to(&scheduler, app, "r").await;
    }
    let metrics = |app: &str| scheduler.ingest_metrics().apps[app].clone();
    wait_until(DEADLINE, "the ends", async || {
        ["trickle", "hinted"].iter().all(|app| metrics(app).succeeded == 1)
            && ["deaf", "drips", "packed", "wordy"]
                .iter()
                .all(|app| metrics(app).dead + metrics(app).succeeded == 1)
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    for (app, says) in [
        // The kernel may have taken all of it.
        ("deaf", "took longer than 1000 ms"),
        ("drips", "waiting for the head of the answer of 127.0.0.1:"),
        ("packed", "answered 500 "),
    ] {
        let like = format!(
            "select count(*) from scheduler_dead_letter where attempts = 2 and app = \
             '{app}' and message like '%{says}%' and length(message) < 1200"
        );
        assert_eq!(database.count(&like).await, 1, "{app}");
        assert_eq!(metrics(app).failed, 2, "{app}");
    }
    let degraded = scheduler.health().degraded;
    let handshake = degraded.iter().find(|it| it.subject == "target of handshake");
    assert!(
        handshake.is_some_and(|it| it.message.contains("took longer than 1000 ms")),
        "{degraded:?}"
    );
    assert_eq!(metrics("handshake").failed, 0);
    scheduler.shutdown(DRAIN).await;
}
