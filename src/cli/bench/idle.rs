//! What an instance costs that has nothing to do.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::super::output::report;
use super::report::Figures;
use super::scratch::Scratch;
use super::{Common, await_ready, jobs};
use crate::dispatch::Discard;
use crate::model::clock::{Clock, SystemClock};

/// From when it is ready until what the start asked has been counted: an idle session of
/// PostgreSQL reports its figures after 10 s (`PGSTAT_IDLE_INTERVAL`).
const SETTLE: Duration = Duration::from_secs(12);
const DAY_MS: i64 = 86_400_000;

/// Memory, and questions to the database, of an instance that waits
///
/// One app and a thousand jobs of which none is due. Nobody else may use the server: on
/// MariaDB and MySQL its questions are counted over all databases.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench idle --database postgres://user@localhost/scratch --drop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Jobs
    #[arg(long, value_name = "N", default_value_t = 1000)]
    jobs: usize,
    /// How long it is watched
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Idle {
    jobs: usize,
    /// Of this process, all of it.
    resident_mib: Option<f64>,
    /// Transactions on PostgreSQL, statements on MariaDB and MySQL.
    questions_per_second: Option<f64>,
}

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Idle> {
    let row = jobs::register(scratch).await?;
    let far_ms = SystemClock.now_ms() + DAY_MS;
    jobs::load(scratch, &row, 0..arguments.jobs, |_| far_ms + fastrand::i64(0..DAY_MS)).await?;
    let scheduler = scratch.builder().register_app(jobs::app(), Discard).start().await?;
    await_ready(&scheduler).await?;
    tokio::time::sleep(SETTLE).await;
    let time = Duration::from_secs(arguments.seconds);
    report(format_args!("watching for {} s", arguments.seconds));
    let before = questions(scratch).await?;
    tokio::time::sleep(time).await;
    let after = questions(scratch).await?;
    let resident_mib = resident_kib().map(|kib| kib as f64 / 1024.0);
    scheduler.shutdown(Duration::from_secs(10)).await;
    // Of the two questions about it, one lies between them.
    let asked = before.zip(after).map(|(before, after)| (after - before - 1).max(0));
    let questions_per_second = asked.map(|asked| asked as f64 / time.as_secs_f64());
    Ok(Idle { jobs: arguments.jobs, resident_mib, questions_per_second })
}

/// How many the server has answered so far; `None` where nobody counts.
async fn questions(scratch: &Scratch) -> anyhow::Result<Option<i64>> {
    if scratch.store.is_embedded() {
        return Ok(None);
    }
    let select = match scratch.name() {
        "PostgreSQL" => {
            "select (xact_commit + xact_rollback)::bigint from pg_stat_database \
             where datname = current_database()"
        }
        "MariaDB" => {
            "select cast(variable_value as signed) from information_schema.global_status \
             where variable_name = 'QUESTIONS'"
        }
        _ => {
            "select cast(variable_value as signed) from performance_schema.global_status \
             where variable_name = 'Questions'"
        }
    };
    let asked = scratch.sql.number(select).await.context("the server does not tell its figures")?;
    Ok(Some(asked))
}

fn resident_kib() -> Option<u64> {
    vm_rss(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn vm_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

impl Figures for Idle {
    fn cells(&self) -> Vec<(&'static str, String)> {
        let shown = |value: Option<f64>| value.map_or("?".into(), |value| format!("{value:.1}"));
        vec![
            ("jobs", self.jobs.to_string()),
            ("resident MiB", shown(self.resident_mib)),
            ("questions/s", shown(self.questions_per_second)),
        ]
    }

    fn note(&self) -> Option<String> {
        let note = match self.questions_per_second {
            Some(_) => "questions: transactions on PostgreSQL, statements on MariaDB and MySQL.",
            None => "SQLite has no server that counts questions.",
        };
        Some(note.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_kernels_text() {
        assert_eq!(vm_rss("Name:\tx\nVmHWM:\t  9 kB\nVmRSS:\t   20480 kB\n"), Some(20480));
        assert_eq!(vm_rss("Name:\tx\n"), None);
    }
}
