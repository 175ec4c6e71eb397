//! `dead-letters list`: which letters there are, newest first.

use std::process::ExitCode;

use clap::ValueEnum;

use super::counted;
use super::filters::Filters;
use super::view;
use crate::cli::ConfigFile;
use crate::cli::output::{grouped, lined_up, report, say};
use crate::cli::session::{Session, failed};
use crate::operations::{LetterFilter, LetterState, LetterSummary, rfc3339_s};

/// Letters that are read at once.
const PAGE: u64 = 500;
/// Characters of a message that fit beside the rest.
const MESSAGE: usize = 72;
/// And of a name.
const NAME: usize = 24;

/// Lists dead letters, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters list
  infinite-scheduler dead-letters list --app sms --kind invalid-field --from 2h
  infinite-scheduler dead-letters list --contains 'time zone' --state all --limit 1000 --json")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// No more than so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    limit: u64,
    /// For programs: a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: Filters,
    /// In these states
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
    let dead_letters = session.operations.dead_letters();
    let mut shown = 0;
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let limit = PAGE.min(arguments.limit - shown);
        let page = dead_letters.list(&filter, after, limit).await.map_err(failed)?;
        for letter in &page.letters {
            match arguments.json {
                true => {
                    let before = if shown == 0 { "[" } else { "," };
                    say(format_args!("{before}{}", serde_json::to_string(letter)?));
                }
                false => rows.push(row(letter)),
            }
            shown += 1;
        }
        after = page.next;
        if after.is_none() || shown >= arguments.limit {
            break;
        }
    }
    if arguments.json {
        say(if shown == 0 { "[]" } else { "]" });
    } else if !rows.is_empty() {
        let names = ["id", "since", "state", "kind", "app", "request", "attempts", "message"];
        say(lined_up(&names, &rows).trim_end());
    }
    say_how_many(session, &filter, shown, after.is_some(), arguments.json).await?;
    Ok(ExitCode::SUCCESS)
}

async fn say_how_many(
    session: &Session,
    filter: &LetterFilter,
    shown: u64,
    more: bool,
    json: bool,
) -> anyhow::Result<()> {
    if more {
        let counts = session.operations.dead_letters().count(filter).await.map_err(failed)?;
        let all: u64 = counts.iter().map(|count| count.count).sum();
        let (shown, all) = (grouped(shown as f64), counted(all));
        report(format_args!("{shown} of {all}: more by --limit, fewer by filters"));
    } else if !json {
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
