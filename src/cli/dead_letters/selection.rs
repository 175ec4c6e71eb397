//! Which letters something is done to, and whether it is meant.

use super::filters::Filters;
use crate::cli::{CannotStart, cannot_start};
use crate::config::Config;
use crate::operations::{LetterFilter, LetterName, LetterState};

/// Letters by name, or all dead ones that flags describe.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    /// Letters, by their ids or the first 8 digits or more of them
    #[arg(value_name = "ID")]
    ids: Vec<LetterName>,
    /// Say what would happen, and change nothing
    #[arg(long, conflicts_with = "yes")]
    pub(super) dry_run: bool,
    /// Yes, all that the filters describe
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    filters: Filters,
    /// Every dead letter
    #[arg(long, help_heading = "Which letters")]
    all: bool,
}

/// What was selected.
#[derive(Debug)]
pub(super) enum Selected {
    These(Vec<LetterName>),
    Like(LetterFilter),
}

impl Selection {
    pub(super) fn read(&self, config: &Config) -> Result<Selected, CannotStart> {
        let by_filter = self.all || !self.filters.is_empty();
        match (self.ids.is_empty(), by_filter) {
            (false, true) => Err(cannot_start("give ids or filters, not both")),
            (true, false) => Err(cannot_start(
                "say which letters: their ids, or filters such as --app or --kind; or --all",
            )),
            (false, false) => Ok(Selected::These(self.ids.clone())),
            (true, true) => Ok(Selected::Like(self.filters.read(config, vec![LetterState::Dead])?)),
        }
    }
}
