//! A bulk action on pending jobs while others fire.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde::Serialize;

use super::super::output::{grouped, report};
use super::super::timing::{Spread, Stopwatch};
use super::report::{Figures, per_second};
use super::scratch::{OURS, Scratch};
use super::{Common, LOOK, STALL, await_ready, jobs};
use crate::model::clock::{Clock, SystemClock};
use crate::operations::{BulkAction, BulkItem, BulkRequest, JobFilter};
use crate::service::Scheduler;

/// Jobs that fire meanwhile, a second.
const FIRED: usize = 200;
/// They fire for as long as a bulk action of so many jobs a second takes,
const SLOWEST: usize = 2000;
/// and so long besides.
const SPREAD: Duration = Duration::from_secs(30);
/// A start takes a while.
const AHEAD: Duration = Duration::from_secs(5);
const YEAR_MS: i64 = 365 * 86_400_000;

/// Cancels pending jobs in bulk, jobs a second, and how late others fire meanwhile
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench bulk --jobs 1000000 --database postgres://user@localhost/scratch --drop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Jobs to be cancelled
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    jobs: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bulk {
    jobs: usize,
    jobs_per_second: f64,
    lateness: Spread,
}

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Bulk> {
    let count = arguments.jobs.max(1);
    let row = jobs::register(scratch).await?;
    report(format_args!("putting {count} pending jobs into the table"));
    let begin_ms = SystemClock.now_ms();
    let pending_ms = |_| begin_ms + fastrand::i64(YEAR_MS..9 * YEAR_MS);
    jobs::load(scratch, &row, 0..count, pending_ms).await?;
    let ms = |time: Duration| time.as_millis() as i64;
    let fire_ms = SystemClock.now_ms() + ms(AHEAD);
    let spread = SPREAD + Duration::from_secs((count / SLOWEST) as u64);
    let fired = FIRED * usize::try_from(spread.as_secs())?;
    let due_ms = |_| fire_ms + fastrand::i64(0..ms(spread));
    jobs::load(scratch, &row, count..count + fired, due_ms).await?;
    let stopwatch = Stopwatch::default();
    let scheduler = scratch.builder().register_app(jobs::app(), stopwatch.clone()).start().await?;
    await_ready(&scheduler).await?;
    let in_time = SystemClock.now_ms() < fire_ms;
    let measured = cancel(&scheduler, begin_ms + YEAR_MS / 2).await;
    scheduler.shutdown(Duration::from_secs(10)).await;
    let (ended, time) = measured?;
    ensure!(in_time, "the start took so long that the first jobs were overdue by then");
    ensure!(ended.done == count as u64, "{} of {count} jobs were cancelled", ended.done);
    ensure!(time < spread - AHEAD, "it took longer than others fired: give fewer --jobs");
    let jobs_per_second = per_second(count, time);
    Ok(Bulk { jobs: count, jobs_per_second, lateness: stopwatch.spread() })
}

async fn cancel(scheduler: &Scheduler, from_ms: i64) -> anyhow::Result<(BulkItem, Duration)> {
    let filter =
        JobFilter { app: Some(OURS.into()), from_ms: Some(from_ms), ..JobFilter::default() };
    tokio::time::sleep(AHEAD).await;
    let began = Instant::now();
    let started = scheduler.bulk().start(BulkRequest::new(BulkAction::Cancel, filter)).await?;
    let (mut done, mut moved) = (0, Instant::now());
    loop {
        let item = scheduler.bulk().show(started.bulk.id).await?;
        if item.state.is_ended() {
            return Ok((item, began.elapsed()));
        }
        if item.done > done {
            (done, moved) = (item.done, Instant::now());
        }
        if moved.elapsed() > STALL {
            bail!("no progress since {done} jobs: {}", scheduler.health().sentences().join("; "));
        }
        tokio::time::sleep(LOOK * 10).await;
    }
}

impl Figures for Bulk {
    fn cells(&self) -> Vec<(&'static str, String)> {
        let ms = |value: f64| format!("{value:.1}");
        vec![
            ("jobs", grouped(self.jobs as f64)),
            ("jobs/s", grouped(self.jobs_per_second)),
            ("fired", grouped(self.lateness.jobs as f64)),
            ("p99 ms", ms(self.lateness.p99_ms)),
            ("max ms", ms(self.lateness.max_ms)),
        ]
    }

    fn note(&self) -> Option<String> {
        Some("p99, max: the lateness of jobs that fire while others are cancelled.".into())
    }
}
