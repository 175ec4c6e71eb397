//! What rows that nobody touches cost: firing and lists before and after there are many of them.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::super::output::{grouped, report};
use super::report::Figures;
use super::scratch::{OURS, Scratch};
use super::{Common, fire, jobs};
use crate::dispatch::Discard;
use crate::model::clock::{Clock, SystemClock};
use crate::operations::{JobFilter, PageRequest};
use crate::service::Scheduler;

/// Overdue jobs that are fired for one measurement.
const FIRED: usize = 20_000;
/// How often each list is read; the median counts.
const READS: usize = 21;
/// Rows that one statement inserts.
const BATCH: usize = 1000;
/// The filters of the lists.
const LISTS: [(&str, &[(&str, &str)]); 6] = [
    ("all", &[]),
    ("scheduled", &[("state", "scheduled")]),
    ("high", &[("priority", "high"), ("state", "scheduled")]),
    ("a key", &[("key", "bench-pending-1")]),
    ("succeeded", &[("state", "succeeded")]),
    ("dead", &[("state", "dead")]),
];

/// Firing and lists with few rows of pending and ended jobs, and with many
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench pending --rows 10000000 --database postgres://user@localhost/scratch --drop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Pending jobs, and as many ended ones in the history
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    rows: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pending {
    rows: usize,
    jobs_per_second_before: f64,
    jobs_per_second: f64,
    lists: Vec<List>,
}

/// The time of a list, in milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    name: &'static str,
    ms_before: f64,
    ms: f64,
}

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Pending> {
    let rows = arguments.rows.max(BATCH);
    load(scratch, 0..BATCH).await?;
    let (jobs_per_second_before, before) = measure_once(scratch).await?;
    report(format_args!("putting {} rows into each table", grouped((rows - BATCH) as f64)));
    load(scratch, BATCH..rows).await?;
    let (jobs_per_second, after) = measure_once(scratch).await?;
    let list = |((name, _), (ms_before, ms))| List { name, ms_before, ms };
    let lists = LISTS.into_iter().zip(before.into_iter().zip(after)).map(list).collect();
    Ok(Pending { rows, jobs_per_second_before, jobs_per_second, lists })
}

async fn load(scratch: &Scratch, numbers: Range<usize>) -> anyhow::Result<()> {
    jobs::load_pending(scratch, numbers.clone()).await?;
    let app = format!("(select id from scheduler_app where name = '{OURS}')");
    let now_ms = SystemClock.now_ms();
    for batch in numbers.collect::<Vec<_>>().chunks(BATCH) {
        let row = |number: &usize| {
            let id = scratch.id_literal(*number as u128 + 1);
            let (ended_ms, data) = (now_ms - 1 - *number as i64, jobs::data(*number));
            // One of a hundred is dead.
            let state = if number.is_multiple_of(100) { 2 } else { 1 };
            format!(
                "({id}, 1, 1, {state}, {app}, 'ended-{number}', 1, 1, 1, {ended_ms}, 1, '{data}')"
            )
        };
        let rows: Vec<String> = batch.iter().map(row).collect();
        let insert = format!(
            "insert into scheduler_job_history (id, created_ms, attempt, state, app, request_id, \
             scheduled_ms, due_ms, started_ms, ended_ms, priority, data) values {}",
            rows.join(", ")
        );
        scratch.sql.execute(&insert).await?;
    }
    Ok(())
}

/// Jobs fired a second, and the milliseconds of each list.
async fn measure_once(scratch: &Scratch) -> anyhow::Result<(f64, Vec<f64>)> {
    let jobs_per_second = fire::rate(scratch, FIRED).await?;
    let mut app = jobs::app();
    // What is in the history is kept.
    app.history = Duration::from_secs(3650 * 86_400);
    let scheduler = scratch.builder().register_app(app, Discard).start().await?;
    let mut times = Vec::new();
    for (_, pairs) in LISTS {
        times.push(time_of(&scheduler, pairs).await?);
    }
    scheduler.shutdown(Duration::from_secs(10)).await;
    Ok((jobs_per_second, times))
}

async fn time_of(scheduler: &Scheduler, pairs: &[(&str, &str)]) -> anyhow::Result<f64> {
    let app = [("app", OURS)];
    let filter = JobFilter::from_pairs(app.iter().chain(pairs).copied(), None)?;
    let mut times = Vec::with_capacity(READS);
    for _ in 0..READS {
        let began = Instant::now();
        scheduler.jobs().list(&filter, &PageRequest::default()).await?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_unstable_by(f64::total_cmp);
    times.get(READS / 2).copied().context("no list was read")
}

impl Figures for Pending {
    fn cells(&self) -> Vec<(&'static str, String)> {
        let two = |before: f64, after: f64| format!("{before:.1} / {after:.1}");
        let rates = [self.jobs_per_second_before, self.jobs_per_second].map(grouped);
        let mut cells = vec![("rows", grouped(self.rows as f64)), ("jobs/s", rates.join(" / "))];
        cells.extend(self.lists.iter().map(|list| (list.name, two(list.ms_before, list.ms))));
        cells
    }

    fn note(&self) -> Option<String> {
        Some("before / after there are so many rows; lists: the median of a page, in ms.".into())
    }
}
