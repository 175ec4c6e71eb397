//! The letters that an action is for, and its confirmation.

use super::filters::Filters;
use crate::cli::output::ListOptions;
use crate::cli::{CannotStart, cannot_start};
use crate::config::Config;
use crate::operations::{LetterFilter, LetterName, LetterState};

/// Letters by their ids, or all dead ones that match filters.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    /// Letters, each by its id or the first 8 digits or more of it
    #[arg(value_name = "ID")]
    ids: Vec<LetterName>,
    /// Show what would happen, and change nothing
    #[arg(long, conflicts_with = "yes")]
    pub(super) dry_run: bool,
    /// Confirm the action for all letters that match the filters
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) form: ListOptions,
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
