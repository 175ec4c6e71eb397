//! `dead-letters list`: the letters that match filters, newest first.

use std::process::ExitCode;

use clap::ValueEnum;

use super::counted;
use super::filters::Filters;
use super::view;
use crate::cli::ConfigFile;
use crate::cli::output::{self, ListOptions, ListPrinter, grouped, report, say, text_table};
use crate::cli::session::Session;
use crate::operations::{LetterFilter, LetterState, LetterSummary, PageRequest, rfc3339_s};

/// The letters that one query reads.
const PAGE: usize = 500;
/// The characters of a message that a table shows.
const MESSAGE: usize = 72;
/// The characters of a name that a table shows.
const NAME: usize = 24;

/// Lists dead letters, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters list
  infinite-scheduler dead-letters list --app sms --kind invalid-field --from 2h
  infinite-scheduler dead-letters list --contains 'time zone' --state all --limit 1000 --json
  infinite-scheduler dead-letters list --limit 100000 --jsonl > letters.jsonl

Exit codes: 0 listed, 1 it failed, 2 it cannot work as it was asked, 4 the database does not answer.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// List at most N letters
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    limit: u64,
    /// Continue after the page that ended with this cursor, the `next` of its --json
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    form: ListOptions,
    #[command(flatten)]
    filters: Filters,
    /// Letters in these states
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_values_t = [States::Dead, States::Parked],
        help_heading = "Which letters"
    )]
    state: Vec<States>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum States {
    Dead,
    Parked,
    Replayed,
    Discarded,
    All,
}

impl States {
    fn meant(self) -> Vec<LetterState> {
        match self {
            Self::Dead => vec![LetterState::Dead],
            Self::Parked => vec![LetterState::Parked],
            Self::Replayed => vec![LetterState::Replayed],
            Self::Discarded => vec![LetterState::Discarded],
            Self::All => LetterState::ALL.to_vec(),
        }
    }
}

pub(super) async fn run(session: &Session, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let states = arguments.state.iter().flat_map(|states| states.meant()).collect();
    let filter = arguments.filters.read(&session.config, states)?;
    let mut list = match arguments.form.printer() {
        Some(printer) => List::Program(printer),
        None => List::Person(Vec::new()),
    };
    let dead_letters = session.operations.dead_letters();
    let mut shown = 0;
    let mut next = arguments.cursor;
    loop {
        let limit = usize::try_from(arguments.limit - shown).unwrap_or(PAGE).min(PAGE);
        let page = dead_letters.list(&filter, &PageRequest { limit, cursor: next }).await?;
        page.items.iter().try_for_each(|letter| list.add(letter))?;
        shown += page.items.len() as u64;
        next = page.next;
        if next.is_none() || shown >= arguments.limit || output::is_closed() {
            break;
        }
    }
    list.end(next.as_deref())?;
    let is_for_program = arguments.form.printer().is_some();
    report_count(session, &filter, shown, next.is_some(), is_for_program).await?;
    Ok(ExitCode::SUCCESS)
}

/// The list, printed letter by letter for a program, or gathered for a table.
enum List {
    Program(ListPrinter),
    Person(Vec<Vec<String>>),
}

impl List {
    fn add(&mut self, letter: &LetterSummary) -> serde_json::Result<()> {
        match self {
            Self::Program(printer) => printer.item(letter),
            Self::Person(rows) => {
                rows.push(row(letter));
                Ok(())
            }
        }
    }

    fn end(self, next: Option<&str>) -> serde_json::Result<()> {
        const NAMES: [&str; 8] =
            ["id", "since", "state", "kind", "app", "request", "attempts", "message"];
        match self {
            Self::Program(printer) => return printer.end(next),
            Self::Person(rows) if rows.is_empty() => {}
            Self::Person(rows) => say(text_table(&NAMES, &rows).trim_end()),
        }
        Ok(())
    }
}

async fn report_count(
    session: &Session,
    filter: &LetterFilter,
    shown: u64,
    has_more: bool,
    is_for_program: bool,
) -> anyhow::Result<()> {
    if has_more {
        let counts = session.operations.dead_letters().count(filter).await?;
        let all: u64 = counts.iter().map(|count| count.count).sum();
        let (shown, all) = (grouped(shown as f64), counted(all));
        report(format_args!("{shown} of {all}: more by --limit, fewer by filters"));
    } else if !is_for_program {
        let none = if shown == 0 { "no dead letter is like that" } else { &counted(shown) };
        report(none);
    }
    Ok(())
}

fn row(letter: &LetterSummary) -> Vec<String> {
    let named = |name: &Option<String>| {
        name.as_deref().map_or_else(|| "-".into(), |name| view::one_line(name, NAME))
    };
    let corrected = if letter.corrected { ", corrected" } else { "" };
    vec![
        view::short_id(letter.id),
        rfc3339_s(letter.created_ms),
        format!("{}{corrected}", letter.state()),
        letter.kind.clone(),
        named(&letter.app),
        named(&letter.request_id),
        letter.attempts.to_string(),
        view::one_line(&letter.message, MESSAGE),
    ]
}
