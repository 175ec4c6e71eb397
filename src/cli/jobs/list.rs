//! `jobs list`: the jobs that match filters, live ones by due time, then ended ones.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;

use super::show::running;
use crate::cli::ConfigFile;
use crate::cli::job_filters::{Filters, counted};
use crate::cli::output::{self, ListOptions, ListPrinter, TextTable, grouped, report};
use crate::cli::session::Session;
use crate::operations::{ListedJob, PageRequest, rfc3339_s};

/// The jobs that one query reads.
const PAGE: usize = 500;

/// Lists jobs: those that have not ended by due time, then those that have, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs list
  infinite-scheduler jobs list --app sms --state scheduled --to '2030-01-02 00:00'
  infinite-scheduler jobs list --app sms --data '/phoneNumber=\"+8801700000001\"' --json
  infinite-scheduler jobs list --app sms --state dead --error-kind refused-by-target
  infinite-scheduler jobs list --limit 100000 --jsonl > jobs.jsonl

A time without an offset is read in default_time_zone.

Exit codes: 0 listed, 1 it failed, 2 it cannot work as it was asked, 4 the database does not answer.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// List at most N jobs
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    limit: u64,
    /// Continue after the page that ended with this cursor, the `next` of its --json
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    cursor: Option<String>,
    #[command(flatten)]
    form: ListOptions,
    #[command(flatten)]
    filters: Filters,
}

pub(super) async fn run(session: &Session, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { limit, cursor, form, filters, .. } = arguments;
    let filter = filters.read(&session.config)?;
    filters.report_local_times(&session.config, &filter);
    let mut list = match form.printer() {
        Some(printer) => List::Program(printer),
        None => List::Person(TextTable::new(&NAMES)),
    };
    let jobs = session.operations.jobs();
    let (mut shown, mut looked_at) = (0, None);
    let mut next = cursor;
    loop {
        let most = usize::try_from(limit - shown).unwrap_or(PAGE).min(PAGE);
        let page = jobs.list(&filter, &PageRequest { limit: most, cursor: next }).await?;
        page.items.iter().try_for_each(|job| list.add(job))?;
        shown += page.items.len() as u64;
        looked_at = page.looked_at.map(|jobs| jobs + looked_at.unwrap_or(0)).or(looked_at);
        next = page.next;
        if next.is_none() || shown >= limit || output::is_closed() {
            break;
        }
    }
    list.end(next.as_deref())?;
    if let Some(looked_at) = looked_at {
        report(format_args!("{} jobs were read", grouped(looked_at as f64)));
    }
    if next.is_some() && !output::is_closed() {
        let count = jobs.count(&filter).await?;
        let (shown, all) = (grouped(shown as f64), counted(count));
        report(format_args!("{shown} of {all}: more by --limit, fewer by filters"));
    } else if form.printer().is_none() && shown == 0 {
        report("no job is like that");
    }
    Ok(ExitCode::SUCCESS)
}

const NAMES: [&str; 9] =
    ["id", "due", "request", "state", "ended", "app", "priority", "attempts", "last error"];

/// The list, printed job by job for a program, or gathered for a table.
enum List {
    Program(ListPrinter),
    Person(TextTable),
}

impl List {
    fn add(&mut self, job: &ListedJob) -> serde_json::Result<()> {
        match self {
            Self::Program(printer) => return printer.item(job),
            Self::Person(table) => table.row([
                job.job_id.to_string(),
                rfc3339_s(job.due_ms),
                job.request_id.clone(),
                match &job.running {
                    Some(attempt) => format!("running, {}", running(attempt)),
                    None => job.state.as_str().into(),
                },
                job.ended_ms.map_or_else(|| "-".into(), rfc3339_s),
                job.app_name.clone(),
                job.priority.to_string(),
                job.attempts.to_string(),
                output::shortened(job.last_error.as_deref().unwrap_or("-")),
            ]),
        }
        Ok(())
    }

    fn end(self, next: Option<&str>) -> serde_json::Result<()> {
        match self {
            Self::Program(printer) => printer.end(next),
            Self::Person(table) => {
                table.print();
                Ok(())
            }
        }
    }
}
