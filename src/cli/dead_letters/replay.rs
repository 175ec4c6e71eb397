//! `dead-letters replay`: these letters' requests are admitted again.

use std::process::ExitCode;

use super::bulk;
use super::selection::Selection;
use crate::cli::ConfigFile;
use crate::cli::author::Author;
use crate::cli::session::Session;
use crate::operations::LetterAction;

/// Admits the requests of dead letters again, their corrections where they have one
///
/// A request goes through the same checks as any other; what is refused stays a dead letter. A
/// job that failed is a new job with its data and limits, due at once. Letters by filter are
/// counted first; nothing is done to them without --yes. A dry run takes all to be admitted at
/// one moment: it does not foresee that a job of theirs ends before the next is admitted. A
/// letter that is the end of `dead_letters.max_replays` replays is not replayed again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters replay 0198c0de-1234
  infinite-scheduler dead-letters replay --app sms --kind attempts-exhausted --from 2h --dry-run
  infinite-scheduler dead-letters replay --contains 'provider is down' --yes

Exit codes: 0 all replayed, or nothing to do; 1 some were not, or --yes is missing; 2 it cannot
work as it was asked.")]
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
