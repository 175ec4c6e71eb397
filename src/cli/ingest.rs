//! `ingest`: how far each partition has been read, by whom, and what became of its records;
//! moving where reading goes on, pausing and resuming it.

mod pause;
mod seek;
mod show;

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::session::Session;

/// Shows how far each partition has been read, by whom, and what became of its records
///
/// NEXT is the first record of which nothing has become yet, END the one after the log's last, LAG what lies
/// between. RECORDS have been read: so many became JOBS, were DUPLICATES of an earlier request,
/// were applied as OPERATIONS, are DEAD LETTERS, or are PARKED until they are tried again. A
/// record that was read again after a `seek` counts again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler ingest
  infinite-scheduler ingest --config /etc/infinite-scheduler.toml --json
  infinite-scheduler ingest seek --to-time 2030-01-01T08:00:00Z --dry-run
  infinite-scheduler ingest pause --reason 'a producer runs wild'

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
    Pause(pause::Pause),
    Resume(pause::Resume),
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, config, json } = arguments;
    // What is wrong with Kafka is part of the answer.
    const LOG_LEVEL: LevelFilter = LevelFilter::ERROR;
    match command {
        None => {
            let session = Session::open(&config, LOG_LEVEL).await?;
            let done = show::run(&session, json).await;
            session.close().await;
            done
        }
        Some(mut command) => {
            let own = command.config();
            let file = own.config.take().or(config.config);
            let session = Session::open(&ConfigFile { config: file }, LOG_LEVEL).await?;
            let done = change(&session, command, json).await;
            session.close().await;
            done
        }
    }
}

async fn change(session: &Session, command: Command, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        Command::Seek(mut seek) => {
            seek.json |= json;
            seek::run(session, seek).await
        }
        Command::Pause(mut pause) => {
            pause.common.json |= json;
            pause::pause(session, pause).await
        }
        Command::Resume(mut resume) => {
            resume.common.json |= json;
            pause::resume(session, resume).await
        }
    }
}

impl Command {
    fn config(&mut self) -> &mut ConfigFile {
        match self {
            Self::Seek(seek) => &mut seek.config,
            Self::Pause(pause) => &mut pause.common.config,
            Self::Resume(resume) => &mut resume.common.config,
        }
    }
}
