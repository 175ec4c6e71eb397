//! `bulk`: one action on every job or dead letter that filters select; watching and stopping it.

mod start;

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::author::Author;
use super::output::{
    DocumentOption, ListOptions, document, grouped, on_one_line, report, say, text_table,
};
use super::session::Session;
use crate::operations::{BulkItem, PageRequest, rfc3339_s};

pub(super) use self::start::{Many, cancel_jobs};

/// Cancels, moves, starts or edits every job that filters select, replays or discards every dead
/// letter; shows and stops that
///
/// What comes later does not match, and each of the others is treated once. An instance carries it
/// out; where none is alive, the command does so itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bulk cancel --app sms --dry-run
  infinite-scheduler bulk cancel --app sms --reason 'a producer ran wild' --yes
  infinite-scheduler bulk reschedule --app sms --state due --shift-ms 3600000 --rate 500 --yes
  infinite-scheduler bulk replay --app sms --error-kind refused-by-target --rate 100 --yes
  infinite-scheduler bulk list
  infinite-scheduler bulk stop 4711")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Cancel(start::Cancel),
    Reschedule(start::Reschedule),
    Run(start::Run),
    Edit(start::Edit),
    Replay(start::Replay),
    Discard(start::Discard),
    List(List),
    Show(Show),
    Stop(Stop),
}

/// Lists bulk actions, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bulk list
  infinite-scheduler bulk list --limit 1000 --json

Exit codes: 0 listed, 1 it failed, 2 it cannot work as it was asked, 4 the database does not answer.")]
struct List {
    #[command(flatten)]
    config: ConfigFile,
    /// List at most N bulk actions
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    /// Continue after the page that ended with this cursor, the `next` of its --json
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    form: ListOptions,
}

/// Shows how far a bulk action is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bulk show 4711 --json

Exit codes: 0 shown; 1 it failed; 2 it cannot work as it was asked; 3 there is no such bulk action;
4 the database does not answer.")]
struct Show {
    #[command(flatten)]
    config: ConfigFile,
    /// Its number, as `bulk list` shows it
    #[arg(value_name = "BULK")]
    bulk: i64,
    #[command(flatten)]
    form: DocumentOption,
}

/// Stops a bulk action: within two heartbeats nothing more is changed by it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bulk stop 4711 --reason 'the wrong app'

Exit codes: 0 it stops or has ended; 1 it failed; 2 it cannot work as it was asked; 3 there is no such
bulk action; 4 the database does not answer.")]
struct Stop {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    author: Author,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::Cancel(cancel) => start::cancel(cancel).await,
        Action::Reschedule(reschedule) => start::reschedule(reschedule).await,
        Action::Run(run) => start::run(run).await,
        Action::Edit(edit) => start::edit(edit).await,
        Action::Replay(replay) => start::replay(replay).await,
        Action::Discard(discard) => start::discard(discard).await,
        Action::List(arguments) => list(arguments).await,
        Action::Show(arguments) => {
            let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
            let shown = session.operations.bulk().show(arguments.bulk).await;
            session.close().await;
            show(&shown?, arguments.form)
        }
        Action::Stop(Stop { show: arguments, author }) => {
            let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
            let stopped = session.operations_of(&author).bulk().stop(arguments.bulk).await;
            session.close().await;
            show(&stopped?, arguments.form)
        }
    }
}

async fn list(arguments: List) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let List { limit, cursor, form, .. } = arguments;
    let page = PageRequest { limit: usize::try_from(limit)?, cursor };
    let found = session.operations.bulk().list(&page).await;
    session.close().await;
    let found = found?;
    if let Some(mut printer) = form.printer() {
        found.items.iter().try_for_each(|item| printer.item(item))?;
        printer.end(found.next.as_deref())?;
    } else if found.items.is_empty() {
        report("there is no bulk action");
    } else {
        let names =
            ["id", "created", "action", "state", "matched", "done", "failed", "skipped", "who"];
        let rows: Vec<Vec<String>> = found.items.iter().map(cells).collect();
        say(text_table(&names, &rows).trim_end());
    }
    if found.next.is_some() {
        report("there are older ones: more by --limit");
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(item: &BulkItem) -> Vec<String> {
    vec![
        item.id.to_string(),
        rfc3339_s(item.created_ms),
        item.action.clone(),
        item.state.as_str().to_owned(),
        item.matched.to_string(),
        item.done.to_string(),
        item.failed.to_string(),
        item.skipped.to_string(),
        on_one_line(&item.who),
    ]
}

fn show(item: &BulkItem, form: DocumentOption) -> anyhow::Result<ExitCode> {
    match form.json {
        true => document(item)?,
        false => say(on_one_line(&sentence(item))),
    }
    Ok(ExitCode::SUCCESS)
}

/// `bulk 4711 (cancel) is finished: 3 matched, 2 done, 0 failed, 1 skipped`
fn sentence(item: &BulkItem) -> String {
    let [matched, done, failed, skipped] =
        [item.matched, item.done, item.failed, item.skipped].map(|number| grouped(number as f64));
    let (id, action, state) = (item.id, &item.action, item.state.as_str());
    let again = match item.failed_again {
        0 => String::new(),
        again => format!(" ({} failed again)", grouped(again as f64)),
    };
    format!(
        "bulk {id} ({action}) is {state}: {matched} matched, {done} done{again}, {failed} failed, \
         {skipped} skipped"
    )
}
