//! `dead-letters discard`: nothing is to be done about these letters.

use std::process::ExitCode;

use super::deed::{Answer, Deed, carry_out};
use super::selection::Selection;
use super::{Desk, GONE, why_not};
use crate::cli::ConfigFile;
use crate::store::{Change, LetterState, LetterSummary};

/// Marks dead letters as seen to: nothing is to be done about them
///
/// They stay in the database, and can be shown, until `dead_letters.keep_days` are over. Letters
/// by filter are counted first; nothing is done to them without --yes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters discard 0198c0de-1234 0198c0de-5678
  infinite-scheduler dead-letters discard --app sms --kind invalid-json --to 7d --dry-run
  infinite-scheduler dead-letters discard --contains 'no such customer' --yes

Exit codes: 0 all discarded, or nothing to do; 1 some were not, or --yes is missing; 2 it cannot
work as it was asked.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    #[command(flatten)]
    selection: Selection,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> anyhow::Result<ExitCode> {
    carry_out(desk, &arguments.selection, &Discard { desk }).await
}

struct Discard<'a> {
    desk: &'a Desk,
}

impl Deed for Discard<'_> {
    const VERB: &'static str = "discard";
    const DONE: &'static str = "discarded";

    fn objection(&self, letter: &LetterSummary) -> Option<String> {
        let is_fine = matches!(letter.state(), LetterState::Dead | LetterState::Discarded);
        (!is_fine).then(|| why_not(letter))
    }

    async fn apply(&self, letters: &[LetterSummary]) -> anyhow::Result<Vec<Answer>> {
        let store = &self.desk.store;
        let changes = store.discard_letters(letters, self.desk.now_ms()).await;
        let said = |change| match change {
            Change::Made => Ok(String::new()),
            Change::Refused(now) => Err(why_not(&now)),
            Change::Gone => Err(GONE.into()),
        };
        Ok(changes.map_err(|error| self.desk.told(error))?.into_iter().map(said).collect())
    }
}
