//! Where a request goes: by a proxy of the app, by none of the environment, and on no dead
//! connection.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::http::{OK, http};
use super::receiver::{Heard, Receiver, Then};
use super::{DEADLINE, DRAIN, fire_to, no_jobs, schedule, schedule_to};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_proxy_is_used_and_its_refusal_is_not_the_targets() {
    let proxy = Receiver::answering(&[
        ("HTTP/1.1 407 Who\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Then::Close),
        OK,
    ])
    .await;
    let refusing =
        Receiver::answering(&[("HTTP/1.1 407 Who\r\nConnection: close\r\n\r\n", Then::Close)])
            .await;
    let by = |port: u16| format!("proxy = \"http://u:hush@127.0.0.1:{port}\"\n");
    let app = |url: &str, port| format!("{}{}", http(url), by(port));
    let keys = format!(
        "{}[apps.tunnel]\n{}",
        app("http://target.invalid/x", proxy.port()),
        app("https://target.invalid/x", refusing.port())
    );
    let (database, scheduler) = fire_to(&keys).await;
    schedule(&scheduler, "r").await;
    schedule_to(&scheduler, "tunnel", "r").await;
    let heard = proxy.requests(2).await;
    assert!(heard.iter().all(|it| it.line == "POST http://target.invalid/x HTTP/1.1"), "{heard:?}");
    assert!(heard.iter().all(|it| it.headers["x-scheduler-attempt"] == "1"));
    wait_until(DEADLINE, "a report of the proxy", async || {
        let degraded = scheduler.health().degraded;
        let says = format!("connecting by proxy 127.0.0.1:{} to target.invalid", refusing.port());
        degraded.iter().any(|it| it.message.contains(&says) && !it.message.contains("hush"))
    })
    .await;
    assert_eq!(database.count("select count(*) from scheduler_job where attempts = 0").await, 1);
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_is_taken_from_the_environment_and_the_start_says_so() {
    let receiver = Receiver::answering(&[OK]).await;
    let proxy =
        Receiver::answering(&[("HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n", Then::Close)]).await;
    let at = format!("http://127.0.0.1:{}", proxy.port());
    let names =
        ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let database = Database::Sqlite.fresh().await;
    let config =
        format!("[database]\nurl = \"{}\"\n[apps.sms]\n{}", database.url(), http(&receiver.url()));
    let mut instance = Instance::spawn_with(&config, &names.map(|name| (name, at.as_str())));
    instance.ready(DEADLINE).await;
    let answer = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client")
        .post(instance.url("/api/jobs"))
        .json(&serde_json::json!({"appName": "sms", "scheduledTime": 0, "jobData": {}}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 201);
    receiver.requests(1).await;
    assert_eq!(proxy.heard().len(), 0);
    let said = instance.stderr();
    assert!(
        said.contains("app sms fires by http to 127.0.0.1") && said.contains("with no proxy"),
        "{said}"
    );
    instance.terminate(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_a_file_is_read_again_when_the_file_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    fs::write(&file, "Bearer one\n").expect("a file");
    let receiver = Receiver::answering(&[OK]).await;
    let keys = format!("headers = {{ Authorization = {{ file = \"{}\" }} }}\n", file.display());
    let (database, scheduler) = fire_to(&format!("{}{keys}", http(&receiver.url()))).await;
    schedule(&scheduler, "r-0").await;
    assert_eq!(receiver.requests(1).await[0].headers["authorization"], "Bearer one");
    fs::write(&file, "Bearer number two\n").expect("a file");
    let mut sent = 1;
    wait_until(DEADLINE, "the new value", async || {
        schedule(&scheduler, &format!("r-{sent}")).await;
        sent += 1;
        let heard = receiver.requests(sent).await;
        heard[sent - 1].headers["authorization"] == "Bearer number two"
    })
    .await;
    no_jobs(&database).await;
    scheduler.shutdown(DRAIN).await;
}

/// Passes everything on, until the connections of a time are swallowed: they stay open, and what
/// comes on them goes nowhere.
struct Relay {
    port: u16,
    swallows: Arc<AtomicBool>,
}

impl Relay {
    async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address").port();
        let swallows = Arc::new(AtomicBool::new(false));
        let swallow = swallows.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                // Those that come later work.
                let swallow = match swallow.load(Ordering::SeqCst) {
                    true => Arc::new(AtomicBool::new(false)),
                    false => swallow.clone(),
                };
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", port)).await.expect("a server");
                    let ((mut from, mut to), (mut back, mut answer)) =
                        (client.into_split(), server.into_split());
                    tokio::spawn(async move { tokio::io::copy(&mut back, &mut to).await });
                    let mut bytes = [0; 4096];
                    while let Ok(read) = from.read(&mut bytes).await {
                        if read == 0 {
                            return;
                        }
                        if !swallow.load(Ordering::SeqCst) {
                            answer.write_all(&bytes[..read]).await.expect("a server");
                        }
                    }
                });
            }
        });
        Self { port: at, swallows }
    }
}

fn number(heard: &Heard) -> usize {
    heard.headers["x-scheduler-request-id"].parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_connections_cost_the_jobs_one_attempt_that_started_before_that_was_noticed() {
    const KEEP: (&str, Then) = ("HTTP/1.1 204 No Content\r\n\r\n", Then::Keep);
    let receiver = Receiver::answering(&[KEEP]).await;
    let relay = Relay::before(receiver.port()).await;
    let keys = format!("{}timeout_ms = 1000\n", http(&format!("http://127.0.0.1:{}/", relay.port)));
    let (database, scheduler) = fire_to(&keys).await;
    let mut sent = 0;
    let mut send = async |count| {
        for _ in 0..count {
            schedule(&scheduler, &sent.to_string()).await;
            sent += 1;
        }
    };
    send(20).await;
    receiver.requests(20).await;
    relay.swallows.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        send(1).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let heard = receiver.requests(40).await;
    no_jobs(&database).await;
    assert_eq!(heard.len(), 40, "each job once");
    let second: Vec<usize> =
        heard.iter().filter(|it| it.headers["x-scheduler-attempt"] != "1").map(number).collect();
    // A second of them, and none after those.
    assert!((1..=9).contains(&second.len()), "{second:?}");
    assert!(second.iter().all(|number| (20..30).contains(number)), "{second:?}");
    assert!(
        heard
            .iter()
            .all(|it| it.headers["x-scheduler-attempt"].parse::<u32>().is_ok_and(|n| n <= 2))
    );
    assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 0);
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_read_is_not_sent_again_by_the_library() {
    // Each third request on a connection that was used before is read and not answered.
    let receiver = Receiver::deciding(|heard, before| match heard.is_reused && before % 3 == 0 {
        true => (String::new(), Then::Close),
        false => ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), Then::Keep),
    })
    .await;
    let keys = format!("{}max_in_flight = 1\nmax_attempts = 10\n", http(&receiver.url()));
    let (database, scheduler) = fire_to(&keys).await;
    for n in 0..30 {
        schedule(&scheduler, &n.to_string()).await;
    }
    no_jobs(&database).await;
    let heard = receiver.heard();
    let mut twice = 0;
    for n in 0..30 {
        let calls: Vec<&Heard> = heard.iter().filter(|it| number(it) == n).collect();
        let of = |name: &str| calls.iter().map(|it| it.headers[name].clone()).collect::<Vec<_>>();
        let attempts: Vec<String> = (1..=calls.len()).map(|n| n.to_string()).collect();
        assert_eq!(of("x-scheduler-attempt"), attempts);
        assert!(of("idempotency-key").windows(2).all(|two| two[0] == two[1]));
        let fences: Vec<u64> =
            of("x-scheduler-fence").iter().map(|it| it.parse().expect("a number")).collect();
        assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
        twice += usize::from(calls.len() > 1);
    }
    assert!(twice > 3, "{twice}");
    assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 0);
    scheduler.shutdown(DRAIN).await;
}
