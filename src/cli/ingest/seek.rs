//! `ingest seek`: changes the offset from which a partition is read.

use std::process::ExitCode;

use crate::cli::author::Author;
use crate::cli::exit::Exit;
use crate::cli::output::{DocumentOption, document, report, say, table};
use crate::cli::session::Session;
use crate::cli::{CannotStart, ConfigFile, cannot_start};
use crate::config::Config;
use crate::model::ids::{Offset, Partition};
use crate::model::time::ScheduledTime;
use crate::operations::{Seek, SeekAnswer, SeekTo};

/// The consequence of reading records again.
const READ_AGAIN: &str = "a record that is read again is a duplicate only while its job exists or \
    its idempotency key is remembered: a request without a key whose job has ended becomes a job again";
/// The consequence of skipping records.
const SKIPPED: &str = "a skipped record becomes no job, no dead letter and no verdict";

/// Changes the offset from which partitions are read, with or without running instances
///
/// Backward, records are read again. A repeated request is recognised and counted as a duplicate
/// while its job exists or its idempotency key is remembered. A request WITHOUT a key whose job
/// has ended becomes a job again, and fires again. A dead letter keeps its row.
///
/// Forward, records are skipped: they become no job and no dead letter.
///
/// Offsets are counted: a log with gaps, after compaction or transactions, has fewer records.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler ingest seek --to-time 2030-01-01T08:00:00Z --dry-run
  infinite-scheduler ingest seek --to-beginning --topic scheduler.jobs.ingest --yes
  infinite-scheduler ingest seek --to-offset 4711 --partition 3 --yes

Exit codes: 0 changed, or shown by --dry-run; 1 --yes is missing, or it failed; 2 it cannot work as
it was asked; 3 the offset is outside of a partition's log; 4 Kafka or the database does not answer.
After a failure the partitions that were changed before it are shown.")]
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
    /// Show what would be read again or skipped, and change nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Confirm the change; without it nothing is changed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) form: DocumentOption,
    #[command(flatten)]
    author: Author,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Read on from this offset
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// Read on from the first record that is not older: 2030-01-01T08:00:00Z, or epoch milliseconds
    #[arg(long, value_name = "TIME", value_parser = time)]
    to_time: Option<ScheduledTime>,
    /// Read on from the first record that the log still has
    #[arg(long)]
    to_beginning: bool,
    /// Read on after the last record that the log has now
    #[arg(long)]
    to_end: bool,
}

pub(super) async fn run(session: &Session, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let seek = Seek {
        to: arguments.target.read(&session.config)?,
        topic: arguments.topic,
        partitions: arguments.partition.into_iter().map(Partition).collect(),
        dry_run: !arguments.yes,
    };
    let operations = session.operations_of(&arguments.author);
    let answer = operations.ingest().seek(seek).await?;
    // After a failure too: the partitions before it were changed.
    match arguments.form.json {
        true => document(&answer)?,
        false => say(text(&answer)),
    }
    if let Some(failure) = answer.failure {
        return Err(failure.into());
    }
    if answer.is_noop() {
        report("every partition is at that offset already: nothing to move");
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
    Ok(Exit::Incomplete.into())
}

impl Target {
    fn read(&self, config: &Config) -> Result<SeekTo, CannotStart> {
        if let Some(offset) = self.to_offset {
            return Ok(SeekTo::Offset(Offset(offset)));
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
            let numbers =
                [i64::from(one.partition.0), one.from.0, one.to.0, one.read_again, one.skipped];
            let numbers = numbers.into_iter().map(|number| number.to_string());
            let moved = if one.moved { "yes" } else { "no" };
            [one.topic.clone()].into_iter().chain(numbers).chain([moved.to_owned()]).collect()
        })
        .collect();
    let names = ["topic", "partition", "from", "to", "read again", "skipped", "moved"];
    table(&names, &rows).trim_end().to_owned()
}

/// Prints the consequences of the change.
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
