//! `submit`: sends requests through Kafka, or with `--direct` into the database.

mod flags;
mod input;

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use futures::future::join_all;
use tracing_subscriber::filter::LevelFilter;

use self::flags::Flags;
pub(super) use self::flags::delay;
use self::input::{Input, Line};
use super::jobs::sentence;
use super::output::{on_one_line, report, say};
use super::{CannotStart, ConfigFile, cannot_start, load};
use crate::config::Config;
use crate::operations::{
    Error as OperationError, JobAnswer, Operations, OperationsOptions, Publisher, Submitted,
};
use crate::telemetry;

/// The pause between two reports of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// Sends requests for jobs, through Kafka or straight into the database
///
/// Reads one request (a JSON object) or JSON lines from FILE or standard input, or builds one
/// request from options. Each line is checked first; a line that is refused does not keep others
/// from being sent. Through Kafka, only the scheduler can detect duplicates and unknown apps.
#[derive(Debug, clap::Args)]
#[command(after_help = r#"Examples:
  infinite-scheduler submit --app sms --in 5s --data '{"phoneNumber":"+491","message":"hi"}'
  infinite-scheduler submit requests.jsonl
  echo '{"appName":"sms","scheduledTime":"2030-01-01T08:00:00Z"}' | infinite-scheduler submit --direct -

Exit codes: 0 all accepted, 1 a request was refused or not sent, 2 it cannot work as it was asked, 4
the database does not answer (--direct)."#)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Write the requests into the database, without Kafka
    #[arg(long)]
    direct: bool,
    /// Print only the requests that were refused, and the summary
    #[arg(long, short)]
    quiet: bool,
    /// The file with the requests; - for standard input
    #[arg(value_name = "FILE", conflicts_with = "app")]
    file: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// How requests are sent.
enum Way {
    Kafka(Publisher),
    Direct(Operations),
}

/// The result for one line.
#[derive(Debug)]
enum Verdict {
    /// The broker acknowledged it.
    Sent,
    Accepted {
        job: String,
        request_id: String,
    },
    Duplicate {
        job: String,
        of: String,
        cancelled: bool,
    },
    /// What is true of the job that an operation named.
    Operated(JobAnswer),
    Refused(String),
    /// It was not sent because of an outage: it may be sent again.
    Failed(String),
}

#[derive(Debug, Default)]
struct Tally {
    sent: usize,
    accepted: usize,
    duplicate: usize,
    operations: usize,
    refused: usize,
    failed: usize,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = load(arguments.config.config.as_deref())?;
    telemetry::init(config.log.format, LevelFilter::WARN).map_err(cannot_start)?;
    let mut input = open_input(&arguments)?;
    let way = Way::open(&config, arguments.direct).await?;
    let began = Instant::now();
    let mut reported = began;
    let mut tally = Tally::default();
    loop {
        let wave = input.next_wave(way.at_once()).map_err(unreadable)?;
        if wave.is_empty() {
            break;
        }
        let numbers: Vec<usize> = wave.iter().map(|line| line.number).collect();
        let verdicts = join_all(wave.into_iter().map(|line| way.send(line))).await;
        let last = numbers.last().copied().unwrap_or_default();
        for (number, verdict) in numbers.into_iter().zip(&verdicts) {
            tally.add(verdict);
            if !arguments.quiet || verdict.is_bad() {
                say(format_args!("line {number}: {}", on_one_line(&verdict.to_string())));
            }
        }
        if tally.failed > 0 {
            // The lines were sent concurrently: some after the first failure were accepted.
            report(format_args!(
                "stopped after line {last}: send the lines that failed, and all after line {last}, \
                 again; a request without a requestId or idempotencyKey may become a second job",
            ));
            break;
        }
        if reported.elapsed() > PROGRESS {
            reported = Instant::now();
            report(format_args!("{} so far", tally.lines()));
        }
    }
    way.close().await;
    say(format_args!("{tally} in {:.1} s", began.elapsed().as_secs_f64()));
    let all_taken = tally.refused + tally.failed == 0;
    Ok(if all_taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open_input(arguments: &Arguments) -> anyhow::Result<Input> {
    if let Some(request) = arguments.flags.request().map_err(cannot_start)? {
        return Ok(Input::of_one(request));
    }
    let source: Box<dyn Read> = match arguments.file.as_deref() {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path);
            Box::new(file.map_err(|e| CannotStart(format!("cannot read {}: {e}", path.display())))?)
        }
        None if io::stdin().is_terminal() => {
            let way_out = "name a FILE, - for standard input, or --app with --at or --in";
            bail!(CannotStart(format!("there is nothing to submit: {way_out}")));
        }
        _ => Box::new(io::stdin()),
    };
    Ok(Input::new(BufReader::new(source)))
}

/// Input that can never be read is a mistake of the command line, not a failure.
fn unreadable(error: io::Error) -> anyhow::Error {
    const WHAT: &str = "the input cannot be read";
    match error.kind() {
        io::ErrorKind::InvalidData => CannotStart(format!("{WHAT}: {error}")).into(),
        _ => anyhow::Error::from(error).context(WHAT),
    }
}

impl Way {
    async fn open(config: &Config, direct: bool) -> anyhow::Result<Self> {
        if direct {
            let options = OperationsOptions::from(config).migrate_first();
            return Ok(Self::Direct(Operations::connect(options).await?));
        }
        let Some(kafka) = &config.kafka else {
            bail!(CannotStart("the configuration has no [kafka]: add it, or give --direct".into()));
        };
        Ok(Self::Kafka(Publisher::start(kafka)?))
    }

    /// How many requests are sent concurrently.
    fn at_once(&self) -> usize {
        match self {
            Self::Kafka(_) => 2000,
            Self::Direct(_) => 64,
        }
    }

    async fn send(&self, line: Line) -> Verdict {
        let request = match line.request {
            Ok(request) => request,
            Err(refusal) => return Verdict::Refused(refusal.to_string()),
        };
        match self {
            Self::Direct(operations) => match operations.jobs().schedule(request).await {
                Ok(submitted) => submitted.into(),
                Err(OperationError::Refused(refusal)) => Verdict::Refused(refusal.to_string()),
                Err(error) => Verdict::Failed(error.to_string()),
            },
            Self::Kafka(publisher) => match publisher.publish(&request, line.value).await {
                Ok(()) => Verdict::Sent,
                Err(error @ OperationError::Unavailable(_)) => Verdict::Failed(error.to_string()),
                Err(error) => Verdict::Refused(error.to_string()),
            },
        }
    }

    async fn close(self) {
        if let Self::Direct(operations) = self {
            operations.close().await;
        }
    }
}

impl Verdict {
    fn is_bad(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Failed(_))
    }
}

impl From<Submitted> for Verdict {
    fn from(answer: Submitted) -> Self {
        match answer {
            Submitted::Accepted { job_id, request_id } => {
                Self::Accepted { job: job_id.to_string(), request_id }
            }
            Submitted::Duplicate { job_id, of, cancelled } => {
                Self::Duplicate { job: job_id.to_string(), of, cancelled }
            }
            Submitted::Operated(answer) => Self::Operated(answer),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sent => f.write_str("sent"),
            Self::Accepted { job, request_id } => {
                write!(f, "accepted, job {job}, request {request_id}")
            }
            Self::Duplicate { job, of, cancelled } => {
                let cancelled = if *cancelled { ", which was cancelled" } else { "" };
                write!(f, "duplicate of request {of}, job {job}{cancelled}")
            }
            Self::Operated(answer) => f.write_str(&sentence(answer)),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

impl Tally {
    fn add(&mut self, verdict: &Verdict) {
        *match verdict {
            Verdict::Sent => &mut self.sent,
            Verdict::Accepted { .. } => &mut self.accepted,
            Verdict::Duplicate { .. } => &mut self.duplicate,
            Verdict::Operated(_) => &mut self.operations,
            Verdict::Refused(_) => &mut self.refused,
            Verdict::Failed(_) => &mut self.failed,
        } += 1;
    }

    fn lines(&self) -> usize {
        self.sent + self.accepted + self.duplicate + self.operations + self.refused + self.failed
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, accepted, duplicate, operations, refused, failed } = *self;
        let lines = self.lines();
        write!(f, "{lines} request{}:", if lines == 1 { "" } else { "s" })?;
        let parts = [
            ("sent", sent),
            ("accepted", accepted),
            ("duplicate", duplicate),
            ("operations", operations),
            ("refused", refused),
            ("failed", failed),
        ];
        let counted = parts.into_iter().filter(|&(name, count)| count > 0 || name == "refused");
        let counted: Vec<String> =
            counted.map(|(name, count)| format!(" {count} {name}")).collect();
        f.write_str(&counted.join(","))
    }
}
