//! `dead-letters discard`: marks letters that need no action.

use std::process::ExitCode;

use super::bulk;
use super::selection::Selection;
use crate::cli::ConfigFile;
use crate::cli::author::Author;
use crate::cli::session::Session;
use crate::operations::LetterAction;

/// Marks dead letters as discarded: they need no action
///
/// They stay in the database, and can be shown, until `dead_letters.keep_days` are over. Letters
/// that match filters are counted first, and discarded only with --yes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters discard 0198c0de-1234 0198c0de-5678
  infinite-scheduler dead-letters discard --app sms --kind invalid-json --to 7d --dry-run
  infinite-scheduler dead-letters discard --contains 'no such customer' --yes

Exit codes: 0 all discarded, or nothing to do; 1 some were not, or --yes is missing; 2 it cannot
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
    bulk::run(session, &arguments.selection, LetterAction::Discard, &arguments.author).await
}
