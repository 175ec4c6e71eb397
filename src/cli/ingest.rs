//! `ingest`: how far each partition has been read, by whom, and what became of its records.
//!
//! The database is the truth and is asked itself, so that it does not matter whether an
//! instance runs; Kafka is asked by a client that joins no group.

mod plan;
mod seek;
mod show;

use std::process::ExitCode;

use anyhow::bail;
use tracing_subscriber::filter::LevelFilter;

use super::{CannotStart, ConfigFile, cannot_start, load, migrate};
use crate::config::Config;
use crate::kafka::KafkaIngestConfig;
use crate::store::Store;
use crate::telemetry;

/// Shows how far each partition has been read, by whom, and what became of its records
///
/// NEXT is the first record without a fate, END the one after the log's last, LAG what lies
/// between. RECORDS have been read: so many became JOBS, were DUPLICATES of an earlier request,
/// were applied as OPERATIONS, are DEAD LETTERS, or are PARKED until they are tried again. A
/// record that was read again after a `seek` counts again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler ingest
  infinite-scheduler ingest --config /etc/infinite-scheduler.toml --json
  infinite-scheduler ingest seek --to-time 2030-01-01T08:00:00Z --dry-run

Exit codes: 0 shown, 1 something is missing (Kafka is away) or failed, 2 it cannot work as it was
asked.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Seek(seek::Arguments),
}

/// What the commands look at.
struct Scene {
    config: Config,
    kafka: KafkaIngestConfig,
    store: Store,
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, config, json } = arguments;
    match command {
        None => {
            let scene = Scene::open(config, json).await?;
            let done = show::run(&scene).await;
            scene.store.close().await;
            done
        }
        Some(Command::Seek(mut seek)) => {
            let file = seek.config.config.take().or(config.config);
            let scene = Scene::open(ConfigFile { config: file }, json || seek.json).await?;
            let done = seek::run(&scene, &seek).await;
            scene.store.close().await;
            done
        }
    }
}

impl Scene {
    async fn open(file: ConfigFile, json: bool) -> anyhow::Result<Self> {
        let config = load(file.config.as_deref())?;
        // What goes wrong with Kafka is said here, once.
        telemetry::init(config.log.format, LevelFilter::ERROR).map_err(cannot_start)?;
        let Some(kafka) = config.kafka.clone() else {
            bail!(CannotStart("the configuration has no [kafka]: nothing is read by it".into()));
        };
        let store = migrate::open_existing(&config).await?;
        store.check_schema().await.map_err(|error| migrate::told(&config, error))?;
        Ok(Self { config, kafka, store, json })
    }

    /// An error of the store, with the database that it is about.
    fn told(&self, error: crate::store::Error) -> anyhow::Error {
        migrate::told(&self.config, error)
    }
}
