//! `audit`: who changed what, when and why.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use tracing_subscriber::filter::LevelFilter;

use super::output::{self, ListOptions, ListPrinter, on_one_line, report, say, text_table};
use super::session::Session;
use super::{ConfigFile, moment};
use crate::operations::{
    AuditAction, AuditFilter, AuditItem, AuditSource, PageRequest, rfc3339_ms,
};

/// Entries that are read at once.
const PAGE: usize = 500;

/// Shows who changed what, when and why, newest first
///
/// An entry is written in the transaction of its change. Entries are kept for `audit.keep_days`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler audit
  infinite-scheduler audit --who anna --from 2h
  infinite-scheduler audit --action app.pause --app sms --limit 1000 --json

Exit codes: 0 shown, 1 it failed, 2 it cannot work as it was asked, 4 the database does not answer.")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// No more than so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    limit: u64,
    /// Continue after the page that ended with this cursor, the `next` of its --json
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    form: ListOptions,
    #[command(flatten)]
    filters: Filters,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which entries")]
struct Filters {
    /// Of what this person or program did
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    who: Option<String>,
    /// Asked for in this way: handle, cli, http or kafka
    #[arg(long, value_name = "SOURCE")]
    source: Option<AuditSource>,
    /// Of this kind, as in app.pause
    #[arg(long, value_name = "ACTION")]
    action: Option<AuditAction>,
    /// About this app
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    app: Option<String>,
    /// Of what was done to this: the id of a job, letter or instance, an app, a group, a partition
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    subject: Option<String>,
    /// At this time or later: 2030-01-01T08:00:00Z, a local time, epoch milliseconds, or how long
    /// ago, as in 2h
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let shown = show(&session, arguments).await;
    session.close().await;
    shown
}

async fn show(session: &Session, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { limit, cursor, form, filters, .. } = arguments;
    let zone = &session.config.default_time_zone;
    let filter = AuditFilter {
        who: filters.who,
        source: filters.source,
        action: filters.action,
        app: filters.app,
        subject: filters.subject,
        from_ms: moment::read("from", filters.from.as_deref(), zone)?,
        to_ms: moment::read("to", filters.to.as_deref(), zone)?,
    };
    let mut list = match form.printer() {
        Some(printer) => List::Program(printer),
        None => List::Person(Vec::new()),
    };
    let mut shown = 0;
    let mut next = cursor;
    loop {
        let most = usize::try_from(limit - shown).unwrap_or(PAGE).min(PAGE);
        let wanted = PageRequest { limit: most, cursor: next };
        let page = session.operations.audit().list(&filter, &wanted).await?;
        page.items.iter().try_for_each(|item| list.add(item))?;
        shown += page.items.len() as u64;
        next = page.next;
        if next.is_none() || shown >= limit || output::is_closed() {
            break;
        }
    }
    list.end(next.as_deref())?;
    match next {
        Some(_) => report("there are more: more by --limit, fewer by filters"),
        None if shown == 0 && form.printer().is_none() => report("no entry is like that"),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The list, printed entry by entry for a program, or gathered for a table.
enum List {
    Program(ListPrinter),
    Person(Vec<Vec<String>>),
}

impl List {
    fn add(&mut self, item: &AuditItem) -> serde_json::Result<()> {
        match self {
            Self::Program(printer) => printer.item(item),
            Self::Person(rows) => {
                rows.push(cells(item));
                Ok(())
            }
        }
    }

    fn end(self, next: Option<&str>) -> serde_json::Result<()> {
        const NAMES: [&str; 7] = ["time", "who", "source", "action", "subject", "count", "reason"];
        match self {
            Self::Program(printer) => return printer.end(next),
            Self::Person(rows) if rows.is_empty() => {}
            Self::Person(rows) => say(text_table(&NAMES, &rows).trim_end()),
        }
        Ok(())
    }
}

fn cells(item: &AuditItem) -> Vec<String> {
    let reason = item.reason.as_deref().unwrap_or("-");
    let cells =
        [&item.who, &item.source, &item.action, &item.subject].map(|text| on_one_line(text));
    let mut row = vec![rfc3339_ms(item.at_ms)];
    row.extend(cells);
    row.extend([item.count.to_string(), on_one_line(reason)]);
    row
}
