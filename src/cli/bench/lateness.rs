//! How long after its moment a job starts.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde::Serialize;

use super::super::timing::{Spread, Stopwatch};
use super::report::Figures;
use super::scratch::Scratch;
use super::{Common, LOOK, await_ready, jobs};
use crate::model::clock::{Clock, SystemClock};

/// The moments of the jobs begin so much later than now: a start takes a while.
const AHEAD: Duration = Duration::from_secs(8);
const SPREAD: Duration = Duration::from_secs(10);
/// For the last of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// How late jobs start whose moments are spread over ten seconds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench lateness --jobs 2000")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Jobs
    #[arg(long, value_name = "N", default_value_t = 2000)]
    jobs: usize,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Lateness(Spread);

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Lateness> {
    let count = arguments.jobs.max(1);
    let row = jobs::register(scratch).await?;
    let ms = |time: Duration| time.as_millis() as i64;
    let begin_ms = SystemClock.now_ms() + ms(AHEAD);
    jobs::load(scratch, &row, 0..count, |_| begin_ms + fastrand::i64(0..ms(SPREAD))).await?;
    let stopwatch = Stopwatch::default();
    let scheduler = scratch.builder().register_app(jobs::app(), stopwatch.clone()).start().await?;
    await_ready(&scheduler).await?;
    let in_time = SystemClock.now_ms() < begin_ms;
    let began = Instant::now();
    while stopwatch.spread().jobs < count && began.elapsed() < AHEAD + SPREAD + PATIENCE {
        tokio::time::sleep(LOOK * 20).await;
    }
    scheduler.shutdown(Duration::from_secs(10)).await;
    ensure!(in_time, "the start took so long that the first jobs were overdue by then");
    let spread = stopwatch.spread();
    if spread.jobs != count {
        bail!("{} of {count} jobs fired", spread.jobs);
    }
    Ok(Lateness(spread))
}

impl Figures for Lateness {
    fn cells(&self) -> Vec<(&'static str, String)> {
        let ms = |value: f64| format!("{value:.1}");
        let Spread { jobs, p50_ms, p99_ms, max_ms, early } = self.0;
        vec![
            ("jobs", jobs.to_string()),
            ("p50 ms", ms(p50_ms)),
            ("p99 ms", ms(p99_ms)),
            ("max ms", ms(max_ms)),
            ("early", early.to_string()),
        ]
    }
}
