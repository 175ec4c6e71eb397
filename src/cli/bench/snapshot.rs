//! Rounds of overdue jobs while a transaction holds a snapshot open: on PostgreSQL no dead row can be
//! removed meanwhile.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::super::cannot_start;
use super::super::output::{grouped, report};
use super::fire::{self, RAW_PAGE};
use super::report::{Figures, per_second};
use super::scratch::Scratch;
use super::{Common, jobs, raw};
use crate::dispatch::Discard;
use crate::model::clock::{Clock, SystemClock};

/// Firing while somebody holds a snapshot open, the last round compared with the first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench snapshot --minutes 10 --database postgres://user@localhost/scratch --drop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Jobs of one round
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    jobs: usize,
    /// How long the snapshot is held
    #[arg(long, value_name = "N", default_value_t = 1)]
    minutes: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Snapshot {
    rounds: usize,
    first_jobs_per_second: f64,
    last_jobs_per_second: f64,
    kept: f64,
    /// The same rows read by pages and deleted, on one connection.
    first_raw_rows_per_second: f64,
    last_raw_rows_per_second: f64,
    raw_kept: f64,
}

struct Round {
    jobs_per_second: f64,
    raw_rows_per_second: f64,
}

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Snapshot> {
    if scratch.name() != "PostgreSQL" {
        let why = "bench snapshot needs PostgreSQL, whose dead rows stay while a snapshot is held: \
                   give --database postgres://user@host/scratch";
        return Err(cannot_start(why).into());
    }
    let mut holder = PgConnection::connect(scratch.url()).await?;
    for statement in ["begin isolation level repeatable read", "select count(*) from scheduler_app"]
    {
        sqlx::query(statement).execute(&mut holder).await?;
    }
    let held = Duration::from_secs(60 * u64::from(arguments.minutes.max(1)));
    let began = Instant::now();
    let mut rounds: Vec<Round> = Vec::new();
    let mut since_ms = SystemClock.now_ms() - 60_000;
    while rounds.len() < 2 || began.elapsed() < held {
        report(format_args!("round {}", rounds.len() + 1));
        // What becomes due while time passes is due after what was fired before.
        let until_ms = SystemClock.now_ms();
        rounds.push(round(arguments, scratch, rounds.len(), since_ms..until_ms).await?);
        since_ms = until_ms;
    }
    sqlx::query("rollback").execute(&mut holder).await?;
    holder.close().await?;
    let (Some(first), Some(last)) = (rounds.first(), rounds.last()) else {
        anyhow::bail!("no round was measured");
    };
    Ok(Snapshot {
        rounds: rounds.len(),
        first_jobs_per_second: first.jobs_per_second,
        last_jobs_per_second: last.jobs_per_second,
        kept: last.jobs_per_second / first.jobs_per_second,
        first_raw_rows_per_second: first.raw_rows_per_second,
        last_raw_rows_per_second: last.raw_rows_per_second,
        raw_kept: last.raw_rows_per_second / first.raw_rows_per_second,
    })
}

async fn round(
    arguments: &Arguments,
    scratch: &Scratch,
    number: usize,
    due_ms: Range<i64>,
) -> anyhow::Result<Round> {
    let count = arguments.jobs.max(1);
    let row = jobs::register(scratch).await?;
    let numbers = number * count..(number + 1) * count;
    jobs::load(scratch, &row, numbers, |_| fastrand::i64(due_ms.clone())).await?;
    let raw_time = raw::Raw::on(scratch).await?.drain(RAW_PAGE).await?;
    let scheduler = scratch.builder().register_app(fire::app(false), Discard).start().await?;
    let measured = fire::watch(&scheduler, count).await;
    scheduler.shutdown(Duration::from_secs(10)).await;
    let (counted, time) = measured?;
    let left = scratch.jobs().await?;
    ensure!(left == i64::try_from(arguments.common.pending)?, "{left} jobs are left in the table");
    Ok(Round {
        jobs_per_second: per_second(counted, time),
        raw_rows_per_second: per_second(count, raw_time),
    })
}

impl Figures for Snapshot {
    fn cells(&self) -> Vec<(&'static str, String)> {
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        vec![
            ("rounds", self.rounds.to_string()),
            ("first jobs/s", grouped(self.first_jobs_per_second)),
            ("last jobs/s", grouped(self.last_jobs_per_second)),
            ("kept", percent(self.kept)),
            ("first raw rows/s", grouped(self.first_raw_rows_per_second)),
            ("last raw rows/s", grouped(self.last_raw_rows_per_second)),
            ("raw kept", percent(self.raw_kept)),
        ]
    }

    fn note(&self) -> Option<String> {
        Some(
            "raw: pages read and deleted one after the other on one connection, in a table that is \
             recreated for each round."
                .into(),
        )
    }
}
