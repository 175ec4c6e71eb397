//! `ingest seek`: moves where reading goes on.

use std::process::ExitCode;

use crate::cli::author::Author;
use crate::cli::output::{report, say, table};
use crate::cli::session::{Session, failed};
use crate::cli::{CannotStart, ConfigFile, cannot_start};
use crate::config::Config;
use crate::model::time::ScheduledTime;
use crate::operations::{Seek, SeekAnswer, SeekTo};

/// What a person must know before records are read again.
const READ_AGAIN: &str = "what is read again is a duplicate only while its job lives or its \
    idempotency key is remembered: a request without a key whose job has ended becomes a job again";
/// And before records are skipped.
const SKIPPED: &str = "what is skipped becomes nothing: no job, no dead letter, no verdict";

/// Moves where reading goes on, alongside running instances or without any
///
/// Backward, records are read again. A repeat is recognised, and counted as a duplicate, while
/// the job of its request lives or its idempotency key is remembered. A request WITHOUT a
/// key whose job has ended becomes a job again, and fires again. A dead letter keeps its row.
///
/// Forward, records are skipped for good: they become nothing at all.
///
/// The counts are of offsets: a log with gaps, by compaction or transactions, has fewer records.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler ingest seek --to-time 2030-01-01T08:00:00Z --dry-run
  infinite-scheduler ingest seek --to-beginning --topic scheduler.jobs.ingest --yes
  infinite-scheduler ingest seek --to-offset 4711 --partition 3 --yes

Exit codes: 0 moved, or shown by --dry-run; 1 not all was moved (an offset outside of the log, --yes
was missing, or it failed: what was moved is shown); 2 it cannot work as it was asked.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    #[command(flatten)]
    target: Target,
    /// Only this topic; without it all topics of the configuration
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition; may be given several times
    #[arg(long, value_name = "NUMBER")]
    partition: Vec<i32>,
    /// Show what would be read again or skipped, and move nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Yes, move; without it nothing is moved
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    author: Author,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Go on with this record
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// Go on with the first record that is not older: 2030-01-01T08:00:00Z, or epoch milliseconds
    #[arg(long, value_name = "TIME", value_parser = time)]
    to_time: Option<ScheduledTime>,
    /// Go on with the first record that the log still has
    #[arg(long)]
    to_beginning: bool,
    /// Go on behind the last record that is there now
    #[arg(long)]
    to_end: bool,
}

pub(super) async fn run(session: &Session, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let seek = Seek {
        to: arguments.target.read(&session.config)?,
        topic: arguments.topic,
        partitions: arguments.partition,
        dry_run: !arguments.yes,
    };
    let operations = session.operations_of(&arguments.author);
    let answer = operations.ingest().seek(seek).await.map_err(failed)?;
    // Also after a failure: the partitions before it have been moved.
    match arguments.json {
        true => say(serde_json::to_string_pretty(&answer)?),
        false => say(text(&answer)),
    }
    if let Some(failure) = answer.failure {
        return Err(failed(failure));
    }
    if answer.is_none() {
        report("every partition is there already: nothing to move");
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.yes {
        return Ok(ExitCode::SUCCESS);
    }
    warn(&answer);
    if arguments.dry_run {
        report("nothing was moved: this was a dry run");
        return Ok(ExitCode::SUCCESS);
    }
    report("nothing was moved: add --yes if that is what you want");
    Ok(ExitCode::FAILURE)
}

impl Target {
    fn read(&self, config: &Config) -> Result<SeekTo, CannotStart> {
        if let Some(offset) = self.to_offset {
            return Ok(SeekTo::Offset(offset));
        }
        let Some(time) = self.to_time else {
            return Ok(if self.to_beginning { SeekTo::Beginning } else { SeekTo::End });
        };
        match time.resolve_ms(&config.default_time_zone) {
            Some(ms) => Ok(SeekTo::Time(ms)),
            None => Err(cannot_start(format!("--to-time {time} is outside the years 0 to 9999"))),
        }
    }
}

fn text(answer: &SeekAnswer) -> String {
    let rows: Vec<Vec<String>> = answer
        .partitions
        .iter()
        .map(|one| {
            let numbers = [i64::from(one.partition), one.from, one.to, one.read_again, one.skipped];
            let numbers = numbers.into_iter().map(|number| number.to_string());
            let moved = if one.moved { "yes" } else { "no" };
            [one.topic.clone()].into_iter().chain(numbers).chain([moved.to_owned()]).collect()
        })
        .collect();
    let names = ["topic", "partition", "from", "to", "read again", "skipped", "moved"];
    table(&names, &rows).trim_end().to_owned()
}

/// What a move of these would mean.
fn warn(answer: &SeekAnswer) {
    let read_again: i64 = answer.partitions.iter().map(|one| one.read_again).sum();
    let skipped: i64 = answer.partitions.iter().map(|one| one.skipped).sum();
    if read_again > 0 {
        report(format_args!("{read_again} records would be read again: {READ_AGAIN}"));
    }
    if skipped > 0 {
        report(format_args!("{skipped} records would be skipped for good: {SKIPPED}"));
    }
}

fn time(text: &str) -> Result<ScheduledTime, String> {
    match text.parse().ok().and_then(ScheduledTime::from_epoch_ms) {
        Some(instant) => Ok(instant),
        None => text.parse::<ScheduledTime>().map_err(|error| error.to_string()),
    }
}
