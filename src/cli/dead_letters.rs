//! `dead-letters`: what became of records and jobs that failed for good, and what people do
//! about it.
//!
//! `selection` and `deed` are for whatever is done to several letters at once.

mod filters;

mod list;
mod show;
mod view;

mod edit;

mod deed;
mod discard;
mod replay;
mod selection;

use std::process::ExitCode;

use anyhow::bail;
use chrono::{DateTime, SecondsFormat};
use tracing_subscriber::filter::LevelFilter;
use uuid::Uuid;

use super::{ConfigFile, cannot_start, load, migrate};
use crate::config::Config;
use crate::model::clock::{Clock, SystemClock};
use crate::store::{
    Error as StoreError, LetterName, LetterRow, LetterState, LetterSummary, Lookup, Store,
};
use crate::telemetry;

/// Shows and mends what could not become a job, or failed for good
///
/// Letters are rows of the database and records on the DLQ topic; these commands are about the
/// rows. An id may be shortened to its first 8 digits or more.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters list --app sms --from 2h
  infinite-scheduler dead-letters show 0198c0de-1234
  infinite-scheduler dead-letters replay --app sms --from 2h --dry-run
  infinite-scheduler dead-letters discard --kind invalid-json --dry-run")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(list::Arguments),
    Show(show::Arguments),
    Edit(edit::Arguments),
    Replay(replay::Arguments),
    Discard(discard::Arguments),
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = load(arguments.action.config().config.as_deref())?;
    telemetry::init(config.log.format, LevelFilter::WARN).map_err(cannot_start)?;
    let store = migrate::open_existing(&config).await?;
    let desk = Desk { config, store };
    let done = act(&desk, arguments.action).await;
    desk.store.close().await;
    done
}

async fn act(desk: &Desk, action: Action) -> anyhow::Result<ExitCode> {
    desk.store.check_schema().await.map_err(|error| desk.told(error))?;
    match action {
        Action::List(arguments) => list::run(desk, arguments).await,
        Action::Show(arguments) => show::run(desk, arguments).await,
        Action::Edit(arguments) => edit::run(desk, arguments).await,
        Action::Replay(arguments) => replay::run(desk, arguments).await,
        Action::Discard(arguments) => discard::run(desk, arguments).await,
    }
}

impl Action {
    fn config(&self) -> &ConfigFile {
        match self {
            Self::List(arguments) => &arguments.config,
            Self::Show(arguments) => &arguments.config,
            Self::Edit(arguments) => &arguments.config,
            Self::Replay(arguments) => &arguments.config,
            Self::Discard(arguments) => &arguments.config,
        }
    }
}

/// What every action works with.
struct Desk {
    config: Config,
    store: Store,
}

impl Desk {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms()
    }

    fn told(&self, error: StoreError) -> anyhow::Error {
        migrate::told(&self.config, error)
    }

    async fn letter(&self, name: &LetterName) -> anyhow::Result<LetterRow> {
        match self.store.find_letter(name).await.map_err(|error| self.told(error))? {
            Lookup::Found(letter) => Ok(*letter),
            Lookup::Unknown => bail!("there is no dead letter {name}"),
            Lookup::Ambiguous(ids) => {
                let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
                let sentence = format!(
                    "several dead letters begin with {name}: give more digits, as in {}",
                    ids.join(", ")
                );
                bail!(cannot_start(sentence))
            }
        }
    }
}

/// Why nothing more can be done to a letter that reads like this.
fn why_not(letter: &LetterSummary) -> String {
    match letter.state() {
        LetterState::Parked => {
            let when = letter.due_ms.map(|due| format!(", next at {}", instant(due)));
            let when = when.unwrap_or_default();
            format!(
                "it is parked: its record is tried again by itself{when}; wait until it is dead"
            )
        }
        LetterState::Replayed => {
            let job = letter.job.map(|job| format!(" as job {job}")).unwrap_or_default();
            format!("it was replayed{job} at {}", instant(letter.changed_ms))
        }
        LetterState::Discarded => format!("it was discarded at {}", instant(letter.changed_ms)),
        LetterState::Dead => "somebody else changed it at the same time: look at it again".into(),
    }
}

const GONE: &str = "it is not there any more";

/// A moment for people.
fn instant(ms: i64) -> String {
    rfc3339(ms, SecondsFormat::Secs)
}

/// A moment for programs.
fn exact_instant(ms: i64) -> String {
    rfc3339(ms, SecondsFormat::Millis)
}

fn rfc3339(ms: i64, precision: SecondsFormat) -> String {
    match DateTime::from_timestamp_millis(ms) {
        Some(time) => time.to_rfc3339_opts(precision, true),
        None => format!("{ms} ms"),
    }
}

/// `1 dead letter`, `2 dead letters`.
fn counted(letters: u64) -> String {
    let number = super::output::grouped(letters as f64);
    format!("{number} dead letter{}", if letters == 1 { "" } else { "s" })
}
