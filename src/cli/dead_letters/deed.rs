//! Doing something to the letters that were selected, with a dry run that says what.
//!
//! Letters by name are seen to at once. Those by filter are counted first, by kind, and
//! nothing is done to them without `--yes`.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::selection::{Selected, Selection};
use super::{Desk, counted, view};
use crate::cli::output::{complain, grouped, lined_up, say};
use crate::store::{LetterFilter, LetterName, LetterSummary};

/// Letters that are read at once.
const PAGE: u64 = 200;
/// How often people hear of long work.
const PROGRESS: Duration = Duration::from_secs(1);
/// Of letters that it could not be done to, so many are named.
const NAMED: u64 = 20;

/// Something that people do to letters.
pub(super) trait Deed {
    /// The verb, as in `discard`.
    const VERB: &'static str;
    /// Its participle, as in `discarded`.
    const DONE: &'static str;

    /// Why it cannot be done to a letter that reads like this, if it cannot.
    fn objection(&self, letter: &LetterSummary) -> Option<String>;

    /// Does it, and says of each letter what became of it, in the same order: how it went,
    /// or why it was not done.
    async fn apply(&self, letters: &[LetterSummary])
    -> anyhow::Result<Vec<Result<String, String>>>;
}

/// What became of all.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    not_done: u64,
}

pub(super) async fn carry_out<D: Deed>(
    desk: &Desk,
    selection: &Selection,
    deed: &D,
) -> anyhow::Result<ExitCode> {
    let tally = match selection.read(desk)? {
        Selected::These(names) => to_these(desk, &names, selection.dry_run, deed).await?,
        Selected::Like(filter) => {
            if !preview::<D>(desk, &filter, selection).await? {
                return Ok(ExitCode::SUCCESS);
            }
            to_all_like(desk, &filter, deed).await?
        }
    };
    let all_done = tally.not_done == 0;
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn to_these<D: Deed>(
    desk: &Desk,
    names: &[LetterName],
    dry_run: bool,
    deed: &D,
) -> anyhow::Result<Tally> {
    // All are looked up before anything is done: a wrong id is a mistake in the command.
    let mut letters = Vec::new();
    let mut seen = HashSet::new();
    for name in names {
        let letter = LetterSummary::from(&desk.letter(name).await?);
        if seen.insert(letter.id) {
            letters.push(letter);
        }
    }
    let answers = match dry_run {
        true => letters
            .iter()
            .map(|letter| match deed.objection(letter) {
                None => Ok(format!("would be {}", D::DONE)),
                Some(why) => Err(why),
            })
            .collect(),
        false => deed.apply(&letters).await?,
    };
    let mut tally = Tally::default();
    for (letter, answer) in letters.iter().zip(answers) {
        tally.add(&answer);
        let (id, not_done) =
            (view::short_id(letter.id), if dry_run { "would not be" } else { "not" });
        match answer {
            Ok(how) => say(format_args!("{id}: {how}")),
            Err(why) => say(format_args!("{id}: {not_done} {}: {why}", D::DONE)),
        }
    }
    Ok(tally)
}

/// Says what is meant, and whether it is to be done.
async fn preview<D: Deed>(
    desk: &Desk,
    filter: &LetterFilter,
    selection: &Selection,
) -> anyhow::Result<bool> {
    let counts = desk.store.count_letters(filter).await.map_err(|error| desk.told(error))?;
    let all: u64 = counts.iter().map(|count| count.count).sum();
    if all == 0 {
        say("no dead letter is like that: nothing was changed");
        return Ok(false);
    }
    let row =
        |count: &crate::store::LetterCount| vec![count.kind.clone(), grouped(count.count as f64)];
    let rows: Vec<_> = counts.iter().map(row).collect();
    say(format_args!("{} to {}:", counted(all), D::VERB));
    say(lined_up(&["kind", "letters"], &rows).trim_end());
    if selection.yes {
        return Ok(true);
    }
    let way_on = format!("add --yes to {} them", D::VERB);
    say(match selection.dry_run {
        true => "nothing was changed (--dry-run)".into(),
        false => format!("nothing was changed: {way_on}"),
    });
    Ok(false)
}

async fn to_all_like<D: Deed>(
    desk: &Desk,
    filter: &LetterFilter,
    deed: &D,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut spoken = Instant::now();
    let mut after = None;
    loop {
        let page = desk.store.letters(filter, after, PAGE).await;
        let page = page.map_err(|error| desk.told(error))?;
        let answers = deed.apply(&page.letters).await?;
        for (letter, answer) in page.letters.iter().zip(&answers) {
            tally.add(answer);
            if let Err(why) = answer
                && tally.not_done <= NAMED
            {
                say(format_args!("{}: not {}: {why}", view::short_id(letter.id), D::DONE));
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
        if spoken.elapsed() > PROGRESS {
            spoken = Instant::now();
            complain(format_args!("{} {} so far", counted(tally.done), D::DONE));
        }
    }
    let not_done = match tally.not_done {
        0 => String::new(),
        left => format!(", {} not", grouped(left as f64)),
    };
    say(format_args!("{} {}{not_done}", counted(tally.done), D::DONE));
    Ok(tally)
}

impl Tally {
    fn add(&mut self, answer: &Result<String, String>) {
        match answer {
            Ok(_) => self.done += 1,
            Err(_) => self.not_done += 1,
        }
    }
}
