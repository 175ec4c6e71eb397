//! `demo`: a scheduler at work without any set-up: a broker in this process, SQLite in a temporary
//! folder, three apps, three microservices that request jobs, and a summary.

mod firings;
mod microservices;
mod summary;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;

use self::firings::{Firing, Journal, Reporter};
use self::microservices::Microservices;
use self::summary::Summary;
use super::cannot_start;
use super::exit::Exit;
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
/// One for each microservice.
const PARTITIONS: i32 = 3;
/// How long the last jobs are waited for after the end of `--seconds`.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to do after the demo: a configuration for `serve`, and a request.
const NEXT_CONFIG: &str = "\
[kafka]
bootstrap_servers = \"localhost:9092\"
[apps.sms]
dispatch = \"log\"
";
const NEXT_REQUEST: &str = r#"submit --app sms --in 5s --data '{"message":"hi"}'"#;

/// Shows a scheduler at work for some seconds, without any set-up
///
/// Three simulated microservices publish requests to a broker inside this process; the
/// jobs are kept in SQLite in a temporary folder, fire within seconds, and are counted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler demo
  infinite-scheduler demo --seconds 60 --port 7070

Exit codes: 0 every record is accounted for, 1 it failed or something is missing.")]
pub(super) struct Arguments {
    /// How long it runs
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=86_400))]
    seconds: u64,
    /// The port of health and metrics on 127.0.0.1; 0 for any free port
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Show the log as well
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
    // The broker is never stopped. It ends with the process, and so after every client, including
    // those that are slow to close: a client that outlives its broker reports an outage.
    let broker: &'static EmbeddedBroker = Box::leak(Box::new(EmbeddedBroker::start(&topics)?));
    let kafka = KafkaIngestConfig {
        bootstrap_servers: broker.bootstrap_servers().to_owned(),
        properties: EmbeddedBroker::client_properties().collect(),
        ..kafka
    };
    say(
        "The Kafka broker is inside this process: it keeps nothing on disk and is for demonstrations.",
    );
    say(format_args!("The jobs are kept in SQLite, in {}.", folder.path().display()));

    let (reporter, firings) = Reporter::new();
    let file = folder.path().join("jobs.db");
    let scheduler = tokio::select! {
        started = start(&file, &kafka, reporter) => started?,
        ask = signals.next() => return Ok(ask.exit_code()),
    };
    page.show(scheduler.clone());
    let address = page.address();
    say(format_args!(
        "Metrics are at http://{address}/api/metrics, health at http://{address}/health/ready."
    ));

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
    say_next_steps();
    let is_complete = summary.stopped || summary.adds_up();
    Ok(if is_complete { ExitCode::SUCCESS } else { Exit::Incomplete.into() })
}

fn say_next_steps() {
    say("\nNext: run the service on your own broker. Write this to infinite-scheduler.toml:\n");
    for line in NEXT_CONFIG.lines() {
        say(format_args!("    {line}"));
    }
    say("\nThen start it, and request a job from another terminal:\n");
    say("    infinite-scheduler serve");
    say(format_args!("    infinite-scheduler {NEXT_REQUEST}"));
    say(
        "\nThe section \"Running the service\" of README.md has all settings. Without a broker, leave \
         [kafka] out and add --direct to the second command.",
    );
}

async fn start(
    file: &std::path::Path,
    kafka: &KafkaIngestConfig,
    reporter: Reporter,
) -> anyhow::Result<Scheduler> {
    let builder = Scheduler::builder().sqlite_file(file).with_kafka_ingest(kafka.clone());
    let builder = APPS.iter().fold(builder, |builder, (app, fields)| {
        let required = fields.iter().copied();
        builder.register_app(AppConfig::new(*app).required_fields(required), reporter.clone())
    });
    Ok(builder.start().await.map_err(cannot_start)?)
}

/// Waits until the first request has been read. Until then the consumer group is being formed, and
/// jobs that were requested meanwhile would be late only because the demo has just started.
async fn await_group(scheduler: &Scheduler, services: &Microservices) -> anyhow::Result<()> {
    services.send_first().await;
    let began = Instant::now();
    while scheduler.ingest_metrics().messages_received == 0 {
        ensure!(began.elapsed() < PATIENCE, "the first request was not read: use --verbose");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Reports jobs that fire until all are done, the time is over, or a signal ends it.
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_next_steps_are_a_valid_configuration_and_a_valid_command() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("infinite-scheduler.toml");
        std::fs::write(&file, NEXT_CONFIG).unwrap();
        let config = crate::cli::load(Some(&file)).unwrap();
        assert!(config.kafka.is_some() && config.apps.keys().any(|app| app.as_str() == "sms"));
        assert_eq!(NEXT_CONFIG.lines().count(), 4);
        let words = NEXT_REQUEST.replace('\'', "");
        let words = ["infinite-scheduler"].into_iter().chain(words.split(' '));
        assert!(crate::cli::Arguments::try_parse_from(words).is_ok());
    }
}
