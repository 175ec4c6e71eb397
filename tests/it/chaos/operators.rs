//! People and programs that operate on jobs over HTTP while everything fails: each asks until it
//! has an answer, whichever instance gives it, and notes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::crew::Doors;
use super::troubles::now_ms;

/// How many operate at the same time.
const OPERATORS: usize = 6;
/// How long one waits for an answer before asking again.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// How long answers may take when nothing is in the way any more.
const LAST_ANSWERS: Duration = Duration::from_secs(90);
/// When a job is due, from its request.
const DUE_MS: std::ops::Range<i64> = 500..8_000;
/// When a job is due that was moved, from that operation.
const MOVED_MS: std::ops::Range<i64> = 1_000..8_000;
/// Jobs that a bulk action is to cancel. They are due long after the run.
const OF_BULK: usize = 20;
/// One in this many turns is a bulk action.
const BULK_EACH: usize = 12;

/// What an operator asked of a job, and knows of it.
#[derive(Clone, Debug)]
pub(super) struct Operated {
    /// Its request's id.
    pub(super) request: String,
    /// When it was due at first.
    pub(super) due_ms: i64,
    pub(super) known: Known,
    /// When it was asked for first.
    pub(super) asked_ms: i64,
    /// When the answer came.
    pub(super) answered_ms: i64,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing was asked, or the answer was that it starts or has fired.
    Fires,
    /// It ran; it fires no more, or else ends as if nothing had been asked.
    Ran,
    Cancelled,
    /// It is due at another moment.
    MovedTo(i64),
    /// It has other data.
    Edited,
}

/// A bulk action that has ended.
#[derive(Clone, Debug)]
pub(super) struct BulkEnd {
    pub(super) requests: Vec<String>,
    pub(super) shown: Value,
}

/// Whether the job of this request is one of theirs.
pub(super) fn have_asked_for(request: &str) -> bool {
    request.starts_with("o-") || request.starts_with("b-")
}

/// All that operators know at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    pub(super) jobs: Vec<Operated>,
    pub(super) bulks: Vec<BulkEnd>,
    /// Requests that had no answer and were sent again.
    pub(super) repeated: usize,
}

/// The operators at work.
#[derive(Debug)]
pub(super) struct Operators {
    over: Arc<AtomicBool>,
    repeated: Arc<AtomicUsize>,
    work: Vec<JoinHandle<Notes>>,
}

impl Operators {
    pub(super) fn begin(doors: &Doors, rng: &mut fastrand::Rng) -> Self {
        let (over, repeated) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let one = |number| {
            let operator = Operator {
                number,
                doors: doors.clone(),
                client: Client::new(),
                rng: rng.fork(),
                repeated: Arc::clone(&repeated),
            };
            tokio::spawn(operator.work(over.clone()))
        };
        let work = (0..OPERATORS).map(one).collect();
        Self { over, repeated, work }
    }

    /// Waits until each has its last answer.
    pub(super) async fn end(self) -> Notes {
        self.over.store(true, Ordering::Release);
        let mut all = Notes::default();
        for work in self.work {
            let notes = tokio::time::timeout(LAST_ANSWERS, work).await;
            let notes = notes.unwrap_or_else(|_| panic!("no answer within {LAST_ANSWERS:?}"));
            let Notes { jobs, bulks, .. } = notes.expect("an operator that lives");
            all.jobs.extend(jobs);
            all.bulks.extend(bulks);
        }
        all.repeated = self.repeated.load(Ordering::Relaxed);
        all
    }
}

struct Operator {
    number: usize,
    doors: Doors,
    client: Client,
    rng: fastrand::Rng,
    repeated: Arc<AtomicUsize>,
}

impl Operator {
    async fn work(mut self, over: Arc<AtomicBool>) -> Notes {
        let mut notes = Notes::default();
        let mut turn = 0;
        while !over.load(Ordering::Acquire) {
            turn += 1;
            match turn % BULK_EACH {
                0 => notes.bulks.push(self.cancel_in_bulk(turn).await),
                _ => notes.jobs.push(self.operate(turn).await),
            }
        }
        notes
    }

    /// Schedules a job and operates on it at a moment around the one at which it is due.
    async fn operate(&mut self, turn: usize) -> Operated {
        let request = format!("o-{}-{turn}", self.number);
        let due_ms = now_ms() + self.rng.i64(DUE_MS);
        let id = self.schedule(&request, due_ms, json!({ "round": 0 })).await;
        let wait_ms = self.rng.i64(0..due_ms - now_ms().min(due_ms - 1) + 300);
        tokio::time::sleep(Duration::from_millis(wait_ms.unsigned_abs())).await;

        let path = format!("/api/jobs/{id}");
        let asked_ms = now_ms();
        let moved_ms = now_ms() + self.rng.i64(MOVED_MS);
        let (method, path, body) = match self.rng.u32(0..10) {
            0 => {
                let known = Known::Fires;
                return Operated { request, due_ms, known, asked_ms, answered_ms: asked_ms };
            }
            1..5 => (Method::DELETE, format!("{path}?reason=chaos"), Value::Null),
            5..8 => (Method::PATCH, path, json!({ "scheduledTime": moved_ms })),
            8 => (Method::PATCH, path, json!({ "jobData": { "round": 1 } })),
            _ => (Method::POST, format!("{path}/run"), Value::Null),
        };
        let answer = self.ask(method, &path, &body).await;
        let known = match answer["result"].as_str() {
            Some("cancelled") => Known::Cancelled,
            Some("rescheduled" | "unchanged") if body["scheduledTime"].is_i64() => {
                Known::MovedTo(moved_ms)
            }
            Some("edited" | "unchanged") if body["jobData"].is_object() => Known::Edited,
            Some("running") => Known::Ran,
            Some("started" | "already-fired" | "unchanged") => Known::Fires,
            _ => panic!("{path} {body}: {answer}"),
        };
        Operated { request, due_ms, known, asked_ms, answered_ms: now_ms() }
    }

    /// Schedules jobs, cancels them by one bulk action, and waits until it has ended.
    async fn cancel_in_bulk(&mut self, turn: usize) -> BulkEnd {
        let group = format!("b-{}-{turn}", self.number);
        let mut requests = Vec::new();
        for place in 0..OF_BULK {
            let request = format!("{group}-{place}");
            self.schedule(&request, now_ms() + 86_400_000, json!({ "group": group })).await;
            requests.push(request);
        }
        let wanted = json!({
            "action": "cancel",
            "filter": { "app": "ops", "data": [{ "pointer": "/group", "equals": group }] },
            "reason": "chaos",
            "idempotencyKey": group,
        });
        let started = self.ask(Method::POST, "/api/bulk", &wanted).await;
        let path = format!("/api/bulk/{}", started["id"]);
        loop {
            let shown = self.ask(Method::GET, &path, &Value::Null).await;
            if shown["state"] == "finished" {
                return BulkEnd { requests, shown };
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn schedule(&mut self, request: &str, due_ms: i64, data: Value) -> String {
        let body = json!({
            "requestId": request,
            // A request that is repeated after its job has ended would be a new one without it.
            "idempotencyKey": request,
            "appName": "ops",
            "scheduledTime": due_ms,
            "jobData": data,
        });
        let answer = self.ask(Method::POST, "/api/jobs", &body).await;
        answer["jobId"].as_str().unwrap_or_else(|| panic!("{request}: {answer}")).to_owned()
    }

    /// Asks any instance until one has answered. An operation that was accepted and not yet
    /// carried out is asked for its answer.
    async fn ask(&mut self, method: Method, path: &str, body: &Value) -> Value {
        let (mut method, mut path, mut body) = (method, path.to_owned(), body.clone());
        loop {
            match self.try_ask(method.clone(), &path, &body).await {
                Some((StatusCode::ACCEPTED, answer)) if answer["operation"].is_i64() => {
                    path = format!("/api/operations/{}", answer["operation"]);
                    (method, body) = (Method::GET, Value::Null);
                }
                Some((status, answer)) if !status.is_server_error() => {
                    return match answer["answer"].is_object() {
                        true => answer["answer"].clone(),
                        false => answer,
                    };
                }
                _ => {
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_ask(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Option<(StatusCode, Value)> {
        let url = self.doors.any(&mut self.rng, path)?;
        let mut request = self.client.request(method, url).timeout(PATIENCE);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await.ok()?;
        Some((answer.status(), answer.json().await.ok()?))
    }
}
