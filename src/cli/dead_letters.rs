//! `dead-letters`: records and jobs that failed for good: listed, corrected, replayed, discarded.
//!
//! `bulk` and `selection` serve the actions on several letters at once.

mod filters;

mod list;
mod show;
mod view;

mod edit;

mod bulk;
mod discard;
mod replay;
mod selection;

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::output::grouped;
use super::session::Session;

/// Lists, corrects, replays and discards dead letters: records that could not become a job, and
/// jobs that failed for good
///
/// A dead letter is a row of the database and a record on the DLQ topic; these commands read and
/// change the rows. An id may be shortened to its first 8 digits or more.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters list --app sms --from 2h
  infinite-scheduler dead-letters show 0198c0de-1234
  infinite-scheduler dead-letters replay --app sms --from 2h --dry-run
  infinite-scheduler dead-letters discard --kind invalid-json --dry-run")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(list::Arguments),
    Show(show::Arguments),
    Edit(edit::Arguments),
    Replay(replay::Arguments),
    Discard(discard::Arguments),
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
        Action::Show(arguments) => show::run(session, arguments).await,
        Action::Edit(arguments) => edit::run(session, arguments).await,
        Action::Replay(arguments) => replay::run(session, arguments).await,
        Action::Discard(arguments) => discard::run(session, arguments).await,
    }
}

impl Action {
    fn config(&self) -> &ConfigFile {
        match self {
            Self::List(arguments) => &arguments.config,
            Self::Show(arguments) => &arguments.config,
            Self::Edit(arguments) => &arguments.config,
            Self::Replay(arguments) => &arguments.config,
            Self::Discard(arguments) => &arguments.config,
        }
    }
}

/// `1 dead letter`, `2 dead letters`.
fn counted(letters: u64) -> String {
    let number = grouped(letters as f64);
    format!("{number} dead letter{}", if letters == 1 { "" } else { "s" })
}
