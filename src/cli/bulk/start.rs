//! `bulk cancel`, `reschedule`, `run`, `edit`, `replay` and `discard`.

use std::num::NonZeroU32;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use tokio::time::sleep;
use tracing_subscriber::filter::LevelFilter;

use super::sentence;
use crate::cli::author::Author;
use crate::cli::exit::Exit;
use crate::cli::job_filters::{Filters, counted, time};
use crate::cli::output::{DocumentOption, document, on_one_line, report, say};
use crate::cli::session::Session;
use crate::cli::signals::Signals;
use crate::cli::{ConfigFile, cannot_start};
use crate::model::time::ScheduledTime;
use crate::operations::{
    BulkAction, BulkItem, BulkPreview, BulkRequest, BulkSamples, BulkStarted, JobCount, JobPatch,
    LetterSummary, ListedJob, Operations, rfc3339_s,
};

/// The text behind the options of an action: its examples and what all of them have in common.
macro_rules! help {
    ($examples:literal) => {
        concat!(
            $examples,
            "
Exit codes: 0 it was begun or is done, or this was a dry run; 1 some could not be changed, or --yes is
missing; 2 it cannot work as it was asked; 3 it is refused; 4 the database does not answer; 130 it was
stopped by Ctrl-C."
        )
    };
}

/// The pause between two reports of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// Cancels every job that the filters select: no further attempt at it starts
#[derive(Debug, clap::Args)]
#[command(after_help = help!("\
Examples:
  infinite-scheduler bulk cancel --app sms --dry-run
  infinite-scheduler bulk cancel --app sms --reason 'a producer ran wild' --yes
"))]
pub(super) struct Cancel {
    #[command(flatten)]
    common: Common,
}

/// Gives every job that the filters select another time, or moves it
#[derive(Debug, clap::Args)]
#[command(after_help = help!("\
Examples:
  infinite-scheduler bulk reschedule --app sms --shift-ms 3600000 --rate 500 --yes
  infinite-scheduler bulk reschedule --app sms --state due --time 2030-01-01T08:00:00Z --yes
"))]
pub(super) struct Reschedule {
    #[command(flatten)]
    common: Common,
    /// When each is to fire; a time without an offset is read in the configured zone
    #[arg(long, value_name = "TIME", value_parser = time, required_unless_present = "shift_ms")]
    time: Option<ScheduledTime>,
    /// How much later each is to fire; a negative number is earlier
    #[arg(long, value_name = "MS", allow_negative_numbers = true, conflicts_with = "time")]
    shift_ms: Option<i64>,
}

/// Starts every job that the filters select now
#[derive(Debug, clap::Args)]
#[command(after_help = help!("\
Examples:
  infinite-scheduler bulk run --app sms --to 2030-01-01T08:00:00Z --rate 100 --yes
"))]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
}

/// Changes fields of every job that the filters select
#[derive(Debug, clap::Args)]
#[command(after_help = help!("\
Examples:
  infinite-scheduler bulk edit --app sms --set '{\"priority\":\"low\",\"maxAttempts\":null}' --yes
"))]
pub(super) struct Edit {
    #[command(flatten)]
    common: Common,
    /// The fields, as of PATCH /api/jobs/{id}; null is the default again
    #[arg(long, value_name = "JSON")]
    set: String,
}

/// Admits the request of every dead letter that the filters select again, or its correction
#[derive(Debug, clap::Args)]
#[command(after_help = help!("\
Examples:
  infinite-scheduler bulk replay --app sms --error-kind refused-by-target --rate 100 --yes
  infinite-scheduler bulk replay --partition scheduler.jobs.ingest/3 --from 2030-01-01T08:00:00Z --dry-run

Letters that become dead while it runs are not replayed by it. Filters: --app, --error-kind,
--partition, and --from and --to of the time of death.
"))]
pub(super) struct Replay {
    #[command(flatten)]
    common: Common,
}

/// Marks every dead letter that the filters select as needing no action
#[derive(Debug, clap::Args)]
#[command(after_help = help!("\
Examples:
  infinite-scheduler bulk discard --app sms --error-kind invalid-json --yes

Filters: --app, --error-kind, --partition, and --from and --to of the time of death.
"))]
pub(super) struct Discard {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    many: Many,
    #[command(flatten)]
    form: DocumentOption,
    #[command(flatten)]
    author: Author,
}

/// How many are treated at once.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Many {
    /// Every job or dead letter is meant
    #[arg(long)]
    all: bool,
    /// Change at most so many per second, over all instances
    #[arg(long, value_name = "JOBS")]
    rate: Option<NonZeroU32>,
    /// The same key within a day stands for the bulk action that it began first
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    idempotency_key: Option<String>,
    /// Only show how many match, and some of them
    #[arg(long)]
    dry_run: bool,
    /// Begin without a question
    #[arg(long)]
    yes: bool,
}

impl Many {
    /// Whether one of the options is given.
    pub(in crate::cli) fn is_given(&self) -> bool {
        let Self { all, rate, idempotency_key, dry_run, yes } = self;
        *all || *dry_run || *yes || rate.is_some() || idempotency_key.is_some()
    }
}

/// `jobs cancel` of more than one job.
pub(in crate::cli) async fn cancel_jobs(
    config: ConfigFile,
    filters: Filters,
    many: Many,
    form: DocumentOption,
    author: Author,
) -> anyhow::Result<ExitCode> {
    start(Common { config, filters, many, form, author }, BulkAction::Cancel).await
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

pub(super) async fn replay(arguments: Replay) -> anyhow::Result<ExitCode> {
    start(arguments.common, BulkAction::Replay).await
}

pub(super) async fn discard(arguments: Discard) -> anyhow::Result<ExitCode> {
    start(arguments.common, BulkAction::Discard).await
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
    let Common { filters, many, form, author, .. } = arguments;
    let Many { all, rate, idempotency_key, dry_run, yes } = many;
    let filter = filters.read(&session.config)?;
    filters.report_local_times(&session.config, &filter);
    if filter.is_empty() && !all {
        let what = match action {
            BulkAction::Replay | BulkAction::Discard => "dead letter",
            _ => "job",
        };
        let why = format!("every {what} would be meant: say which ones by filters, or give --all");
        return Err(cannot_start(why).into());
    }
    let request =
        BulkRequest::new(action, filter).all(all).rate(rate).idempotency_key(idempotency_key);
    let operations = session.operations_of(&author);
    if dry_run || !yes {
        let preview = operations.bulk().preview(&request).await?;
        match form.json {
            true => document(&preview)?,
            false => show(&preview),
        }
        if dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        report("nothing was changed: give --yes to begin");
        return Ok(Exit::Incomplete.into());
    }
    let started = operations.bulk().start(request).await?;
    if started.waits_for_instance {
        return carry_out(&operations, started.bulk, form).await;
    }
    match form.json {
        true => document(&started)?,
        false => say(on_one_line(&sentence(&started.bulk))),
    }
    Ok(ExitCode::SUCCESS)
}

/// No instance is alive: the command carries the action out, until it has ended or an instance has
/// taken it over. Ctrl-C stops it.
async fn carry_out(
    operations: &Operations,
    bulk: BulkItem,
    form: DocumentOption,
) -> anyhow::Result<ExitCode> {
    let id = bulk.id;
    report(format_args!("no instance is alive: bulk {id} is carried out here"));
    let (bulks, mut signals) = (operations.bulk(), Signals::listen()?);
    let mut running = pin!(bulks.carry_out(id));
    let mut asked = None;
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended?,
            ask = signals.next(), if asked.is_none() => {
                bulks.stop(id).await?;
                asked = Some(ask);
            }
            () = sleep(PROGRESS) => report(on_one_line(&sentence(&bulks.show(id).await?))),
        }
    };
    match form.json {
        true => document(&BulkStarted::of(ended.clone()))?,
        false => say(on_one_line(&sentence(&ended))),
    }
    Ok(match asked {
        Some(ask) => ask.exit_code(),
        None if ended.failed > 0 => Exit::Incomplete.into(),
        None => ExitCode::SUCCESS,
    })
}

fn show(preview: &BulkPreview) {
    let BulkPreview { matched: jobs, has_more, .. } = *preview;
    let verb = if jobs == 1 { "matches" } else { "match" };
    let count = counted(JobCount { jobs, has_more });
    let lines: Vec<String> = match &preview.samples {
        BulkSamples::Jobs(samples) => {
            say(format_args!("{count} {verb}"));
            let line = |job: &ListedJob| {
                let (id, due, app) = (job.job_id, rfc3339_s(job.due_ms), &job.app_name);
                format!("{id} {due} {app} {}", job.request_id)
            };
            samples.iter().map(line).collect()
        }
        BulkSamples::Letters(samples) => {
            say(format_args!("{} {verb}", count.replace("job", "dead letter")));
            let line = |letter: &LetterSummary| {
                let app = letter.app.as_deref().unwrap_or("-");
                let created = rfc3339_s(letter.created_ms);
                format!("{} {created} {} {app} {}", letter.id, letter.kind, letter.message)
            };
            samples.iter().map(line).collect()
        }
    };
    for line in lines {
        say(on_one_line(&line));
    }
}
