//! `jobs`: the jobs that wait or run.

mod list;

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::session::Session;

/// Lists jobs that have not ended
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs list --app sms --state scheduled
  infinite-scheduler jobs list --data '/phoneNumber=\"+8801700000001\"'")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(list::Arguments),
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let session = Session::open(arguments.action.config(), LevelFilter::WARN).await?;
    let done = act(&session, arguments.action).await;
    session.close().await;
    done
}

async fn act(session: &Session, action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::List(arguments) => list::run(session, arguments).await,
    }
}

impl Action {
    fn config(&self) -> &ConfigFile {
        match self {
            Self::List(arguments) => &arguments.config,
        }
    }
}
