//! The HTTP API by real HTTP: what is accepted, what is refused and how, who may do what.

mod health;
mod job_changes;
mod by_message;
mod job_lists;
mod jobs;
mod lists;
mod protocol;
mod schemathesis;
mod tokens;

use std::time::Duration;

use infinite_scheduler::http::{Server, ServerOptions};
use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::{AppConfig, Discard, Scheduler, SchedulerBuilder};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use crate::support::services::{Database, TestDatabase};
use crate::support::world::LEASE;

const DEADLINE: Duration = Duration::from_secs(90);

/// A scheduler without Kafka and a server for it, in this process.
struct Served {
    scheduler: Scheduler,
    server: Server,
    client: Client,
}

/// Status, and the body as JSON (null if it is none).
type Answer = (u16, Value);

fn local() -> ServerOptions {
    ServerOptions::new(([127, 0, 0, 1], 0))
}

fn builder(url: &str) -> SchedulerBuilder {
    Scheduler::builder().database_url(url).lease(LEASE).register_app(AppConfig::new("sms"), Discard)
}

impl Served {
    async fn on(database: &TestDatabase) -> Self {
        Self::with(database, local()).await
    }

    async fn with(database: &TestDatabase, options: ServerOptions) -> Self {
        Self::of(builder(database.url()), options).await
    }

    async fn of(builder: SchedulerBuilder, options: ServerOptions) -> Self {
        let server = Server::start(options).expect("a server");
        let scheduler = builder.start().await.expect("a start");
        server.show(scheduler.clone());
        Self { scheduler, server, client: Client::new() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Asks for `J(id, time)` and expects that it becomes a job: the server works.
    async fn still_works(&self, id: &str) {
        let (status, answer) = self.post("/api/jobs", &job(Some(id), 0, "still")).await;
        assert_eq!((status, &answer["result"]), (201, &json!("accepted")), "{answer}");
    }

    async fn end(self) {
        self.scheduler.shutdown(DEADLINE).await;
        self.server.stop().await;
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    read(request.send().await.expect("an answer")).await
}

async fn read(answer: Response) -> Answer {
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").cloned();
    assert!(answer.headers().get("access-control-allow-origin").is_none());
    let body = answer.bytes().await.expect("a body");
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if status >= 400 && body.get("ready").is_none() {
        assert_eq!(kind.expect("a type"), "application/problem+json", "{status} {body}");
        assert_eq!(body["status"], status, "{body}");
        for member in ["type", "title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {body}");
        }
    }
    (status, body)
}

/// The kind of a problem.
fn kind(problem: &Value) -> &str {
    let kind = problem["type"].as_str().and_then(|kind| kind.rsplit(':').next());
    kind.unwrap_or_default()
}

/// A request of the app `sms`.
fn job(id: Option<&str>, time: i64, message: &str) -> Value {
    let mut job = json!({
        "appName": "sms",
        "scheduledTime": time,
        "jobData": { "phoneNumber": "+100", "message": message },
    });
    if let Some(id) = id {
        job["requestId"] = json!(id);
    }
    job
}

/// An hour from now, epoch milliseconds.
fn in_an_hour() -> i64 {
    SystemClock.now_ms() + 3_600_000
}

/// One instance has one file; servers have several.
const EACH: [Database; 3] = [Database::Sqlite, Database::MariaDb, Database::Postgres];
