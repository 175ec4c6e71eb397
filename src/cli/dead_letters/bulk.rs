//! An action on the letters that were selected: what is printed of it.
//!
//! Of letters by name each is named; those by filter are counted first, by kind, and nothing is
//! done to them without `--yes`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::selection::{Selected, Selection};
use super::{counted, view};
use crate::cli::author::Author;
use crate::cli::output::{grouped, lined_up, on_one_line, report, say};
use crate::cli::session::{Session, failed};
use crate::operations::{
    BulkTally, CountedLetters, Error as OperationError, LetterAction, LetterName, LetterOutcome,
    LetterSelection, LetterSummary, Operations, Replayed,
};

/// How often long work is reported on.
const PROGRESS: Duration = Duration::from_secs(1);
/// Of letters by filter that it could not be done to, this many are named.
const NAMED: u64 = 20;

/// An action, and how it is called.
struct Wording {
    action: LetterAction,
    /// The verb, as in `discard`.
    verb: &'static str,
    /// Its participle, as in `discarded`.
    done: &'static str,
    dry_run: bool,
}

impl Wording {
    fn of(action: LetterAction, dry_run: bool) -> Self {
        let (verb, done) = match action {
            LetterAction::Replay => ("replay", "replayed"),
            LetterAction::Discard => ("discard", "discarded"),
        };
        Self { action, verb, done, dry_run }
    }

    /// `0198c0de: replayed as job ..`, `0198c0de: would not be replayed: ..`.
    fn line(
        &self,
        letter: &LetterSummary,
        outcome: &Result<LetterOutcome, OperationError>,
    ) -> String {
        let (id, done) = (view::short_id(letter.id), self.done);
        let line = match (outcome, self.dry_run) {
            (Ok(outcome), false) => format!("{id}: {done} {}", how(outcome)),
            (Ok(outcome), true) => format!("{id}: would be {done} {}", how(outcome)),
            (Err(error), false) => format!("{id}: not {done}: {}", why(error)),
            (Err(error), true) => format!("{id}: would not be {done}: {}", why(error)),
        };
        on_one_line(line.trim_end())
    }
}

/// Goes on behind "replayed".
fn how(outcome: &LetterOutcome) -> String {
    match outcome {
        LetterOutcome::Discarded => String::new(),
        LetterOutcome::Replayed(Replayed::Accepted { job_id }) => format!("as job {job_id}"),
        LetterOutcome::Replayed(Replayed::Duplicate { job_id, of }) => {
            format!("as a duplicate of request {of:?}, job {job_id}")
        }
    }
}

fn why(error: &OperationError) -> String {
    match error {
        OperationError::Refused(refusal) => format!("{} ({})", refusal.message, refusal.kind),
        other => other.to_string(),
    }
}

pub(super) async fn run(
    session: &Session,
    selection: &Selection,
    action: LetterAction,
    author: &Author,
) -> anyhow::Result<ExitCode> {
    let wording = Wording::of(action, selection.dry_run);
    let operations = session.operations_of(author);
    let tally = match selection.read(&session.config)? {
        Selected::These(names) => of_names(&operations, names, &wording).await?,
        Selected::Like(filter) => {
            let letters = operations.dead_letters().select(filter).await.map_err(failed)?;
            match confirm(&letters, &wording, selection.yes) {
                Confirmation::GoOn => of_filter(&operations, letters, &wording).await?,
                Confirmation::Nothing => return Ok(ExitCode::SUCCESS),
                Confirmation::Missing => return Ok(ExitCode::FAILURE),
            }
        }
    };
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn of_names(
    operations: &Operations,
    names: Vec<LetterName>,
    wording: &Wording,
) -> anyhow::Result<BulkTally> {
    let letters = LetterSelection::Named(names);
    let each = |letter: &LetterSummary, outcome: &_| say(wording.line(letter, outcome));
    let dead_letters = operations.dead_letters();
    let done = dead_letters.carry_out(wording.action, &letters, wording.dry_run, each).await;
    done.map_err(failed)
}

/// What comes after the count.
enum Confirmation {
    /// It is done to them, or foreseen.
    GoOn,
    /// There are none.
    Nothing,
    /// Nobody said that it is meant.
    Missing,
}

/// Says how many are meant, and whether they are to be gone through.
fn confirm(letters: &CountedLetters, wording: &Wording, yes: bool) -> Confirmation {
    let verb = wording.verb;
    if letters.total() == 0 {
        say("no dead letter is like that: nothing was changed");
        return Confirmation::Nothing;
    }
    let counts = letters.counts().iter();
    let rows: Vec<_> =
        counts.map(|count| vec![count.kind.clone(), grouped(count.count as f64)]).collect();
    say(format_args!("{} to {verb}:", counted(letters.total())));
    say(lined_up(&["kind", "letters"], &rows).trim_end());
    if yes || wording.dry_run {
        return Confirmation::GoOn;
    }
    say(format_args!("nothing was changed: add --yes to {verb} them"));
    Confirmation::Missing
}

async fn of_filter(
    operations: &Operations,
    letters: CountedLetters,
    wording: &Wording,
) -> anyhow::Result<BulkTally> {
    let (mut done, mut failures) = (0, 0);
    let mut reported = Instant::now();
    let each = |letter: &LetterSummary, outcome: &Result<LetterOutcome, _>| {
        match outcome {
            Ok(_) => done += 1,
            Err(_) => failures += 1,
        }
        if outcome.is_err() && failures <= NAMED {
            say(wording.line(letter, outcome));
        }
        if reported.elapsed() > PROGRESS {
            reported = Instant::now();
            report(format_args!("{} {} so far", counted(done), wording.done));
        }
    };
    let letters = LetterSelection::Counted(letters);
    let dead_letters = operations.dead_letters();
    let tally = dead_letters.carry_out(wording.action, &letters, wording.dry_run, each).await;
    let tally = tally.map_err(failed)?;
    let not_done = match tally.failed {
        0 => String::new(),
        left => format!(", {} not", grouped(left as f64)),
    };
    let would_be = if wording.dry_run { "would be " } else { "" };
    say(format_args!("{} {would_be}{}{not_done}", counted(tally.done), wording.done));
    if wording.dry_run {
        say("nothing was changed (--dry-run)");
    }
    Ok(tally)
}
