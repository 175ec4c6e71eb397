//! An overdue backlog, with fresh jobs of high priority while it drains.

use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use super::super::output::report;
use super::super::timing::{Spread, Stopwatch, late_us};
use super::fire::{self, RAW_PAGE};
use super::report::{Figures, Throughput};
use super::scratch::Scratch;
use super::{Common, jobs, raw};
use crate::dispatch::{JobContext, JobError, JobHandler};
use crate::model::clock::{Clock, SystemClock};
use crate::model::job::Priority;

/// The first fresh job is due so much later than now: a start takes a while.
const AHEAD_MS: i64 = 1_000;
/// One job of three is of high priority.
const PRIORITIES: usize = 3;

/// A backlog after an outage, jobs a second, and how late fresh jobs of high priority start beside it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench catchup --jobs 1000000 --database postgres://user@localhost/scratch --drop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Overdue jobs
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    jobs: usize,
    /// Fresh jobs of high priority, one each 10 ms
    #[arg(long, value_name = "N", default_value_t = 200)]
    fresh: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Catchup {
    #[serde(flatten)]
    throughput: Throughput,
    /// How late fresh jobs of high priority started.
    fresh: Spread,
}

/// Records how late the jobs start that were due after its beginning.
#[derive(Debug)]
struct Fresh {
    stopwatch: Stopwatch,
    since_ms: i64,
}

impl JobHandler for Fresh {
    async fn execute(&self, context: &JobContext) -> Result<(), JobError> {
        let job = context.job();
        if job.due_ms >= self.since_ms && job.priority == Priority::High {
            self.stopwatch.note(late_us(job));
        }
        Ok(())
    }

    fn name(&self) -> &str {
        "fresh"
    }
}

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Catchup> {
    let (count, fresh) = (arguments.jobs.max(1), arguments.fresh.max(1) * PRIORITIES);
    let row = jobs::register(scratch).await?;
    report(format_args!("putting {count} overdue jobs into the table"));
    let long_ago_ms = SystemClock.now_ms() - 3_600_000;
    jobs::load(scratch, &row, 0..count, |_| long_ago_ms + fastrand::i64(0..3_500_000)).await?;
    let raw_time = raw::Raw::on(scratch).await?.drain(RAW_PAGE).await?;

    let since_ms = SystemClock.now_ms() + AHEAD_MS;
    let due_ms = |number: usize| since_ms + 10 * (number - count) as i64 / PRIORITIES as i64;
    jobs::load(scratch, &row, count..count + fresh, due_ms).await?;
    let stopwatch = Stopwatch::default();
    let handler = Fresh { stopwatch: stopwatch.clone(), since_ms };
    let scheduler = scratch.builder().register_app(fire::app(false), handler).start().await?;
    let measured = fire::watch(&scheduler, count).await;
    let rest = fire::watch(&scheduler, count + fresh).await;
    scheduler.shutdown(Duration::from_secs(10)).await;
    let counted = measured?;
    rest?;
    let spread = stopwatch.spread();
    ensure!(spread.jobs > 0, "no fresh job was of high priority");
    let throughput = Throughput::of(count, counted, raw_time);
    Ok(Catchup { throughput, fresh: spread })
}

impl Figures for Catchup {
    fn cells(&self) -> Vec<(&'static str, String)> {
        let mut cells = self.throughput.cells();
        cells.extend([
            ("fresh p50 ms", format!("{:.1}", self.fresh.p50_ms)),
            ("fresh p99 ms", format!("{:.1}", self.fresh.p99_ms)),
        ]);
        cells
    }

    fn note(&self) -> Option<String> {
        self.throughput.note()
    }
}
