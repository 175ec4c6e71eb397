//! `dead-letters edit`: puts a value beside the record's, for a replay to use.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;

use super::{Desk, GONE, view, why_not};
use crate::cli::output::say;
use crate::cli::{CannotStart, ConfigFile, cannot_start};
use crate::model::request::ScheduleJobRequest;
use crate::store::{Change, LetterName, LetterState, LetterSummary};

/// Puts a corrected value beside the letter's own, for a replay to use
///
/// The record's own value stays as it is. The correction must be a request that the scheduler
/// could take, as far as that can be told without its app.
#[derive(Debug, clap::Args)]
#[command(after_help = r#"Examples:
  infinite-scheduler dead-letters edit 0198c0de --value '{"appName":"sms","scheduledTime":0}'
  infinite-scheduler dead-letters edit 0198c0de --file corrected.json
  infinite-scheduler dead-letters edit 0198c0de --clear --yes

Exit codes: 0 done, or shown by --dry-run; 1 it was not, or --yes is missing; 2 it cannot work as it
was asked."#)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// Its id, or the first 8 digits or more of it
    #[arg(value_name = "ID")]
    letter: LetterName,
    #[command(flatten)]
    correction: Correction,
    /// Also what is not a sound request
    #[arg(long)]
    force: bool,
    /// Yes, the correction that is there is lost
    #[arg(long)]
    yes: bool,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
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
    /// Take the correction away
    #[arg(long)]
    clear: bool,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let correction = arguments.correction.read()?;
    if let Some(correction) = &correction
        && !arguments.force
    {
        check(correction, desk.config.ingest.max_record_bytes)?;
    }
    let letter = LetterSummary::from(&desk.letter(&arguments.letter).await?);
    let id = view::short_id(letter.id);
    if letter.state() != LetterState::Dead {
        bail!("dead letter {id} cannot be edited: {}", why_not(&letter));
    }
    if letter.corrected && !arguments.yes {
        let way_out = "add --yes to put this one in its place, or to take it away";
        bail!("nothing was changed: dead letter {id} has a correction already: {way_out}");
    }
    let what = match (&correction, letter.corrected) {
        (Some(_), false) => "has a correction",
        (Some(_), true) => "has another correction",
        (None, true) => "has no correction any more",
        (None, false) => "has no correction, as before",
    };
    if arguments.dry_run {
        say(format_args!("nothing was changed (--dry-run); else: dead letter {id} {what}"));
        return Ok(ExitCode::SUCCESS);
    }
    let change = desk.store.correct_letter(&letter, correction, desk.now_ms()).await;
    match change.map_err(|error| desk.told(error))? {
        Change::Made => say(format_args!("dead letter {id} {what}")),
        Change::Refused(now) => bail!("dead letter {id} was not edited: {}", why_not(&now)),
        Change::Gone => bail!("dead letter {id} was not edited: {GONE}"),
    }
    Ok(ExitCode::SUCCESS)
}

impl Correction {
    /// The corrected value; none to take it away.
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
        // An editor ends a file with a newline, which is no part of a value.
        Ok(Some(value.trim_ascii_end().to_vec()))
    }
}

fn check(correction: &[u8], max_bytes: usize) -> Result<(), CannotStart> {
    let refused = |why: String| {
        cannot_start(format!("the correction is refused: {why}; --force takes it all the same"))
    };
    if correction.len() > max_bytes {
        let size = correction.len();
        return Err(refused(format!("{size} bytes, and max_record_bytes is {max_bytes}")));
    }
    match ScheduleJobRequest::from_json(correction) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refused(refusal.to_string())),
    }
}
