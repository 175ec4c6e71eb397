//! Many jobs that are due in one second, beside another app's punctual jobs.

use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use super::super::output::report;
use super::super::timing::{Spread, Stopwatch};
use super::fire::{self, RAW_PAGE};
use super::report::{Figures, Throughput};
use super::scratch::{OURS, Scratch};
use super::{Common, jobs, raw};
use crate::dispatch::Discard;
use crate::model::app::AppConfig;
use crate::model::clock::{Clock, SystemClock};

/// The herd is due so much later than now: a start takes a while.
const AHEAD_MS: i64 = 5_000;
/// Jobs of the other app, one each 10 ms from one second before the herd on.
const PUNCTUAL: usize = 400;

/// Many jobs of one app that are due in one second, and how late another app's jobs start beside them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench herd --jobs 50000 --database postgres://user@localhost/scratch --drop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Jobs of the herd
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    jobs: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Herd {
    #[serde(flatten)]
    throughput: Throughput,
    /// How late the other app's jobs started.
    punctual: Spread,
}

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Herd> {
    let count = arguments.jobs.max(1);
    let row = jobs::register(scratch).await?;
    let mut other = AppConfig::new(format!("{OURS}-punctual"));
    other.history = Duration::ZERO;
    let other_row = scratch.store.register_app(&other, SystemClock.now_ms()).await?;

    report(format_args!("putting {count} jobs into the table"));
    let long_ago_ms = SystemClock.now_ms() - 60_000;
    // The plain reference reads what is due.
    jobs::load(scratch, &row, 0..count, |_| long_ago_ms).await?;
    let raw_time = raw::Raw::on(scratch).await?.drain(RAW_PAGE).await?;
    let herd_ms = SystemClock.now_ms() + AHEAD_MS;
    let move_all = format!(
        "update scheduler_job set due_ms = {herd_ms} + {} % 1000 where due_ms = {long_ago_ms}",
        match scratch.name() {
            "SQLite" => "abs(random())",
            "PostgreSQL" => "abs(hashtext(request_id)::bigint)",
            _ => "crc32(request_id)",
        }
    );
    scratch.sql.execute(&move_all).await?;
    let moved_ms = SystemClock.now_ms();
    ensure!(moved_ms < herd_ms - 2_000, "the database took too long to prepare the jobs");
    let due_ms = |number: usize| herd_ms - 1_000 + 10 * number as i64;
    jobs::load(scratch, &other_row, 0..PUNCTUAL, due_ms).await?;

    let stopwatch = Stopwatch::default();
    let builder = scratch.builder().register_app(fire::app(false), Discard);
    let scheduler = builder.register_app(other, stopwatch.clone()).start().await?;
    let measured = fire::watch(&scheduler, count).await;
    let last_ms = due_ms(PUNCTUAL);
    while stopwatch.spread().jobs < PUNCTUAL && SystemClock.now_ms() < last_ms + 20_000 {
        tokio::time::sleep(super::LOOK * 20).await;
    }
    scheduler.shutdown(Duration::from_secs(10)).await;
    let counted = measured?;
    let punctual = stopwatch.spread();
    ensure!(punctual.jobs == PUNCTUAL, "{} of {PUNCTUAL} punctual jobs fired", punctual.jobs);
    let throughput = Throughput::of(count, counted, raw_time);
    Ok(Herd { throughput, punctual })
}

impl Figures for Herd {
    fn cells(&self) -> Vec<(&'static str, String)> {
        let mut cells = self.throughput.cells();
        cells.extend([
            ("other p50 ms", format!("{:.1}", self.punctual.p50_ms)),
            ("other p99 ms", format!("{:.1}", self.punctual.p99_ms)),
        ]);
        cells
    }

    fn note(&self) -> Option<String> {
        self.throughput.note()
    }
}
