//! The scheduler inside an actix-web program: an endpoint that schedules reminders, a
//! handler that sends them, metrics, and a shutdown that loses nothing.
//!
//! Needs no set-up: `cargo run --example embed_in_actix` uses an embedded broker and a
//! database file in a temporary folder, posts some reminders to itself, publishes one to
//! Kafka as another service would, waits until all were sent, and ends. With `-- --serve`
//! it listens on 127.0.0.1:8080 until Ctrl-C:
//!
//! ```sh
//! curl -i localhost:8080/remind -H 'content-type: application/json' \
//!     -d '{"phoneNumber":"+8801700000001","message":"tea is ready","inSeconds":3}'
//! curl localhost:8080/metrics
//! ```
//!
//! To run it against a real broker and database, set
//! `KAFKA_BOOTSTRAP_SERVERS=localhost:9092` and `DATABASE_URL=mysql://user:pass@host/db`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::{StatusCode, header};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, Responder, rt, web};
use infinite_scheduler::kafka::{Outgoing, Producer};
use infinite_scheduler::model::clock::SystemClock;
use infinite_scheduler::telemetry::{self, LogFormat};
use infinite_scheduler::{
    AppConfig, EmbeddedBroker, ErrorKind, JobContext, JobError, KafkaIngestConfig, OperationError,
    Refusal, Rejection, ScheduleJobRequest, Scheduler, Submitted, Typed, TypedHandler,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;

type AnyError = Box<dyn std::error::Error>;

/// The app of the reminders.
const APP: &str = "reminder";
/// The port with `--serve`; a demonstration uses any free port.
const PORT: u16 = 8080;
/// How long running attempts may take to end.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the demonstration waits for all reminders.
const PATIENCE: Duration = Duration::from_secs(30);

/// A job's data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reminder {
    phone_number: String,
    message: String,
}

/// The body of `POST /remind`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Remind {
    #[serde(flatten)]
    reminder: Reminder,
    in_seconds: u64,
}

/// The handler that sends reminders; this one prints them.
struct SendReminder {
    sent: mpsc::UnboundedSender<Reminder>,
}

impl TypedHandler for SendReminder {
    type Data = Reminder;

    async fn execute(&self, context: &JobContext, reminder: Reminder) -> Result<(), JobError> {
        let Reminder { phone_number, message } = &reminder;
        let late_ms = context.fired_ms() - context.job().scheduled_ms;
        println!("to {phone_number}: {message} (attempt {}, {late_ms} ms late)", context.attempt());
        // With --serve there is no receiver.
        self.sent.send(reminder).ok();
        Ok(())
    }

    /// A request for an invalid reminder is refused at once.
    fn validate(&self, reminder: &Reminder) -> Result<(), Rejection> {
        match reminder.phone_number.starts_with('+') {
            true => Ok(()),
            false => Err(Rejection::Invalid("phoneNumber must begin with +".into())),
        }
    }
}

#[actix_web::main]
async fn main() -> Result<(), AnyError> {
    let serve = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--serve") => true,
        Some(other) => return Err(format!("{other:?} is unknown: --serve, or nothing").into()),
    };
    let level = if serve { LevelFilter::INFO } else { LevelFilter::ERROR };
    telemetry::init(LogFormat::Text, level)?;
    let surroundings = Surroundings::find()?;
    let (sent, sendings) = mpsc::unbounded_channel();

    let scheduler = Scheduler::builder()
        .database_url(&surroundings.database_url)
        .with_kafka_ingest(surroundings.kafka.clone())
        .register_app(
            AppConfig::new(APP).required_fields(["phoneNumber", "message"]),
            Typed(SendReminder { sent }),
        )
        .start()
        .await?;
    let (server, address) = listen(&scheduler, if serve { PORT } else { 0 })?;
    println!("listening on http://{address}");
    let ended = if serve {
        drop(sendings);
        // It ends on Ctrl-C and SIGTERM, after its requests were answered.
        server.await.map_err(AnyError::from)
    } else {
        demonstrate(server, address, &surroundings.kafka, sendings).await
    };
    // No more requests arrive; running attempts may end, and later jobs are in the database.
    scheduler.shutdown(DRAIN).await;
    ended
}

/// The handle is cheap to clone, `Send` and `Sync`: every worker has its own.
fn listen(scheduler: &Scheduler, port: u16) -> std::io::Result<(Server, SocketAddr)> {
    let scheduler = web::Data::new(scheduler.clone());
    let app = move || {
        App::new()
            .app_data(scheduler.clone())
            .route("/remind", web::post().to(remind))
            .route("/metrics", web::get().to(metrics))
    };
    let server = HttpServer::new(app).workers(2).bind(("127.0.0.1", port))?;
    let address = server.addrs()[0];
    Ok((server.run(), address))
}

/// 201 for a new job, 200 for one that exists already by its `Idempotency-Key`, 409 if that key
/// was used for another reminder, 422 for an invalid one, 503 if the result is not known.
async fn remind(
    scheduler: web::Data<Scheduler>,
    http: HttpRequest,
    asked: web::Json<Remind>,
) -> HttpResponse {
    let Remind { reminder, in_seconds } = asked.into_inner();
    let mut request = ScheduleJobRequest::builder(APP)
        .after(Duration::from_secs(in_seconds), &SystemClock)
        .job_data(&reminder);
    let key = http.headers().get("idempotency-key").and_then(|key| key.to_str().ok());
    if let Some(key) = key {
        request = request.idempotency_key(key);
    }
    let request = match request.build() {
        Ok(request) => request,
        Err(refusal) => return refused(&refusal),
    };
    match scheduler.schedule(request).await {
        Ok(Submitted::Accepted { job_id, request_id }) => HttpResponse::Created()
            .json(json!({ "jobId": job_id, "requestId": request_id, "duplicate": false })),
        Ok(Submitted::Duplicate { job_id, of, .. }) => {
            HttpResponse::Ok().json(json!({ "jobId": job_id, "requestId": of, "duplicate": true }))
        }
        Err(OperationError::Refused(refusal)) => refused(&refusal),
        Err(error) => HttpResponse::ServiceUnavailable()
            .insert_header((header::RETRY_AFTER, "1"))
            .json(json!({ "error": error.to_string() })),
        Ok(other) => HttpResponse::Ok().json(json!({ "answer": format!("{other:?}") })),
    }
}

/// The refusal's message names the field and what would be valid.
fn refused(refusal: &Refusal) -> HttpResponse {
    let status = match refusal.kind {
        ErrorKind::IdempotencyConflict | ErrorKind::RequestConflict => StatusCode::CONFLICT,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let body = json!({ "kind": refusal.kind.as_str(), "error": refusal.message });
    HttpResponse::build(status).json(body)
}

async fn metrics(scheduler: web::Data<Scheduler>) -> impl Responder {
    web::Json(scheduler.ingest_metrics())
}

/// Runs the server, and sends requests to it.
async fn demonstrate(
    server: Server,
    address: SocketAddr,
    kafka: &KafkaIngestConfig,
    sendings: mpsc::UnboundedReceiver<Reminder>,
) -> Result<(), AnyError> {
    let handle = server.handle();
    let serving = rt::spawn(server);
    let shown = show(address, kafka, sendings).await;
    handle.stop(true).await;
    serving.await??;
    shown
}

async fn show(
    address: SocketAddr,
    kafka: &KafkaIngestConfig,
    mut sendings: mpsc::UnboundedReceiver<Reminder>,
) -> Result<(), AnyError> {
    let client = Client::new(address)?;
    // A real database remembers the keys of earlier runs.
    let run = uuid::Uuid::new_v4().to_string();
    let reminder = |n: u64, text: &str| Reminder {
        phone_number: format!("+88017{n:08}"),
        message: format!("{text} ({})", &run[..8]),
    };
    // The consumer group may still be forming, so this one is due later.
    let by_kafka = reminder(9, "asked for by Kafka");
    publish(kafka, &by_kafka, 5).await?;
    let mut expected = HashSet::from([by_kafka]);
    for (n, text) in (1..).zip(["water the flowers", "call the doctor", "tea is ready"]) {
        let reminder = reminder(n, text);
        client.post(&reminder, n, &format!("{run}-{n}"), StatusCode::CREATED).await?;
        // As clients do that received no answer to their first try.
        client.post(&reminder, n, &format!("{run}-{n}"), StatusCode::OK).await?;
        expected.insert(reminder);
    }
    let other = reminder(4, "something else");
    client.post(&other, 1, &format!("{run}-1"), StatusCode::CONFLICT).await?;
    let nobody = Reminder { phone_number: "nobody".into(), ..other };
    client.post(&nobody, 1, &format!("{run}-5"), StatusCode::UNPROCESSABLE_ENTITY).await?;

    let all = expected.len() as u64;
    tokio::time::timeout(PATIENCE, async {
        while !expected.is_empty() {
            let sent = sendings.recv().await.ok_or("the handler is gone")?;
            expected.remove(&sent);
        }
        client.await_success_of(all).await
    })
    .await
    .map_err(|_| "not all reminders were sent in time")??;
    println!("all reminders were sent");
    Ok(())
}

/// Another service, which knows only the topic.
async fn publish(
    kafka: &KafkaIngestConfig,
    reminder: &Reminder,
    in_seconds: u64,
) -> Result<(), AnyError> {
    let request = ScheduleJobRequest::builder(APP)
        .after(Duration::from_secs(in_seconds), &SystemClock)
        .job_data(reminder)
        .build()?;
    let (topic, value) = (kafka.topics[0].clone(), Some(request.to_json().into_bytes()));
    let outgoing = Outgoing { topic, key: None, value, headers: Vec::new() };
    Ok(Producer::start(kafka)?.send(outgoing).await?)
}

/// A client of the HTTP endpoints.
struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    fn new(address: SocketAddr) -> Result<Self, AnyError> {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Self { http, base: format!("http://{address}") })
    }

    /// Requests a reminder; an answer other than `status` is an error.
    async fn post(
        &self,
        reminder: &Reminder,
        in_seconds: u64,
        key: &str,
        status: StatusCode,
    ) -> Result<(), AnyError> {
        let asked = Remind { reminder: reminder.clone(), in_seconds };
        let post = self.http.post(format!("{}/remind", self.base)).json(&asked);
        let answer = post.header("idempotency-key", key).send().await?;
        let (got, text) = (answer.status().as_u16(), answer.text().await?);
        println!("{got} {text}");
        match got == status.as_u16() {
            true => Ok(()),
            false => Err(format!("{status} was expected, not {got}").into()),
        }
    }

    /// Waits until this many jobs are finished in the database as well, and prints the counters.
    async fn await_success_of(&self, jobs: u64) -> Result<(), AnyError> {
        loop {
            let answer = self.http.get(format!("{}/metrics", self.base)).send().await?;
            let metrics: Value = answer.error_for_status()?.json().await?;
            if metrics["apps"][APP]["succeeded"].as_u64() >= Some(jobs) {
                println!("{}", serde_json::to_string_pretty(&metrics)?);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A broker and a database: those of the environment, or embedded ones.
struct Surroundings {
    kafka: KafkaIngestConfig,
    database_url: String,
    // Dropped after the producer and the scheduler, which use them.
    _broker: Option<EmbeddedBroker>,
    _folder: tempfile::TempDir,
}

impl Surroundings {
    fn find() -> Result<Self, AnyError> {
        let folder = tempfile::tempdir()?;
        let file = format!("sqlite://{}/jobs.db?mode=rwc", folder.path().display());
        let database_url = std::env::var("DATABASE_URL").unwrap_or(file);
        let mut kafka = KafkaIngestConfig::default();
        let broker = match std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
            Ok(servers) => {
                kafka.bootstrap_servers = servers;
                None
            }
            Err(_) => {
                let broker =
                    EmbeddedBroker::start(&[(&kafka.topics[0], 3), (&kafka.dlq_topic, 1)])?;
                kafka.bootstrap_servers = broker.bootstrap_servers().to_owned();
                kafka.ensure_topics = false;
                kafka.properties.extend(EmbeddedBroker::client_properties());
                Some(broker)
            }
        };
        Ok(Self { kafka, database_url, _broker: broker, _folder: folder })
    }
}
