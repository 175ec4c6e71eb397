//! `ingest`: how far each partition has been read, by which instance, and what its records became;
//! changing where reading continues, pausing and resuming it.

mod pause;
mod seek;
mod show;

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::output::{DocumentOption, ListOptions};
use super::session::Session;
use super::{ConfigFile, cannot_start};

/// Shows how far each partition has been read, by which instance, and what its records became
///
/// NEXT is the offset of the first record that was not processed yet, END the offset after the
/// last record of the log, LAG the difference. RECORDS counts the processed records, each of which
/// is one of JOBS, DUPLICATES (of an earlier request), OPERATIONS (applied), DEAD LETTERS, or
/// PARKED (tried again later). A record that is read again after a `seek` is counted again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler ingest
  infinite-scheduler ingest --config /etc/infinite-scheduler.toml --json
  infinite-scheduler ingest seek --to-time 2030-01-01T08:00:00Z --dry-run
  infinite-scheduler ingest pause --reason 'a producer runs wild'

Exit codes: 0 shown, 1 shown without what only Kafka knows, or it failed, 2 it cannot work as it was
asked, 4 the database does not answer.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    form: ListOptions,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Seek(seek::Arguments),
    Pause(pause::Pause),
    Resume(pause::Resume),
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, config, form } = arguments;
    // What is wrong with Kafka is in the answer, so it is not logged as well.
    const LOG_LEVEL: LevelFilter = LevelFilter::ERROR;
    match command {
        None => {
            let session = Session::open(&config, LOG_LEVEL).await?;
            let done = show::run(&session, form).await;
            session.close().await;
            done
        }
        Some(mut command) => {
            if form.jsonl {
                return Err(cannot_start("--jsonl is for lists: use --json with a command").into());
            }
            let file = command.config().config.take().or(config.config);
            let session = Session::open(&ConfigFile { config: file }, LOG_LEVEL).await?;
            command.form().json |= form.json;
            let done = match command {
                Command::Seek(seek) => seek::run(&session, seek).await,
                Command::Pause(pause) => pause::pause(&session, pause).await,
                Command::Resume(resume) => pause::resume(&session, resume).await,
            };
            session.close().await;
            done
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

    fn form(&mut self) -> &mut DocumentOption {
        match self {
            Self::Seek(seek) => &mut seek.form,
            Self::Pause(pause) => &mut pause.common.form,
            Self::Resume(resume) => &mut resume.common.form,
        }
    }
}
