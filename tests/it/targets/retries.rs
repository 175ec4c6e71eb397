//! Retries in numbers: many jobs that fail together, and one that fails very often.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use infinite_scheduler::ScheduleJobRequest;

use super::http::{OK, http};
use super::receiver::{Receiver, Then};
use super::{DRAIN, fire_to, letter};
use crate::support::{is_long, wait_until};

const BUSY: (&str, Then) =
    ("HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Then::Close);

/// Busy for some time, then so busy that it takes only so many jobs in any second.
struct Recovering {
    until: Instant,
    a_second: usize,
    taken: Mutex<VecDeque<Instant>>,
}

impl Recovering {
    fn answer(&self) -> (&'static str, Then) {
        let now = Instant::now();
        if now < self.until {
            return BUSY;
        }
        let mut taken = self.taken.lock().expect("a lock");
        while taken.front().is_some_and(|at| now - *at >= Duration::from_secs(1)) {
            taken.pop_front();
        }
        if taken.len() >= self.a_second {
            return BUSY;
        }
        taken.push_back(now);
        OK
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_failed_together_do_not_return_together_and_all_succeed() {
    // Jobs, how long the target takes none, how many a second it takes then, and how many calls
    // are too many.
    let (jobs, outage, a_second, most) = match is_long() {
        true => (2000, Duration::from_secs(10), 200, 11_800),
        false => (200, Duration::from_secs(2), 50, 1180),
    };
    for backoff in ["{ initial_ms = 1000 }", "{ delays_ms = [1000, 2000, 4000, 8000, 16000] }"] {
        let target =
            Recovering { until: Instant::now() + outage, a_second, taken: Mutex::default() };
        let receiver = Receiver::deciding(move |_, _| {
            let (answer, then) = target.answer();
            (answer.to_owned(), then)
        })
        .await;
        let app = format!("[apps.herd]\nbackoff = {backoff}\nmax_attempts = 8\n");
        let url = http(&receiver.url());
        let (database, scheduler) = fire_to(&format!("{url}{app}{url}")).await;
        let started = Instant::now();
        let requests = (0..jobs).map(|n| {
            let request = ScheduleJobRequest::builder("herd").request_id(format!("r-{n}"));
            let request = request.at("2020-01-01T00:00:00Z").raw_job_data("{}");
            request.build().expect("a request")
        });
        for submitted in scheduler.schedule_all(requests).await {
            submitted.expect("a job");
        }
        wait_until(Duration::from_secs(120), "an end of all jobs", async || {
            scheduler.ingest_metrics().apps["herd"].succeeded == jobs
        })
        .await;
        let calls = receiver.heard().len();
        assert!(calls < most, "{backoff}: {calls} calls, {:?}", started.elapsed());
        assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 0);
        scheduler.shutdown(DRAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_thousands_of_times_waits_each_time_and_is_one_letter() {
    let attempts = if is_long() { 5000 } else { 300 };
    let receiver = Receiver::answering(&[BUSY]).await;
    let app = "[apps.stubborn]\nbackoff = { initial_ms = 1, factor = 2.0, max_ms = 5 }\n";
    let url = http(&receiver.url());
    let (database, scheduler) = fire_to(&format!("{url}{app}{url}")).await;
    let request = ScheduleJobRequest::builder("stubborn").request_id("r").max_attempts(attempts);
    let request = request.at("2020-01-01T00:00:00Z").raw_job_data("{}").build();
    scheduler.schedule(request.expect("a request")).await.expect("a job");
    let (kind, message) = letter(&database).await;
    assert_eq!(kind, "attempts-exhausted", "{message}");
    let heard = receiver.heard();
    let numbers: Vec<u32> = heard
        .iter()
        .map(|it| it.headers["x-scheduler-attempt"].parse().expect("a number"))
        .collect();
    assert_eq!(numbers, (1..=attempts).collect::<Vec<_>>());
    let waits: Vec<Duration> = heard.windows(2).map(|two| two[1].at - two[0].at).collect();
    // Three quarters of the cap.
    let least = Duration::from_micros(3750);
    assert!(waits[5..].iter().all(|wait| *wait >= least), "{:?}", waits[5..].iter().min());
    assert_eq!(scheduler.ingest_metrics().apps["stubborn"].circuit_opened, 0);
    scheduler.shutdown(DRAIN).await;
}
