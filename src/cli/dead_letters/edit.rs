//! `dead-letters edit`: gives a letter a value that a replay uses instead of its record's.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::author::Author;
use crate::cli::output::say;
use crate::cli::session::Session;
use crate::cli::{CannotStart, ConfigFile, cannot_start};
use crate::operations::{Edit, Error as OperationError, LetterName};

/// Gives a letter a corrected value, for a replay to use
///
/// The record's own value is kept. The correction must be a valid request, as far as that can be
/// checked without its app.
#[derive(Debug, clap::Args)]
#[command(after_help = r#"Examples:
  infinite-scheduler dead-letters edit 0198c0de --value '{"appName":"sms","scheduledTime":0}'
  infinite-scheduler dead-letters edit 0198c0de --file corrected.json
  infinite-scheduler dead-letters edit 0198c0de --clear --yes

Exit codes: 0 done, or shown by --dry-run; 1 --yes is missing, or it failed; 2 it cannot work as it
was asked; 3 there is no such letter, or its state does not allow it; 4 the database does not answer."#)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// Its id, or the first 8 digits or more of it
    #[arg(value_name = "ID")]
    letter: LetterName,
    #[command(flatten)]
    correction: Correction,
    /// Accept a correction that is not a valid request
    #[arg(long)]
    force: bool,
    /// Confirm that the letter's present correction is replaced or removed
    #[arg(long)]
    yes: bool,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    author: Author,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Correction {
    /// The corrected value
    #[arg(long, value_name = "JSON")]
    value: Option<String>,
    /// A file with the corrected value; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Remove the correction
    #[arg(long)]
    clear: bool,
}

pub(super) async fn run(session: &Session, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { letter, force, yes, dry_run, correction, author, .. } = arguments;
    let operations = session.operations_of(&author);
    let edit = Edit { correction: correction.read()?, force, replace: yes, dry_run };
    let edited = operations.dead_letters().edit(&letter, edit).await.map_err(refused)?;
    let id = edited.letter;
    let what = match (edited.has_correction, edited.had_correction) {
        (true, false) => "has a correction",
        (true, true) => "has another correction",
        (false, true) => "has no correction any more",
        (false, false) => "has no correction, as before",
    };
    match dry_run {
        true => say(format_args!("nothing was changed (--dry-run); else: dead letter {id} {what}")),
        false => say(format_args!("dead letter {id} {what}")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds the option that allows it.
fn refused(error: OperationError) -> anyhow::Error {
    match error {
        OperationError::Refused(refusal) => {
            let way_out = "--force takes it all the same";
            cannot_start(format!("the correction is refused: {refusal}; {way_out}")).into()
        }
        OperationError::Unconfirmed(why) => {
            let way_out = "add --yes to replace or remove it";
            anyhow::anyhow!("nothing was changed: {why}: {way_out}")
        }
        other => other.into(),
    }
}

impl Correction {
    /// The corrected value; none to remove it.
    fn read(&self) -> Result<Option<Vec<u8>>, CannotStart> {
        let Some(path) = self.file.as_deref() else {
            return Ok(self.value.clone().map(String::into_bytes));
        };
        let mut value = Vec::new();
        let read = match path == Path::new("-") {
            true => io::stdin().read_to_end(&mut value).map(|_| ()),
            false => fs::read(path).map(|bytes| value = bytes),
        };
        read.map_err(|error| cannot_start(format!("cannot read {}: {error}", path.display())))?;
        // An editor ends a file with a newline, which is not part of the value.
        Ok(Some(value.trim_ascii_end().to_vec()))
    }
}
