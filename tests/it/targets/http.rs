//! `dispatch = "http"`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use infinite_scheduler::{ProblemKind, StartError};
use sha2::Sha256;

use super::receiver::{Receiver, Then};
use super::{DRAIN, builder, fire_to, letter, no_jobs, schedule};
use crate::support::services::Database;
use crate::support::wait_until;

const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(super) const OK: (&str, Then) =
    ("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", Then::Close);

pub(super) fn http(url: &str) -> String {
    format!("dispatch = \"http\"\nurl = \"{url}\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_the_job_with_its_headers_and_can_verify_the_signature() {
    let receiver = Receiver::answering(&[OK]).await;
    let keys = format!(
        "{}secrets = [\"whsec_{SECRET}\"]\nheaders = {{ Authorization = \"Bearer hush\" }}",
        http(&receiver.url())
    );
    let (database, scheduler) = fire_to(&keys).await;
    schedule(&scheduler, "r 1").await;
    let heard = receiver.requests(1).await.remove(0);
    no_jobs(&database).await;
    assert_eq!(heard.line, "POST /jobs?token=hush HTTP/1.1");
    let header = |name: &str| heard.headers.get(name).cloned().unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(&heard.body).expect("JSON");
    assert_eq!((&body["requestId"], &body["jobData"]["a"]), (&"r 1".into(), &1.into()));
    let id = body["jobId"].as_str().expect("an id");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("x-scheduler-job-id"), id);
    assert_eq!(header("x-scheduler-request-id"), "r%201");
    assert_eq!(header("x-scheduler-app-name"), "sms");
    assert_eq!(header("x-scheduler-attempt"), "1");
    assert_eq!(header("x-scheduler-scheduled-time"), "2020-01-01T00:00:00.000Z");
    assert!(header("x-scheduler-fence").parse::<u64>().is_ok());
    assert_eq!(header("authorization"), "Bearer hush");
    let key = header("idempotency-key");
    let admitted = key.strip_prefix(&format!("{id}-")).expect("the job's id");
    assert!(admitted.parse::<u64>().is_ok(), "{key}");
    assert_eq!(header("webhook-id"), key);
    let secret = STANDARD.decode(SECRET).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).expect("a key");
    let signed = format!("{key}.{}.{}", header("webhook-timestamp"), heard.body);
    mac.update(signed.as_bytes());
    let signature = header("webhook-signature");
    let signature = STANDARD.decode(signature.strip_prefix("v1,").expect("v1")).expect("base64");
    mac.verify_slice(&signature).expect("the signature");
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_asks_for_time_gets_it() {
    let receiver = Receiver::answering(&[
        ("HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n", Then::Close),
        OK,
    ])
    .await;
    let (database, scheduler) = fire_to(&http(&receiver.url())).await;
    schedule(&scheduler, "r-1").await;
    let heard = receiver.requests(2).await;
    let waited = heard[1].at - heard[0].at;
    assert!(waited >= Duration::from_millis(2900), "{waited:?}");
    assert_eq!(heard[1].headers["x-scheduler-attempt"], "2");
    assert_eq!(heard[0].headers["idempotency-key"], heard[1].headers["idempotency-key"]);
    no_jobs(&database).await;
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_refuses_is_a_dead_letter_after_one_attempt() {
    for (answers, says) in [
        (
            &[("HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno such", Then::Close)][..],
            "answered 404 Not Found: no such",
        ),
        (
            &[("HTTP/1.1 307 X\r\nLocation: /jobs\r\nContent-Length: 0\r\n\r\n", Then::Close), OK],
            "answered 307",
        ),
    ] {
        let receiver = Receiver::answering(answers).await;
        let (database, scheduler) = fire_to(&http(&receiver.url())).await;
        schedule(&scheduler, "r-1").await;
        let (kind, message) = letter(&database).await;
        assert_eq!(kind, "refused-by-target");
        assert!(message.contains(says) && !message.contains("hush"), "{message}");
        assert_eq!(receiver.heard().len(), 1, "a redirect is not followed");
        scheduler.shutdown(DRAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_without_an_attempt_until_its_target_is_there() {
    let receiver = Receiver::answering(&[OK]).await;
    let url = receiver.url();
    let port = receiver.port();
    drop(receiver);
    let (database, scheduler) = fire_to(&http(&url)).await;
    schedule(&scheduler, "r-1").await;
    wait_until(super::DEADLINE, "a report of the target", async || {
        let degraded = scheduler.health().degraded;
        let found = degraded.iter().find(|it| it.kind == ProblemKind::TargetUnavailable);
        found.is_some_and(|it| it.message.contains("connecting to") && !it.message.contains("hush"))
    })
    .await;
    // More tries than a job has attempts.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(database.count("select count(*) from scheduler_job where attempts = 0").await, 1);
    let receiver = Receiver::at(port, &[OK]).await;
    let heard = receiver.requests(1).await;
    assert_eq!(heard[0].headers["x-scheduler-attempt"], "1");
    no_jobs(&database).await;
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_end_changes_nothing_about_the_status() {
    let receiver = Receiver::answering(&[(
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        Then::Zeros,
    )])
    .await;
    let (database, scheduler) = fire_to(&http(&receiver.url())).await;
    schedule(&scheduler, "r-1").await;
    no_jobs(&database).await;
    assert_eq!(receiver.heard().len(), 1);
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_error_without_end_one_kilobyte_is_kept() {
    let receiver = Receiver::answering(&[(
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 1073741824\r\n\r\n",
        Then::Zeros,
    )])
    .await;
    let keys = format!("{}max_attempts = 1", http(&receiver.url()));
    let (database, scheduler) = fire_to(&keys).await;
    schedule(&scheduler, "r-1").await;
    let (kind, message) = letter(&database).await;
    assert_eq!(kind, "attempts-exhausted");
    assert!(message.contains("answered 500 Internal Server Error: 000"), "{message}");
    assert_eq!(message.matches('0').count() / 1024, 1, "{}", message.len());
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_be_used_is_refused_at_the_start() {
    let database = Database::Sqlite.fresh().await;
    for (keys, says) in [
        ("secrets = [\"whsec_aHVzaA==\"]", "apps.sms.secrets has a secret of 4 bytes"),
        ("ca = \"/nowhere/ca.pem\"", "apps.sms.ca names /nowhere/ca.pem, which cannot be read"),
    ] {
        let keys = format!("{}{keys}", http("https://host/"));
        match builder(&database, &keys).start().await {
            Err(StartError::Settings(why)) => assert!(why.starts_with(says), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
