//! From Kafka to durable rows.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;

use super::super::output::{grouped, report};
use super::kafka::{PARTITIONS, Topics};
use super::report::{Figures, per_second};
use super::scratch::{OURS, Scratch};
use super::{Common, LOOK, STALL, jobs, raw};
use crate::dispatch::Discard;
use crate::model::clock::{Clock, SystemClock};
use crate::model::request::ScheduleJobRequest;
use crate::model::time::ScheduledTime;
use crate::service::Scheduler;

/// The default number of records: on a real broker, and on the embedded one.
const RECORDS: usize = 200_000;
const RECORDS_EMBEDDED: usize = 60_000;
/// Rows in one statement or transaction of the plain reference.
const RAW_BATCH: usize = 2000;

/// From a Kafka topic to durable rows, records a second
///
/// Half of the records have idempotency keys; all are due at random moments far ahead.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench ingest --kafka localhost:9092 --database mysql://root@localhost/scratch")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// A real broker, host:port; without one a broker inside this process
    #[arg(long, value_name = "SERVERS")]
    kafka: Option<String>,
    /// Records; default 200000, or 60000 without --kafka
    #[arg(long, alias = "jobs", value_name = "N")]
    records: Option<usize>,
    /// Records in a batch of one partition, at the most (`max_poll_records`)
    #[arg(long, value_name = "N", default_value = "2000")]
    batch: NonZeroU32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ingest {
    records: usize,
    records_per_second: f64,
    /// The same rows, keys included, by plain statements, without topic, ledger or checks.
    raw_rows_per_second: f64,
    ratio: f64,
    embedded_broker: bool,
}

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Ingest> {
    let embedded = arguments.kafka.is_none();
    let default = if embedded { RECORDS_EMBEDDED } else { RECORDS };
    let records = arguments.records.unwrap_or(default).max(1);
    let rows = raw::rows(records);
    let raw_time = raw::Raw::on(scratch).await?.insert(rows, RAW_BATCH).await?;

    let mut topics = Topics::make(arguments.kafka.as_deref(), records).await?;
    topics.config.max_poll_records = arguments.batch;
    report(format_args!("sending {records} records to {PARTITIONS} partitions"));
    topics.fill(records, request).await?;
    let builder = scratch.builder().register_app(jobs::app(), Discard);
    let scheduler = builder.with_kafka_ingest(topics.config.clone()).start().await?;
    let measured = watch(&scheduler, records).await;
    scheduler.shutdown(Duration::from_secs(10)).await;
    // A broker that goes before its clients is looked for, aloud.
    drop(scheduler);
    topics.remove().await?;
    let (counted, time) = measured?;
    let there = scratch.jobs().await?;
    if usize::try_from(there)? != records + arguments.common.pending {
        bail!("{records} records made it {there} jobs");
    }
    let (ours, raw) = (per_second(counted, time), per_second(records, raw_time));
    Ok(Ingest {
        records,
        records_per_second: ours,
        raw_rows_per_second: raw,
        ratio: ours / raw,
        embedded_broker: embedded,
    })
}

/// The request of the `number`th record.
fn request(number: usize) -> String {
    const DAY_MS: i64 = 86_400_000;
    let due_ms = SystemClock.now_ms() + fastrand::i64(DAY_MS..1000 * DAY_MS);
    let time = ScheduledTime::from_epoch_ms(due_ms).unwrap_or_else(|| SystemClock.now().into());
    let request = ScheduleJobRequest::builder(OURS)
        .request_id(format!("bench-{number}"))
        .at(time)
        .raw_job_data(&jobs::data(number));
    let request = match number % 2 {
        0 => request.idempotency_key(format!("key-{number}")),
        _ => request,
    };
    request.build().map_or_else(|refusal| refusal.to_string(), |request| request.to_json())
}

/// How many became durable after the first batch was, and in what time.
async fn watch(scheduler: &Scheduler, records: usize) -> anyhow::Result<(usize, Duration)> {
    let mut first: Option<(usize, Instant)> = None;
    let (mut seen, mut moved) = (0, Instant::now());
    loop {
        let metrics = scheduler.ingest_metrics();
        let done = usize::try_from(metrics.messages_processed)?;
        if done > seen {
            (seen, moved) = (done, Instant::now());
        }
        if metrics.messages_failed + metrics.messages_duplicate > 0 {
            bail!("records were refused or taken for duplicates: {metrics:?}");
        }
        if done > 0 {
            let (before, began) = *first.get_or_insert((done, Instant::now()));
            if done >= records {
                return Ok((done - before, began.elapsed()));
            }
        }
        if moved.elapsed() > STALL {
            bail!(
                "no progress since {done} of {records}: {}",
                scheduler.health().sentences().join("; ")
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Figures for Ingest {
    fn cells(&self) -> Vec<(&'static str, String)> {
        vec![
            ("records", grouped(self.records as f64)),
            ("records/s", grouped(self.records_per_second)),
            ("raw rows/s", grouped(self.raw_rows_per_second)),
            ("of raw", format!("{:.0} %", self.ratio * 100.0)),
        ]
    }

    fn note(&self) -> Option<String> {
        let broker = match self.embedded_broker {
            true => "The broker ran inside this process, which costs some of the two.",
            false => "Half of the records had idempotency keys, which are rows of their own.",
        };
        Some(format!(
            "raw: the same rows of jobs and keys by the quickest plain statements on 4 connections \
             (SQLite: one\nwriter), without Kafka, offsets or checks. {broker}"
        ))
    }
}
