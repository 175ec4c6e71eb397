//! `dead-letters replay`: admits the requests of letters again.

use std::process::ExitCode;

use super::bulk;
use super::selection::Selection;
use crate::cli::ConfigFile;
use crate::cli::author::Author;
use crate::cli::session::Session;
use crate::operations::LetterAction;

/// Admits the requests of dead letters again, or the corrections of those that have one
///
/// A request goes through the same checks as any other; a letter whose request is refused stays a
/// dead letter. A job that failed becomes a new job with the same data and limits, due at once.
/// Letters that match filters are counted first, and replayed only with --yes. A dry run assumes
/// that all are admitted at one moment: it does not foresee that one of the jobs ends before the
/// next one is admitted. After `dead_letters.max_replays` replays in a row a letter is not
/// replayed again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters replay 0198c0de-1234
  infinite-scheduler dead-letters replay --app sms --kind attempts-exhausted --from 2h --dry-run
  infinite-scheduler dead-letters replay --contains 'provider is down' --yes

Exit codes: 0 all replayed, or nothing to do; 1 some were not, or --yes is missing; 2 it cannot
work as it was asked; 3 there is no such letter; 4 the database does not answer.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    author: Author,
}

pub(super) async fn run(session: &Session, arguments: Arguments) -> anyhow::Result<ExitCode> {
    bulk::run(session, &arguments.selection, LetterAction::Replay, &arguments.author).await
}
