//! `operations`: the answer of an operation that was not answered in time.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::exit::Exit;
use super::jobs::{code, sentence};
use super::output::{DocumentOption, document, on_one_line, say};
use super::session::Session;
use crate::operations::OperationOutcome;

/// Shows what became of an operation that was not answered in time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler operations show 17")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Show(Show),
}

/// Shows what became of an operation; answers are kept for a day
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler operations show 17
  infinite-scheduler operations show 17 --json

Exit codes: 0 it was done; 1 it failed; 2 it cannot work as it was asked; 3 the answer is no, or there
is no such operation; 4 not answered yet.")]
struct Show {
    #[command(flatten)]
    config: ConfigFile,
    /// Its id
    #[arg(value_name = "ID")]
    id: i64,
    #[command(flatten)]
    form: DocumentOption,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Action::Show(arguments) = arguments.action;
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let state = session.operations.jobs().operation(arguments.id).await;
    session.close().await;
    let state = state?;
    if arguments.form.json {
        document(&state)?;
    }
    let (said, code) = match &state.outcome {
        OperationOutcome::Answered(answer) => (sentence(answer), code(answer)),
        OperationOutcome::Refused(why) => (format!("refused: {why}"), Exit::No.into()),
        OperationOutcome::Withdrawn(job) => {
            (format!("withdrawn: nothing of job {job} was changed"), Exit::No.into())
        }
        OperationOutcome::Waiting(job) => {
            (format!("waiting for the owner of the shard of job {job}"), Exit::NoAnswer.into())
        }
    };
    if !arguments.form.json {
        say(on_one_line(&said));
    }
    Ok(code)
}
