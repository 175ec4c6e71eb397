//! Doing something to the letters that were selected, with a dry run that says what.
//!
//! Letters by name are seen to at once. Those by filter are counted first, by kind, and
//! nothing is done to them without `--yes`.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::selection::{Selected, Selection};
use super::{Desk, counted, view};
use crate::cli::output::{complain, grouped, lined_up, on_one_line, say};
use crate::store::{LetterFilter, LetterName, LetterSummary};

/// Letters that are read at once.
const PAGE: u64 = 200;
/// How often people hear of long work.
const PROGRESS: Duration = Duration::from_secs(1);
/// Of letters that it could not be done to, so many are named.
const NAMED: u64 = 20;

/// How it went with one letter, or why it was not done; goes on behind "replayed".
pub(super) type Answer = Result<String, String>;

/// Something that people do to letters.
pub(super) trait Deed {
    /// The verb, as in `discard`.
    const VERB: &'static str;
    /// Its participle, as in `discarded`.
    const DONE: &'static str;

    /// Why it cannot be done to a letter that reads like this, if it cannot.
    fn objection(&self, letter: &LetterSummary) -> Option<String>;

    /// Says of each letter what would become of it, in the same order.
    async fn foresee(&self, letters: &[LetterSummary]) -> anyhow::Result<Vec<Answer>> {
        let answer = |letter| self.objection(letter).map_or(Ok(String::new()), Err);
        Ok(letters.iter().map(answer).collect())
    }

    /// Does it, and says of each letter what became of it, in the same order.
    async fn apply(&self, letters: &[LetterSummary]) -> anyhow::Result<Vec<Answer>>;
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
            match preview::<D>(desk, &filter, selection).await? {
                Preview::GoOn => {}
                Preview::Nothing => return Ok(ExitCode::SUCCESS),
                Preview::Unconfirmed => return Ok(ExitCode::FAILURE),
            }
            to_all_like(desk, &filter, selection.dry_run, deed).await?
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
        true => deed.foresee(&letters).await?,
        false => deed.apply(&letters).await?,
    };
    let mut tally = Tally::default();
    for (letter, answer) in letters.iter().zip(answers) {
        tally.add(&answer);
        say(one_line::<D>(letter, &answer, dry_run));
    }
    Ok(tally)
}

/// `0198c0de: replayed as job ..`, `0198c0de: would not be replayed: ..`.
fn one_line<D: Deed>(letter: &LetterSummary, answer: &Answer, dry_run: bool) -> String {
    let (id, done) = (view::short_id(letter.id), D::DONE);
    let line = match (answer, dry_run) {
        (Ok(how), false) => format!("{id}: {done} {how}"),
        (Ok(how), true) => format!("{id}: would be {done} {how}"),
        (Err(why), false) => format!("{id}: not {done}: {why}"),
        (Err(why), true) => format!("{id}: would not be {done}: {why}"),
    };
    on_one_line(line.trim_end())
}

/// What comes after a preview.
enum Preview {
    /// The letters are gone through: it is done to them, or foreseen.
    GoOn,
    /// There are none.
    Nothing,
    /// Nobody said that it is meant.
    Unconfirmed,
}

/// Says what is meant, and whether it is to be gone through.
async fn preview<D: Deed>(
    desk: &Desk,
    filter: &LetterFilter,
    selection: &Selection,
) -> anyhow::Result<Preview> {
    let counts = desk.store.count_letters(filter).await.map_err(|error| desk.told(error))?;
    let all: u64 = counts.iter().map(|count| count.count).sum();
    if all == 0 {
        say("no dead letter is like that: nothing was changed");
        return Ok(Preview::Nothing);
    }
    let row =
        |count: &crate::store::LetterCount| vec![count.kind.clone(), grouped(count.count as f64)];
    let rows: Vec<_> = counts.iter().map(row).collect();
    say(format_args!("{} to {}:", counted(all), D::VERB));
    say(lined_up(&["kind", "letters"], &rows).trim_end());
    if selection.yes || selection.dry_run {
        return Ok(Preview::GoOn);
    }
    say(format_args!("nothing was changed: add --yes to {} them", D::VERB));
    Ok(Preview::Unconfirmed)
}

async fn to_all_like<D: Deed>(
    desk: &Desk,
    filter: &LetterFilter,
    dry_run: bool,
    deed: &D,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut spoken = Instant::now();
    let mut after = None;
    loop {
        let page = desk.store.letters(filter, after, PAGE).await;
        let page = page.map_err(|error| desk.told(error))?;
        let answers = match dry_run {
            true => deed.foresee(&page.letters).await?,
            false => deed.apply(&page.letters).await?,
        };
        for (letter, answer) in page.letters.iter().zip(&answers) {
            tally.add(answer);
            if answer.is_err() && tally.not_done <= NAMED {
                say(one_line::<D>(letter, answer, dry_run));
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
    let (done, would_be) = (D::DONE, if dry_run { "would be " } else { "" });
    say(format_args!("{} {would_be}{done}{not_done}", counted(tally.done)));
    if dry_run {
        say("nothing was changed (--dry-run)");
    }
    Ok(tally)
}

impl Tally {
    fn add(&mut self, answer: &Answer) {
        match answer {
            Ok(_) => self.done += 1,
            Err(_) => self.not_done += 1,
        }
    }
}
