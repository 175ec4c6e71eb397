//! Overdue jobs, until none is left.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::super::output::report;
use super::report::{Throughput, per_second};
use super::scratch::{OURS, Scratch};
use super::{Common, LOOK, STALL, jobs, raw};
use crate::dispatch::Discard;
use crate::model::app::AppConfig;
use crate::model::clock::{Clock, SystemClock};
use crate::service::Scheduler;

const WINDOW: u32 = 20_000;
const MAX_IN_FLIGHT: u32 = 10_000;
/// Rows in one page and one deletion of the plain reference.
pub(super) const RAW_PAGE: usize = 2000;

/// Overdue jobs of one app to a handler that does nothing, jobs a second
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench fire --jobs 300000 --database postgres://user@localhost/scratch --drop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Jobs
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    jobs: usize,
    /// Keep a history of the jobs, as an app does by default
    #[arg(long)]
    history: bool,
}

pub(super) async fn measure(
    arguments: &Arguments,
    scratch: &Scratch,
) -> anyhow::Result<Throughput> {
    let count = arguments.jobs.max(1);
    let row = jobs::register(scratch).await?;
    report(format_args!("putting {count} overdue jobs into the table"));
    let long_ago_ms = SystemClock.now_ms() - 86_400_000;
    jobs::load(scratch, &row, 0..count, |_| long_ago_ms + fastrand::i64(0..80_000_000)).await?;
    let raw_time = raw::Raw::on(scratch).await?.drain(RAW_PAGE).await?;

    let builder = scratch.builder().register_app(app(arguments.history), Discard);
    let scheduler = builder.start().await?;
    let measured = watch(&scheduler, count).await;
    scheduler.shutdown(Duration::from_secs(10)).await;
    let counted = measured?;
    let left = scratch.jobs().await?;
    if left != i64::try_from(arguments.common.pending)? {
        bail!("{left} jobs are left in the table");
    }
    Ok(Throughput::of(count, counted, raw_time))
}

/// How many of `count` overdue jobs are fired a second, next to what is in the table.
pub(super) async fn rate(scratch: &Scratch, count: usize) -> anyhow::Result<f64> {
    let row = jobs::register(scratch).await?;
    let long_ago_ms = SystemClock.now_ms() - 86_400_000;
    jobs::load(scratch, &row, 0..count, |_| long_ago_ms + fastrand::i64(0..80_000_000)).await?;
    let scheduler = scratch.builder().register_app(app(false), Discard).start().await?;
    let measured = watch(&scheduler, count).await;
    scheduler.shutdown(Duration::from_secs(10)).await;
    let (counted, time) = measured?;
    Ok(per_second(counted, time))
}

pub(super) fn app(keeps_history: bool) -> AppConfig {
    let count = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let mut app = jobs::app();
    if keeps_history {
        app.history = AppConfig::new(OURS).history;
    }
    (app.window, app.max_in_flight) = (count(WINDOW), count(MAX_IN_FLIGHT));
    app
}

/// How many were finished, durably, after the first were, and in what time.
pub(super) async fn watch(scheduler: &Scheduler, jobs: usize) -> anyhow::Result<(usize, Duration)> {
    let mut first: Option<(usize, Instant)> = None;
    let (mut seen, mut moved) = (0, Instant::now());
    loop {
        let metrics = scheduler.ingest_metrics();
        let done = metrics.apps.get(OURS).map_or(0, |app| app.succeeded);
        let done = usize::try_from(done)?;
        if done > seen {
            (seen, moved) = (done, Instant::now());
        }
        if done > 0 {
            let (before, began) = *first.get_or_insert((done, Instant::now()));
            if done >= jobs {
                return Ok((done - before, began.elapsed()));
            }
        }
        if moved.elapsed() > STALL {
            bail!(
                "no progress since {done} of {jobs}: {}",
                scheduler.health().sentences().join("; ")
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}
