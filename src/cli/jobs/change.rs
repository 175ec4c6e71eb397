//! `jobs cancel`, `jobs reschedule`, `jobs run` and `jobs edit`.

use std::num::{NonZeroU32, NonZeroU64};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::value::RawValue;
use tracing_subscriber::filter::LevelFilter;

use super::Which;
use super::answer::{code, sentence};
use crate::cli::author::Author;
use crate::cli::bulk;
use crate::cli::job_filters::{Filters, OtherFilters, time};
use crate::cli::output::{DocumentOption, document, on_one_line, say};
use crate::cli::session::Session;
use crate::cli::{ConfigFile, cannot_start};
use crate::model::job::{JobData, Priority};
use crate::model::time::ScheduledTime;
use crate::operations::{JobOperation, JobPatch, Setting};

/// Cancels a job, or every job that filters select: no further attempt at it starts
///
/// An attempt that runs goes on, and may be the good one; --stop asks it to stop. A job that was
/// cancelled before is answered in the same way. Without an id, --request or --key every job of the
/// app and the filters is meant, as by `bulk cancel`: they are counted first, and cancelled with --yes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs cancel 0d6f8e0c-8d2a-8c3f-9a51-4b2b8a5d7e11 --reason 'ordered twice'
  infinite-scheduler jobs cancel --app sms --request 9f1c --json
  infinite-scheduler jobs cancel --app sms --state due --dry-run
  infinite-scheduler jobs cancel --app sms --yes

Exit codes: 0 it is cancelled, or runs for the last time; 1 it failed, some could not be cancelled, or
--yes is missing; 2 it cannot work as it was asked; 3 it has fired already, or is unknown; 4 not
answered yet.")]
pub(super) struct Cancel {
    #[command(flatten)]
    common: Common,
    /// Also ask a running attempt to stop
    #[arg(long)]
    stop: bool,
    #[command(flatten)]
    filters: OtherFilters,
    #[command(flatten)]
    many: bulk::Many,
}

/// Gives a job another time; one in the past means now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs reschedule --app sms --request 9f1c --to 2030-01-01T08:00:00Z

Exit codes: 0 it has that time; 1 it failed; 2 it cannot work as it was asked; 3 it has fired already,
runs, is cancelled or unknown, or the time is refused; 4 not answered yet.")]
pub(super) struct Reschedule {
    #[command(flatten)]
    common: Common,
    /// When it is to fire; a time without an offset is read in the configured zone
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: ScheduledTime,
}

/// Starts a job now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs run --app sms --key order-7

Exit codes: 0 it is due now; 1 it failed; 2 it cannot work as it was asked; 3 it has fired already,
runs, has expired, is cancelled or unknown; 4 not answered yet.")]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
}

/// Changes fields of a job
///
/// Of --expires, --flexible-window-ms, --max-attempts and --timeout-ms the value `default` removes
/// what the job has of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs edit --app sms --request 9f1c --data '{\"phoneNumber\":\"+100\",\"message\":\"hi\"}'
  infinite-scheduler jobs edit --app sms --request 9f1c --priority high --max-attempts default

Exit codes: 0 it has those values; 1 it failed; 2 it cannot work as it was asked; 3 it has fired
already, runs, is cancelled or unknown, or a value is refused; 4 not answered yet.")]
pub(super) struct Edit {
    #[command(flatten)]
    common: Common,
    /// The whole of its jobData, a JSON object
    #[arg(long, value_name = "JSON", value_parser = data)]
    data: Option<JobData>,
    /// high, normal or low
    #[arg(long, value_name = "PRIORITY", value_parser = priority)]
    priority: Option<Priority>,
    /// After which it is not fired
    #[arg(long, value_name = "TIME", value_parser = setting_of(time))]
    expires: Option<Setting<ScheduledTime>>,
    /// How long after its time it may fire
    #[arg(long, value_name = "MS", value_parser = number::<u64>)]
    flexible_window_ms: Option<Setting<u64>>,
    /// How often it is tried
    #[arg(long, value_name = "COUNT", value_parser = number::<NonZeroU32>)]
    max_attempts: Option<Setting<NonZeroU32>>,
    /// How long one attempt may take
    #[arg(long, value_name = "MS", value_parser = number::<NonZeroU64>)]
    timeout_ms: Option<Setting<NonZeroU64>>,
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    which: Which,
    /// Only if the job still has this etag, as `jobs show` prints it
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    /// How long to wait for the answer of the instance that has the job
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    wait: u64,
    /// Without an answer in time, change nothing later
    #[arg(long)]
    withdraw: bool,
    #[command(flatten)]
    form: DocumentOption,
    #[command(flatten)]
    author: Author,
}

pub(super) async fn cancel(arguments: Cancel) -> anyhow::Result<ExitCode> {
    let Cancel { common, stop, filters, many } = arguments;
    let Which { id, app, request, key } = &common.which;
    if id.is_none() && request.is_none() && (key.is_none() || filters.is_given() || many.is_given())
    {
        if stop || common.if_match.is_some() || common.withdraw {
            let why = "--stop, --if-match and --withdraw are for one job: name it by its id, or by \
                       --app with --request or --key";
            return Err(cannot_start(why).into());
        }
        let filters = Filters { app: app.clone(), key: key.clone(), others: filters };
        return bulk::cancel_jobs(common.config, filters, many, common.form, common.author).await;
    }
    if filters.is_given() || many.is_given() {
        let why = "one job is named, and filters or --all besides: leave out either";
        return Err(cannot_start(why).into());
    }
    let operation = JobOperation::cancel(common.which.name()?);
    let operation = if stop { operation.stop_running() } else { operation };
    carry_out(common, operation).await
}

pub(super) async fn reschedule(arguments: Reschedule) -> anyhow::Result<ExitCode> {
    let operation = JobOperation::reschedule(arguments.common.which.name()?, arguments.to);
    carry_out(arguments.common, operation).await
}

pub(super) async fn run(arguments: Run) -> anyhow::Result<ExitCode> {
    let operation = JobOperation::run(arguments.common.which.name()?);
    carry_out(arguments.common, operation).await
}

pub(super) async fn edit(arguments: Edit) -> anyhow::Result<ExitCode> {
    let patch = JobPatch {
        job_data: arguments.data,
        priority: arguments.priority,
        expires_time: arguments.expires.unwrap_or_default(),
        flexible_window_ms: arguments.flexible_window_ms.unwrap_or_default(),
        max_attempts: arguments.max_attempts.unwrap_or_default(),
        timeout_ms: arguments.timeout_ms.unwrap_or_default(),
        ..JobPatch::default()
    };
    if patch.is_empty() {
        return Err(cannot_start("nothing is to be changed: name at least one field").into());
    }
    let operation = JobOperation::edit(arguments.common.which.name()?, patch);
    carry_out(arguments.common, operation).await
}

async fn carry_out(arguments: Common, operation: JobOperation) -> anyhow::Result<ExitCode> {
    let operation = operation.wait(Duration::from_secs(arguments.wait));
    let operation = if arguments.withdraw { operation.or_withdraw() } else { operation };
    let operation = match arguments.if_match {
        Some(etag) => operation.if_match(etag),
        None => operation,
    };
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let operations = session.operations_of(&arguments.author);
    let answer = operations.jobs().carry_out(operation).await;
    session.close().await;
    let answer = answer?;
    match arguments.form.json {
        true => document(&answer)?,
        false => say(on_one_line(&sentence(&answer))),
    }
    Ok(code(&answer))
}

fn data(text: &str) -> Result<JobData, String> {
    let raw = RawValue::from_string(text.to_owned());
    raw.map(JobData::from).map_err(|error| format!("is not JSON: {error}"))
}

fn priority(text: &str) -> Result<Priority, String> {
    text.parse().map_err(|()| "is none of high, normal and low".to_owned())
}

fn setting_of<T>(
    read: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Setting<T>, String> + Clone + Send + Sync + 'static
where
    T: 'static,
{
    move |text| match text {
        "default" => Ok(Setting::Default),
        text => read(text).map(Setting::To),
    }
}

fn number<T>(text: &str) -> Result<Setting<T>, String>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match text {
        "default" => Ok(Setting::Default),
        text => text.parse().map(Setting::To).map_err(|error: T::Err| error.to_string()),
    }
}
