//! An action on the letters that were selected, and what is printed of it.
//!
//! Letters that were named are printed one by one. Letters that a filter describes are counted
//! first, by kind, and the action needs `--yes`. `answer` has the forms for programs.

mod answer;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::answer::{Answer, Fields};
use super::selection::{Selected, Selection};
use super::{counted, view};
use crate::cli::author::Author;
use crate::cli::exit::Exit;
use crate::cli::output::{ListPrinter, grouped, on_one_line, report, say, text_table};
use crate::cli::session::Session;
use crate::operations::{
    BulkTally, CountedLetters, Error as OperationError, LetterAction, LetterName, LetterOutcome,
    LetterSelection, LetterSummary, Operations, Replayed,
};

/// The pause between two reports of progress.
const PROGRESS: Duration = Duration::from_secs(1);
/// How many of the letters that failed are named, of those that a filter selected.
const NAMED: u64 = 20;

/// An action, and the words for it.
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

    fn fields(&self, matched: u64, tally: BulkTally) -> Fields {
        let BulkTally { done, failed, .. } = tally;
        Fields { action: self.verb, dry_run: self.dry_run, matched, done, failed }
    }
}

/// The rest of the sentence after "replayed".
fn how(outcome: &LetterOutcome) -> String {
    match outcome {
        LetterOutcome::Discarded => String::new(),
        LetterOutcome::Replayed(Replayed::Accepted { job_id }) => format!("as job {job_id}"),
        LetterOutcome::Replayed(Replayed::Operated { job_id }) => {
            format!("as an operation on job {job_id}")
        }
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
    let printer = selection.form.printer();
    let tally = match selection.read(&session.config)? {
        Selected::These(names) => of_names(&operations, names, &wording, printer).await?,
        Selected::Like(filter) => {
            let letters = operations.dead_letters().select(filter).await?;
            match confirm(&letters, &wording, selection.yes, printer.is_some()) {
                Confirmation::GoOn => of_filter(&operations, letters, &wording, printer).await?,
                unconfirmed => {
                    if let Some(printer) = printer {
                        let fields = wording.fields(letters.total(), BulkTally::default());
                        printer.end_with(None, &fields)?;
                    }
                    return Ok(match unconfirmed {
                        Confirmation::GoOn | Confirmation::Nothing => ExitCode::SUCCESS,
                        Confirmation::Missing => Exit::Incomplete.into(),
                    });
                }
            }
        }
    };
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { Exit::Incomplete.into() })
}

async fn of_names(
    operations: &Operations,
    names: Vec<LetterName>,
    wording: &Wording,
    mut printer: Option<ListPrinter>,
) -> anyhow::Result<BulkTally> {
    let letters = LetterSelection::Named(names);
    let mut printed = Ok(());
    let each = |letter: &LetterSummary, outcome: &_| match &mut printer {
        Some(printer) if printed.is_ok() => printed = printer.item(&Answer::of(letter, outcome)),
        Some(_) => {}
        None => say(wording.line(letter, outcome)),
    };
    let dead_letters = operations.dead_letters();
    let tally = dead_letters.apply(wording.action, &letters, wording.dry_run, each).await?;
    printed?;
    if let Some(printer) = printer {
        printer.end_with(None, &wording.fields(tally.done + tally.failed, tally))?;
    }
    Ok(tally)
}

/// Whether the action goes on after the count.
enum Confirmation {
    /// It is carried out, or its outcome is foreseen.
    GoOn,
    /// The filter describes no letter.
    Nothing,
    /// `--yes` is missing.
    Missing,
}

/// Prints how many letters of each kind are selected. This is the answer for a person; a program
/// gets it on standard error.
fn confirm(
    letters: &CountedLetters,
    wording: &Wording,
    yes: bool,
    is_for_program: bool,
) -> Confirmation {
    let line = |line: String| if is_for_program { report(line) } else { say(line) };
    let verb = wording.verb;
    if letters.total() == 0 {
        line("no dead letter is like that: nothing was changed".into());
        return Confirmation::Nothing;
    }
    let counts = letters.counts().iter();
    let rows: Vec<_> =
        counts.map(|count| vec![count.kind.clone(), grouped(count.count as f64)]).collect();
    line(format!("{} to {verb}:", counted(letters.total())));
    line(text_table(&["kind", "letters"], &rows).trim_end().into());
    if yes || wording.dry_run {
        return Confirmation::GoOn;
    }
    line(format!("nothing was changed: add --yes to {verb} them"));
    Confirmation::Missing
}

async fn of_filter(
    operations: &Operations,
    letters: CountedLetters,
    wording: &Wording,
    mut printer: Option<ListPrinter>,
) -> anyhow::Result<BulkTally> {
    let matched = letters.total();
    let (mut done, mut failures) = (0, 0);
    let mut reported = Instant::now();
    let mut printed = Ok(());
    let each = |letter: &LetterSummary, outcome: &Result<LetterOutcome, _>| {
        match outcome {
            Ok(_) => done += 1,
            Err(_) => failures += 1,
        }
        match &mut printer {
            Some(printer) if printed.is_ok() => {
                printed = printer.item(&Answer::of(letter, outcome));
            }
            None if outcome.is_err() && failures <= NAMED => say(wording.line(letter, outcome)),
            Some(_) | None => {}
        }
        if reported.elapsed() > PROGRESS {
            reported = Instant::now();
            report(format_args!("{} {} so far", counted(done), wording.done));
        }
    };
    let letters = LetterSelection::Counted(letters);
    let dead_letters = operations.dead_letters();
    let tally = dead_letters.apply(wording.action, &letters, wording.dry_run, each).await?;
    printed?;
    let not_done = match tally.failed {
        0 => String::new(),
        left => format!(", {} not", grouped(left as f64)),
    };
    let would_be = if wording.dry_run { "would be " } else { "" };
    let summary = format!("{} {would_be}{}{not_done}", counted(tally.done), wording.done);
    let unchanged = "nothing was changed (--dry-run)";
    match printer {
        Some(printer) => {
            report(summary);
            printer.end_with(None, &wording.fields(matched, tally))?;
        }
        None => {
            say(summary);
            if wording.dry_run {
                say(unchanged);
            }
        }
    }
    Ok(tally)
}
