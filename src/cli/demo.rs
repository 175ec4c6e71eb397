//! `demo`: the whole story with no set-up: a broker in this process, SQLite in a temporary
//! folder, three apps, three microservices that ask for jobs, and what became of them.

mod firings;
mod microservices;
mod summary;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;

use self::firings::{Firing, Journal, Teller};
use self::microservices::Microservices;
use self::summary::Summary;
use super::cannot_start;
use super::output::say;
use super::signals::Signals;
use crate::http::{Server, ServerOptions};
use crate::kafka::{EmbeddedBroker, KafkaIngestConfig, Producer};
use crate::model::app::AppConfig;
use crate::service::Scheduler;
use crate::telemetry::{self, LogFormat};

/// The apps and the fields that they require.
const APPS: [(&str, &[&str]); 3] = [
    ("sms", &["phoneNumber", "message"]),
    ("sipcall", &["callTo", "callFrom", "duration"]),
    ("payment_gateway", &["accountId", "amount", "currency"]),
];
/// As many as there are microservices, so that each app's records come from all over.
const PARTITIONS: i32 = 3;
/// How long the last jobs are waited for beyond the time that was given.
const PATIENCE: Duration = Duration::from_secs(15);

/// Shows everything at work for some seconds, without any set-up
///
/// Three simulated microservices publish requests to a broker inside this process; the
/// jobs are kept in SQLite in a temporary folder, fire within seconds, and are counted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler demo
  infinite-scheduler demo --seconds 60 --port 7070")]
pub(super) struct Arguments {
    /// How long it goes on
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=86_400))]
    seconds: u64,
    /// Where health and metrics can be seen, on 127.0.0.1; any free port when 0
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Show the log, too
    #[arg(long, short)]
    verbose: bool,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let level = if arguments.verbose { LevelFilter::INFO } else { LevelFilter::WARN };
    telemetry::init(LogFormat::Text, level).map_err(cannot_start)?;
    let mut signals = Signals::listen()?;
    let address = SocketAddr::from(([127, 0, 0, 1], arguments.port));
    let page = Server::start(ServerOptions::new(address)).map_err(cannot_start)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let kafka = KafkaIngestConfig::default();
    let topics = [(&*kafka.topics[0], PARTITIONS), (&*kafka.dlq_topic, 1)];
    let broker = EmbeddedBroker::start(&topics)?;
    let kafka = KafkaIngestConfig {
        bootstrap_servers: broker.bootstrap_servers().to_owned(),
        properties: EmbeddedBroker::client_properties().collect(),
        ..kafka
    };
    say("Kafka is a broker inside this process: it keeps nothing on disk and is for trying out.");
    say(format_args!("Jobs are kept in SQLite, in {}.", folder.path().display()));

    let (teller, firings) = Teller::new();
    let file = folder.path().join("jobs.db");
    let scheduler = tokio::select! {
        started = start(&file, &kafka, teller) => started?,
        ask = signals.next() => return Ok(ask.exit_code()),
    };
    page.show(scheduler.clone());
    let place = page.address();
    say(format_args!("Look at http://{place}/api/metrics and http://{place}/health/ready."));

    let producer = Producer::start(&kafka)?;
    let time = Duration::from_secs(arguments.seconds);
    let services = Microservices::new(&producer, &kafka.topics[0]);
    tokio::select! {
        joined = await_group(&scheduler, &services) => joined?,
        ask = signals.next() => return Ok(ask.exit_code()),
    }
    let services = services.start(time);
    let summary = watch(&scheduler, services, firings, time, &mut signals).await;
    say(&summary);
    scheduler.shutdown(Duration::from_secs(5)).await;
    page.stop().await;
    // A broker that goes before its clients is looked for, aloud.
    drop((scheduler, producer));
    drop(broker);
    let well = summary.stopped || summary.adds_up();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start(
    file: &std::path::Path,
    kafka: &KafkaIngestConfig,
    teller: Teller,
) -> anyhow::Result<Scheduler> {
    let builder = Scheduler::builder().sqlite_file(file).with_kafka_ingest(kafka.clone());
    let builder = APPS.iter().fold(builder, |builder, (app, fields)| {
        let required = fields.iter().copied();
        builder.register_app(AppConfig::new(*app).required_fields(required), teller.clone())
    });
    Ok(builder.start().await.map_err(cannot_start)?)
}

/// Waits until the first request has been read: until then the consumer group is being
/// formed, and what is sent meanwhile would be late for a reason that is the demo's own.
async fn await_group(scheduler: &Scheduler, services: &Microservices) -> anyhow::Result<()> {
    services.send_first().await;
    let began = Instant::now();
    while scheduler.ingest_metrics().messages_received == 0 {
        ensure!(began.elapsed() < PATIENCE, "the first request was not read: use --verbose");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Reports jobs that fire until all are done, the time is long past, or a signal stops it.
async fn watch(
    scheduler: &Scheduler,
    mut services: Microservices,
    mut firings: mpsc::UnboundedReceiver<Firing>,
    time: Duration,
    signals: &mut Signals,
) -> Summary {
    let began = Instant::now();
    let mut journal = Journal::default();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let stopped = loop {
        tokio::select! {
            Some(firing) = firings.recv() => journal.fired(&firing),
            _ = second.tick() => journal.second(&scheduler.ingest_metrics()),
            _ = signals.next() => break true,
        }
        let sent = services.sent();
        let done = !services.are_sending()
            && Summary::new(sent, &scheduler.ingest_metrics(), journal.spread()).adds_up();
        if done || began.elapsed() > time + PATIENCE {
            break false;
        }
    };
    services.stop().await;
    let metrics = scheduler.ingest_metrics();
    let mut summary = Summary::new(services.sent(), &metrics, journal.spread());
    (summary.took, summary.stopped) = (began.elapsed(), stopped);
    summary
}
