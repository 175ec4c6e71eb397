//! A target that takes no jobs for a time: it costs them next to no attempts, and other apps
//! nothing.

use std::time::Duration;

use infinite_scheduler::{AppMetrics, Scheduler};

use super::http::{OK, http};
use super::receiver::{Receiver, Then};
use super::{DEADLINE, DRAIN, fire_to, no_jobs, schedule, schedule_to};
use crate::support::{wait_for, wait_until};

const BUSY: (&str, Then) =
    ("HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 5\r\n\r\nno db", Then::Close);

fn metrics(scheduler: &Scheduler) -> AppMetrics {
    scheduler.ingest_metrics().apps["sms"].clone()
}

/// What `degraded` says about the target.
fn said(scheduler: &Scheduler) -> Option<String> {
    let degraded = scheduler.health().degraded;
    degraded.into_iter().find(|it| it.subject == "target of sms").map(|it| it.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_can_be_sent_only_probes_start_and_another_app_is_as_punctual_as_alone() {
    let receiver = Receiver::answering(&[OK]).await;
    let (url, port) = (receiver.url(), receiver.port());
    drop(receiver);
    let other = Receiver::answering(&[OK]).await;
    let (database, scheduler) =
        fire_to(&format!("{}[apps.other]\n{}", http(&url), http(&other.url()))).await;
    for n in 0..30 {
        schedule(&scheduler, &format!("r-{n}")).await;
    }
    let why = wait_for(DEADLINE, "an open circuit", async || {
        said(&scheduler).filter(|why| why.starts_with("its circuit is open"))
    })
    .await;
    assert!(why.contains("connecting to 127.0.0.1:") && !why.contains("hush"), "{why}");
    let at_first = metrics(&scheduler);
    assert_eq!((at_first.circuit_open, at_first.circuit_opened > 0), (1, true));
    for n in 0..10 {
        schedule_to(&scheduler, "other", &format!("o-{n}")).await;
    }
    other.requests(10).await;
    wait_until(DEADLINE, "two probes in vain", async || {
        said(&scheduler).is_some_and(|why| why.contains("next probe is in 4000 ms"))
    })
    .await;
    let at_last = metrics(&scheduler);
    assert!(at_last.fired - at_first.fired <= 3, "{at_first:?} {at_last:?}");
    assert!(at_last.lateness_max_ms >= 0 && at_last.failed == 0, "{at_last:?}");
    assert_eq!(database.count("select count(*) from scheduler_job where attempts = 0").await, 30);
    let receiver = Receiver::at(port, &[OK]).await;
    let heard = receiver.requests(30).await;
    assert!(heard.iter().all(|it| it.headers["x-scheduler-attempt"] == "1"));
    no_jobs(&database).await;
    assert_eq!((receiver.heard().len(), said(&scheduler)), (30, None));
    assert_eq!(metrics(&scheduler).circuit_open, 0);
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_answers_in_a_row_that_the_target_is_busy_stop_the_app_for_a_second() {
    let receiver = Receiver::answering(
        const { &[BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, OK] },
    )
    .await;
    let keys = format!("{}max_in_flight = 1\n", http(&receiver.url()));
    let (database, scheduler) = fire_to(&keys).await;
    for n in 0..30 {
        schedule(&scheduler, &format!("r-{n}")).await;
    }
    wait_until(DEADLINE, "an open circuit", async || metrics(&scheduler).circuit_open == 1).await;
    let why = said(&scheduler).unwrap_or_default();
    assert!(why.contains("answered 503") && why.ends_with(": no db"), "{why}");
    let heard = receiver.requests(40).await;
    no_jobs(&database).await;
    let waited = heard[10].at - heard[9].at;
    assert!(waited >= Duration::from_millis(990), "{waited:?}");
    let second = heard.iter().filter(|it| it.headers["x-scheduler-attempt"] == "2").count();
    assert_eq!((heard.len(), second, said(&scheduler)), (40, 10, None));
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_failures_of_one_job_open_no_circuit() {
    let receiver = Receiver::answering(&[BUSY]).await;
    let keys = format!("{}max_attempts = 15\n", http(&receiver.url()));
    let (database, scheduler) = fire_to(&keys).await;
    schedule(&scheduler, "r-1").await;
    let (kind, message) = super::letter(&database).await;
    assert_eq!(kind, "attempts-exhausted", "{message}");
    assert_eq!((receiver.heard().len(), metrics(&scheduler).circuit_opened), (15, 0));
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_no_attempt_and_hold_all_jobs_of_the_app() {
    let receiver = Receiver::answering(&[
        ("HTTP/1.1 429 Slow down\r\nConnection: close\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n", Then::Close),
        OK,
    ])
    .await;
    let keys = format!("{}max_in_flight = 1\nmax_attempts = 1\n", http(&receiver.url()));
    let (database, scheduler) = fire_to(&keys).await;
    for n in 0..10 {
        schedule(&scheduler, &format!("r-{n}")).await;
    }
    wait_until(DEADLINE, "a report of the target", async || {
        said(&scheduler).is_some_and(|why| why.contains("nothing is sent for"))
    })
    .await;
    let heard = receiver.requests(11).await;
    no_jobs(&database).await;
    let waited = heard[1].at - heard[0].at;
    assert!(waited >= Duration::from_millis(1990), "{waited:?}");
    assert!(heard.iter().all(|it| it.headers["x-scheduler-attempt"] == "1"));
    let metrics = metrics(&scheduler);
    assert_eq!((metrics.too_many_requests, metrics.dead, said(&scheduler)), (1, 0, None));
    scheduler.shutdown(DRAIN).await;
}
