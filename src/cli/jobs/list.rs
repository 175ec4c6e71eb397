//! `jobs list`: the jobs that match filters, by due time.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;

use crate::cli::output::{self, ListOptions, ListPrinter, TextTable, grouped, report};
use crate::cli::session::Session;
use crate::cli::{CannotStart, ConfigFile, cannot_start};
use crate::config::Config;
use crate::model::time::ScheduledTime;
use crate::operations::{
    DataCondition, JobCount, JobFilter, ListedJob, PageRequest, rfc3339_ms, rfc3339_s,
};

/// The jobs that one query reads.
const PAGE: usize = 500;

/// Lists jobs that have not ended, in the order in which they are due
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs list
  infinite-scheduler jobs list --app sms --state scheduled --to '2030-01-02 00:00'
  infinite-scheduler jobs list --app sms --data '/phoneNumber=\"+8801700000001\"' --json
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

/// What the listed jobs have in common.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which jobs")]
struct Filters {
    /// Jobs of this app
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Jobs in this state: scheduled or due
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Jobs that are due at this time or later: 2030-01-01T08:00:00Z, or a local time
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Jobs that are due before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Jobs of this priority: high, normal or low
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<String>,
    /// The job that this idempotency key refers to
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Jobs whose record is in this partition, as in scheduler.jobs.ingest/3
    #[arg(long, value_name = "TOPIC/N")]
    partition: Option<String>,
    /// Jobs whose data has this value at this JSON pointer, as in '/country="BD"' or '/order/id=7';
    /// may be given several times
    #[arg(long, value_name = "POINTER=JSON")]
    data: Vec<String>,
}

impl Filters {
    fn read(&self, config: &Config) -> Result<JobFilter, CannotStart> {
        let Self { app, state, from, to, priority, key, partition, data } = self;
        let values = [app, state, from, to, priority, key, partition];
        let pairs = JobFilter::NAMES.into_iter().zip(values);
        let pairs = pairs.filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let read = JobFilter::from_pairs(pairs, Some(&config.default_time_zone));
        let mut filter = read.map_err(|error| cannot_start(format!("--{error}")))?;
        for condition in data {
            let (pointer, equals) = condition.split_once('=').ok_or_else(|| {
                cannot_start(format!(
                    "--data is {condition:?}: give POINTER=JSON, as in /order/id=7"
                ))
            })?;
            let read = DataCondition::new(pointer, equals);
            filter.data.push(read.map_err(|error| cannot_start(format!("--{error}")))?);
        }
        Ok(filter)
    }

    /// Says which instants were meant by times without an offset.
    fn report_local_times(&self, config: &Config, filter: &JobFilter) {
        let times = [("from", &self.from, filter.from_ms), ("to", &self.to, filter.to_ms)];
        for (name, text, ms) in times {
            let (Some(text), Some(ms)) = (text, ms) else { continue };
            if let Ok(ScheduledTime::Local(local)) = text.parse() {
                let zone = config.default_time_zone.iana_name().unwrap_or("default_time_zone");
                report(format_args!("--{name} {local:?}, read in {zone}, is {}", rfc3339_ms(ms)));
            }
        }
    }
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

fn counted(JobCount { jobs, has_more }: JobCount) -> String {
    let number = grouped(jobs as f64);
    match (has_more, jobs) {
        (true, _) => format!("more than {number} jobs"),
        (false, 1) => "1 job".into(),
        (false, _) => format!("{number} jobs"),
    }
}

const NAMES: [&str; 8] =
    ["id", "due", "request", "state", "app", "priority", "attempts", "last error"];

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
                job.state.as_str().into(),
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
