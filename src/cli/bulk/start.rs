//! `bulk cancel`, `bulk reschedule`, `bulk run` and `bulk edit`.

use std::num::NonZeroU32;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use tracing_subscriber::filter::LevelFilter;

use super::sentence;
use crate::cli::author::Author;
use crate::cli::exit::Exit;
use crate::cli::jobs::{Filters, counted, time};
use crate::cli::output::{DocumentOption, document, on_one_line, report, say};
use crate::cli::session::Session;
use crate::cli::{ConfigFile, cannot_start};
use crate::model::time::ScheduledTime;
use crate::operations::{BulkAction, BulkPreview, BulkRequest, JobPatch, rfc3339_s};

/// Cancels every job that the filters select: no further attempt at it starts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bulk cancel --app sms --dry-run
  infinite-scheduler bulk cancel --app sms --reason 'a producer ran wild' --yes

Exit codes: 0 it was begun, or this was a dry run; 1 it failed, or --yes is missing; 2 it cannot work
as it was asked; 3 it is refused; 4 the database does not answer.")]
pub(super) struct Cancel {
    #[command(flatten)]
    common: Common,
}

/// Gives every job that the filters select another time, or moves it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bulk reschedule --app sms --shift-ms 3600000 --rate 500 --yes
  infinite-scheduler bulk reschedule --app sms --state due --time 2030-01-01T08:00:00Z --yes

Exit codes: 0 it was begun, or this was a dry run; 1 it failed, or --yes is missing; 2 it cannot work
as it was asked; 3 it is refused; 4 the database does not answer.")]
pub(super) struct Reschedule {
    #[command(flatten)]
    common: Common,
    /// When each is to fire; a time without an offset is read in the zone of the instance
    #[arg(long, value_name = "TIME", value_parser = time, required_unless_present = "shift_ms")]
    time: Option<ScheduledTime>,
    /// How much later each is to fire; a negative number is earlier
    #[arg(long, value_name = "MS", allow_negative_numbers = true, conflicts_with = "time")]
    shift_ms: Option<i64>,
}

/// Starts every job that the filters select now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bulk run --app sms --to 2030-01-01T08:00:00Z --rate 100 --yes

Exit codes: 0 it was begun, or this was a dry run; 1 it failed, or --yes is missing; 2 it cannot work
as it was asked; 3 it is refused; 4 the database does not answer.")]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
}

/// Changes fields of every job that the filters select
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bulk edit --app sms --set '{\"priority\":\"low\",\"maxAttempts\":null}' --yes

Exit codes: 0 it was begun, or this was a dry run; 1 it failed, or --yes is missing; 2 it cannot work
as it was asked; 3 it is refused; 4 the database does not answer.")]
pub(super) struct Edit {
    #[command(flatten)]
    common: Common,
    /// The fields, as of PATCH /api/jobs/{id}; null is the default again
    #[arg(long, value_name = "JSON")]
    set: String,
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    filters: Filters,
    /// Every job is meant
    #[arg(long)]
    all: bool,
    /// Change at most so many jobs per second, over all instances
    #[arg(long, value_name = "JOBS")]
    rate: Option<NonZeroU32>,
    /// The same key within a day stands for the bulk action that it began first
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    idempotency_key: Option<String>,
    /// Only show how many jobs match, and some of them
    #[arg(long)]
    dry_run: bool,
    /// Begin without a question
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    form: DocumentOption,
    #[command(flatten)]
    author: Author,
}

pub(super) async fn cancel(arguments: Cancel) -> anyhow::Result<ExitCode> {
    start(arguments.common, BulkAction::Cancel).await
}

pub(super) async fn reschedule(arguments: Reschedule) -> anyhow::Result<ExitCode> {
    let action = match (arguments.time, arguments.shift_ms) {
        (Some(time), _) => BulkAction::Reschedule(time),
        (None, ms) => BulkAction::Shift(ms.unwrap_or_default()),
    };
    start(arguments.common, action).await
}

pub(super) async fn run(arguments: Run) -> anyhow::Result<ExitCode> {
    start(arguments.common, BulkAction::Run).await
}

pub(super) async fn edit(arguments: Edit) -> anyhow::Result<ExitCode> {
    let patch = JobPatch::from_json(&arguments.set);
    let patch = patch.map_err(|refusal| cannot_start(format!("--set: {}", refusal.message)))?;
    start(arguments.common, BulkAction::Edit(Box::new(patch))).await
}

async fn start(arguments: Common, action: BulkAction) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let done = start_in(&session, arguments, action).await;
    session.close().await;
    done
}

async fn start_in(
    session: &Session,
    arguments: Common,
    action: BulkAction,
) -> anyhow::Result<ExitCode> {
    let Common { filters, all, rate, idempotency_key, dry_run, yes, form, author, .. } = arguments;
    let filter = filters.read(&session.config)?;
    filters.report_local_times(&session.config, &filter);
    if filter.is_empty() && !all {
        let why = "every job would be meant: say which ones by filters, or give --all";
        return Err(cannot_start(why).into());
    }
    let request =
        BulkRequest::new(action, filter).all(all).rate(rate).idempotency_key(idempotency_key);
    let operations = session.operations_of(&author);
    if dry_run || !yes {
        show(&operations.bulk().preview(&request).await?);
        if dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        report("nothing was changed: give --yes to begin");
        return Ok(Exit::Incomplete.into());
    }
    let started = operations.bulk().start(request).await?;
    match form.json {
        true => document(&started)?,
        false => say(on_one_line(&sentence(&started.bulk))),
    }
    if started.waits_for_instance {
        report("no instance is alive: it begins when one starts");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(preview: &BulkPreview) {
    let verb = if preview.matching.jobs == 1 { "matches" } else { "match" };
    say(format_args!("{} {verb}", counted(preview.matching)));
    for job in &preview.samples {
        let (id, app) = (job.job_id, &job.app_name);
        say(on_one_line(&format!("{id} {} {app} {}", rfc3339_s(job.due_ms), job.request_id)));
    }
}
