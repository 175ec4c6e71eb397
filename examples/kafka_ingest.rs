//! Ingest, handlers and shutdown in one file: three apps, three microservices that publish to
//! Kafka, jobs that fire at their time, and the counters at the end.
//!
//! Needs no set-up: `cargo run --example kafka_ingest` uses an embedded broker and a
//! SQLite file in a temporary folder. To run it against a real broker and database, set
//! `KAFKA_BOOTSTRAP_SERVERS=localhost:9092` and `DATABASE_URL=mysql://user:pass@host/db`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use infinite_scheduler::kafka::{Outgoing, Producer};
use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::telemetry::{self, LogFormat};
use infinite_scheduler::{
    AppConfig, EmbeddedBroker, JobContext, JobData, JobError, JobHandler, KafkaIngestConfig,
    Priority, Rejection, ScheduleJobRequest, Scheduler, handler_fn,
};
use serde::Deserialize;
use tracing_subscriber::filter::LevelFilter;

type AnyError = Box<dyn std::error::Error>;

const TOPIC: &str = "scheduler.jobs.ingest";
/// What each microservice sends.
const REQUESTS: usize = 20;

/// A handler by trait: it receives the job itself, and refuses invalid data at ingest.
struct SmsHandler {
    sent: Arc<AtomicUsize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sms {
    phone_number: String,
    message: String,
}

impl JobHandler for SmsHandler {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        let sms: Sms = context.job().data.deserialize()?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        println!("sms to {}: {}", sms.phone_number, sms.message);
        Ok(())
    }

    fn validate(&self, job_data: &JobData) -> Result<(), Rejection> {
        let sms: Sms = job_data.deserialize()?;
        match sms.phone_number.starts_with('+') {
            true => Ok(()),
            false => Err(Rejection::Invalid("phoneNumber must begin with +".into())),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SipCall {
    call_to: String,
    call_from: String,
    duration: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payment {
    account_id: String,
    amount: f64,
    currency: String,
}

/// A handler by function, with typed data. Its first attempt fails, to show a retry.
async fn call(context: JobContext, call: SipCall) -> Result<(), JobError> {
    if context.attempt() == 1 && call.duration == 0 {
        return Err(JobError::RetryAfter(Duration::from_millis(200), "line is busy".into()));
    }
    println!("call {} -> {} for {} s", call.call_from, call.call_to, call.duration);
    Ok(())
}

async fn pay(context: JobContext, payment: Payment) -> Result<(), JobError> {
    let Payment { account_id, amount, currency } = payment;
    // A bank that remembers the highest fence can refuse a late repetition.
    println!("pay {amount} {currency} from {account_id} (fence {})", context.fence());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    // Only errors are logged, unless RUST_LOG says otherwise.
    telemetry::init(LogFormat::Text, LevelFilter::ERROR)?;
    let broker = Surroundings::find()?;
    let sent = Arc::new(AtomicUsize::new(0));

    let scheduler = Scheduler::builder()
        .database_url(&broker.database_url)
        .with_kafka_ingest(broker.kafka.clone())
        .register_app(
            AppConfig::new("sms").required_fields(["phoneNumber", "message"]),
            SmsHandler { sent: sent.clone() },
        )
        .register_app(
            AppConfig::new("sipcall").required_fields(["callTo", "callFrom", "duration"]),
            handler_fn(call),
        )
        .register_app(
            AppConfig::new("payment_gateway").required_fields(["accountId", "amount", "currency"]),
            handler_fn(pay),
        )
        .start()
        .await?;

    let producer = Producer::start(&broker.kafka)?;
    tokio::try_join!(
        microservice(&producer, "sms", Priority::Normal, |n| {
            format!(r#"{{"phoneNumber":"+88017{n:08}","message":"your code is {n}"}}"#)
        }),
        microservice(&producer, "sipcall", Priority::Low, |n| {
            format!(
                r#"{{"callTo":"sip:{n}@example.org","callFrom":"sip:us","duration":{}}}"#,
                n % 5
            )
        }),
        microservice(&producer, "payment_gateway", Priority::High, |n| {
            format!(r#"{{"accountId":"acc-{n}","amount":{n}.50,"currency":"BDT"}}"#)
        }),
        a_mistake(&producer),
    )?;

    // Each microservice sent one request twice, and there was one mistake.
    let done = |scheduler: &Scheduler| {
        let metrics = scheduler.ingest_metrics();
        let succeeded: u64 = metrics.apps.values().map(|app| app.succeeded).sum();
        succeeded == 3 * REQUESTS as u64 && metrics.messages_sent_to_dlq == 1
    };
    for _ in 0..600 {
        if done(&scheduler) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let metrics = scheduler.ingest_metrics();
    println!("{}", serde_json::to_string_pretty(&metrics)?);
    scheduler.shutdown(Duration::from_secs(10)).await;
    if !done(&scheduler) {
        return Err("not everything was fired in time".into());
    }
    println!("{} sms were sent, each once", sent.load(Ordering::Relaxed));
    Ok(())
}

/// Publishes requests that are due within the next two seconds; one of them twice, as
/// producers do that received no answer to their first try.
async fn microservice(
    producer: &Producer,
    app: &str,
    priority: Priority,
    data: impl Fn(usize) -> String,
) -> Result<(), AnyError> {
    // A real database remembers the requests of an earlier run.
    let run = SystemClock.now_ms();
    for n in (0..REQUESTS).chain([0]) {
        let request = ScheduleJobRequest::builder(app)
            .request_id(format!("{app}-{run}-{n}"))
            .idempotency_key(format!("order-{run}-{n}"))
            .at(SystemClock.now() + Duration::from_millis(100 * n as u64))
            .priority(priority)
            .raw_job_data(&data(n))
            .build()?;
        send(producer, request.to_json()).await?;
    }
    Ok(())
}

/// A request without the fields that the app requires becomes a dead letter.
async fn a_mistake(producer: &Producer) -> Result<(), AnyError> {
    let request = r#"{"appName":"sms","scheduledTime":"2030-01-01T00:00:00Z","jobData":{}}"#;
    send(producer, request.to_owned()).await
}

async fn send(producer: &Producer, value: String) -> Result<(), AnyError> {
    let (topic, value) = (TOPIC.to_owned(), Some(value.into_bytes()));
    Ok(producer.send(Outgoing { topic, key: None, value, headers: Vec::new() }).await?)
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
                let broker = EmbeddedBroker::start(&[(TOPIC, 3), (&kafka.dlq_topic, 1)])?;
                kafka.bootstrap_servers = broker.bootstrap_servers().to_owned();
                kafka.ensure_topics = false;
                kafka.properties.extend(EmbeddedBroker::client_properties());
                Some(broker)
            }
        };
        Ok(Self { kafka, database_url, _broker: broker, _folder: folder })
    }
}
