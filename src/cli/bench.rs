//! `bench`: measures this system, compared with the quickest plain statements.

mod bulk;
mod catchup;
mod fire;
mod herd;
mod http;
mod idle;
mod ingest;
mod jobs;
mod kafka;
mod lateness;
mod pending;
mod raw;
mod report;
mod scratch;
mod snapshot;
mod sql;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use self::report::Figures;
use self::scratch::Scratch;
use super::{cannot_start, output};
use crate::service::Scheduler;
use crate::telemetry::{self, LogFormat};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A measurement without progress for so long has failed.
const STALL: Duration = Duration::from_secs(60);

/// Measures this system on a database, compared with the quickest plain statements
///
/// Each measurement wants an empty database, makes the tables, and refuses a database with
/// jobs or apps in it. Without --database it makes a SQLite file in a temporary folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler bench fire
  infinite-scheduler bench ingest --kafka localhost:9092 --database postgres://user@host/scratch --drop
  infinite-scheduler bench lateness --json")]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Ingest(ingest::Arguments),
    Fire(fire::Arguments),
    Lateness(lateness::Arguments),
    Catchup(catchup::Arguments),
    Herd(herd::Arguments),
    Snapshot(snapshot::Arguments),
    Http(http::Arguments),
    Idle(idle::Arguments),
    Bulk(bulk::Arguments),
    Pending(pending::Arguments),
}

/// The options of every measurement.
#[derive(Clone, Debug, Args)]
struct Common {
    /// An empty database; given several times, one after the other
    #[arg(long, value_name = "URL")]
    database: Vec<String>,
    /// Jobs that are in the table before, due in some years, each with an idempotency key; those
    /// of an earlier measurement are used again
    #[arg(long, value_name = "N", default_value_t = 0)]
    pending: usize,
    /// Remove the tables afterwards
    #[arg(long)]
    drop: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::init(LogFormat::Text, LevelFilter::WARN).map_err(cannot_start)?;
    match arguments.what {
        What::Ingest(what) => {
            on_each(&what.common, async |s| ingest::measure(&what, s).await).await
        }
        What::Fire(what) => on_each(&what.common, async |s| fire::measure(&what, s).await).await,
        What::Lateness(what) => {
            on_each(&what.common, async |s| lateness::measure(&what, s).await).await
        }
        What::Catchup(what) => {
            on_each(&what.common, async |s| catchup::measure(&what, s).await).await
        }
        What::Herd(what) => on_each(&what.common, async |s| herd::measure(&what, s).await).await,
        What::Snapshot(what) => {
            on_each(&what.common, async |s| snapshot::measure(&what, s).await).await
        }
        What::Http(what) => on_each(&what.common, async |s| http::measure(&what, s).await).await,
        What::Idle(what) => on_each(&what.common, async |s| idle::measure(&what, s).await).await,
        What::Bulk(what) => on_each(&what.common, async |s| bulk::measure(&what, s).await).await,
        What::Pending(what) => {
            on_each(&what.common, async |s| pending::measure(&what, s).await).await
        }
    }
}

/// Measures on each database, then prints.
async fn on_each<F: Figures>(
    common: &Common,
    measure: impl AsyncFn(&Scratch) -> anyhow::Result<F>,
) -> anyhow::Result<ExitCode> {
    let urls: Vec<Option<&str>> = match &common.database[..] {
        [] => vec![None],
        urls => urls.iter().map(|url| Some(url.as_str())).collect(),
    };
    let mut measured = Vec::new();
    for url in urls {
        let scratch = Scratch::open(url).await?;
        output::report(format_args!("{}: measuring", scratch.name()));
        let figures = measure_beside(common.pending, &scratch, &measure).await;
        let name = scratch.name().to_owned();
        scratch.close(common.drop).await?;
        measured.push((name, figures?));
    }
    output::say(if common.json { report::json(&measured)? } else { report::text(&measured) });
    Ok(ExitCode::SUCCESS)
}

async fn measure_beside<F>(
    pending: usize,
    scratch: &Scratch,
    measure: &impl AsyncFn(&Scratch) -> anyhow::Result<F>,
) -> anyhow::Result<F> {
    match usize::try_from(scratch.jobs().await?)? {
        there if there == pending => {}
        0 => {
            output::report(format_args!("putting {pending} pending jobs into the table"));
            jobs::load_pending(scratch, 0..pending).await?;
        }
        there => anyhow::bail!(
            "an earlier measurement left {there} pending jobs: give --pending {there}, or an empty \
             database"
        ),
    }
    measure(scratch).await
}

/// Waits until the scheduler takes and fires jobs.
async fn await_ready(scheduler: &Scheduler) -> anyhow::Result<()> {
    let ready = async {
        while !scheduler.health().sentences().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let waited = tokio::time::timeout(STALL, ready).await;
    waited.map_err(|_| {
        anyhow::anyhow!("it is not ready: {}", scheduler.health().sentences().join("; "))
    })
}
