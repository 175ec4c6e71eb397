//! `audit`: who changed what, when and why.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use super::output::{lined_up, on_one_line, report, say};
use super::session::{Session, failed};
use super::{ConfigFile, moment};
use crate::operations::{
    AuditAction, AuditCursor, AuditFilter, AuditItem, AuditSource, rfc3339_ms,
};

/// Entries that are read at once.
const PAGE: u64 = 500;

/// Shows who changed what, when and why, newest first
///
/// An entry is written in the transaction of its change. Entries are kept for `audit.keep_days`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler audit
  infinite-scheduler audit --who anna --from 2h
  infinite-scheduler audit --action app.pause --app sms --limit 1000 --json

Exit codes: 0 shown, 1 it failed, 2 it cannot work as it was asked.")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// No more than so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    limit: u64,
    /// For programs: a JSON object with `items`
    #[arg(long)]
    json: bool,
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
    let Arguments { limit, json, filters, .. } = arguments;
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
    let mut items = Vec::new();
    let mut after: Option<AuditCursor> = None;
    loop {
        let page = PAGE.min(limit - items.len() as u64);
        let page = session.operations.audit().list(&filter, after, page).await.map_err(failed)?;
        items.extend(page.items);
        after = page.next;
        if after.is_none() || items.len() as u64 >= limit {
            break;
        }
    }
    if json {
        say(serde_json::to_string_pretty(&json!({ "items": items, "next": null }))?);
    } else if !items.is_empty() {
        let names = ["time", "who", "source", "action", "subject", "count", "reason"];
        let rows: Vec<Vec<String>> = items.iter().map(cells).collect();
        say(lined_up(&names, &rows).trim_end());
    }
    match (items.is_empty(), after) {
        (_, Some(_)) => report("there are more: more by --limit, fewer by filters"),
        (true, None) if !json => report("no entry is like that"),
        (_, None) => {}
    }
    Ok(ExitCode::SUCCESS)
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
