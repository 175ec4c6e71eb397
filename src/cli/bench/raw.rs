//! The plain reference: the quickest statements known to us for the same rows in the same
//! kind of table, without anything that makes a scheduler of it.

mod mysql;
mod postgres;
mod sqlite;

use std::time::{Duration, Instant};

use super::jobs;
use super::scratch::Scratch;
use crate::model::clock::{Clock, SystemClock};
use crate::model::ids::JobId;

/// The table, made for a measurement and dropped after it.
const TABLE: &str = "bench_raw";
/// The scheduler's table, whose shape it has.
const JOB: &str = "scheduler_job";
/// Connections that insert at the same time.
const CONNECTIONS: usize = 4;
/// What an inserted row has; the other columns are null.
const COLUMNS: &str = "id, shard, priority, due_ms, request_id, scheduled_ms, created_ms, \
     attempts, data, ledger, source_offset, source_time_ms";
/// How many they are.
const WIDTH: usize = 12;
/// Shards of the rows, as many as an app has.
const SHARDS: i32 = 8;

/// What is inserted.
#[derive(Clone, Debug)]
pub(super) struct Row {
    id: [u8; 16],
    shard: i32,
    priority: i16,
    due_ms: i64,
    created_ms: i64,
    request_id: String,
    data: String,
    offset: i64,
}

/// The place of a row in firing order.
type Place = (i64, [u8; 16]);

pub(super) struct Raw<'a> {
    scratch: &'a Scratch,
}

/// The rows that so many requests make.
pub(super) fn rows(count: usize) -> Vec<Row> {
    let now_ms = SystemClock.now_ms();
    let row = |number: usize| {
        let request_id = format!("bench-{number}");
        Row {
            id: JobId::derive("bench", &request_id).into_bytes(),
            shard: fastrand::i32(1..=SHARDS),
            priority: 1,
            due_ms: now_ms + fastrand::i64(86_400_000..86_400_000_000),
            created_ms: now_ms,
            request_id,
            data: jobs::data(number),
            offset: number as i64,
        }
    };
    (0..count).map(row).collect()
}

impl<'a> Raw<'a> {
    /// Makes the table anew.
    pub(super) async fn on(scratch: &'a Scratch) -> anyhow::Result<Self> {
        let raw = Self { scratch };
        raw.drop_table().await?;
        match scratch.name() {
            "SQLite" => {
                let shape =
                    "select sql from sqlite_master where type = 'table' and name = 'scheduler_job'";
                let shape = scratch.sql.texts(shape).await?.concat();
                let job = shape.find(JOB).unwrap_or_default();
                let create = format!("{}{TABLE}{}", &shape[..job], &shape[job + JOB.len()..]);
                scratch.sql.execute(&create).await?;
                let index = format!("create unique index {TABLE}_by_id on {TABLE} (id)");
                scratch.sql.execute(&index).await?;
            }
            "PostgreSQL" => {
                let create = format!("create table {TABLE} (like scheduler_job including all)");
                scratch.sql.execute(&create).await?;
            }
            _ => scratch.sql.execute(&format!("create table {TABLE} like scheduler_job")).await?,
        }
        Ok(raw)
    }

    /// Inserts the rows, `batch` in a transaction; how long that took.
    pub(super) async fn insert(self, rows: Vec<Row>, batch: usize) -> anyhow::Result<Duration> {
        let url = self.scratch.url().to_owned();
        let took = match self.scratch.name() {
            "SQLite" => blocking(move || sqlite::insert(&url, &rows, batch)).await,
            "PostgreSQL" => postgres::insert(&url, &rows, batch).await,
            _ => mysql::insert(&url, &rows, batch).await,
        };
        self.drop_table().await?;
        took
    }

    /// Copies the jobs there are, then reads them by pages and deletes them; how long the
    /// latter took.
    pub(super) async fn drain(self, page: usize) -> anyhow::Result<Duration> {
        let sql = &self.scratch.sql;
        sql.execute(&format!("insert into {TABLE} select * from scheduler_job")).await?;
        let url = self.scratch.url().to_owned();
        let list = match self.scratch.store.is_embedded() {
            true => "shard || ' ' || priority",
            false => "concat(shard, ' ', priority)",
        };
        let lists = sql.texts(&format!("select distinct {list} from {TABLE}")).await?;
        let lists: Vec<(i32, i16)> = lists.iter().filter_map(|list| parse_list(list)).collect();
        let took = match self.scratch.name() {
            "SQLite" => blocking(move || sqlite::drain(&url, &lists, page)).await,
            "PostgreSQL" => postgres::drain(&url, &lists, page).await,
            _ => mysql::drain(&url, &lists, page).await,
        };
        let left = sql.number(&format!("select count(*) from {TABLE}")).await?;
        anyhow::ensure!(left == 0, "{left} rows are left of the plain reference");
        self.drop_table().await?;
        took
    }

    async fn drop_table(&self) -> anyhow::Result<()> {
        Ok(self.scratch.sql.execute(&format!("drop table if exists {TABLE}")).await?)
    }
}

fn parse_list(list: &str) -> Option<(i32, i16)> {
    let (shard, priority) = list.split_once(' ')?;
    Some((shard.parse().ok()?, priority.parse().ok()?))
}

async fn blocking(
    work: impl FnOnce() -> anyhow::Result<Duration> + Send + 'static,
) -> anyhow::Result<Duration> {
    tokio::task::spawn_blocking(work).await?
}

/// Deals `rows` to the connections, and waits for all of them.
async fn on_connections<C, F>(
    connections: Vec<C>,
    rows: &[Row],
    insert: impl Fn(C, Vec<Row>) -> F,
) -> anyhow::Result<Duration>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let share = rows.len().div_ceil(connections.len()).max(1);
    let parts: Vec<Vec<Row>> = rows.chunks(share).map(<[Row]>::to_vec).collect();
    let began = Instant::now();
    let work: Vec<_> =
        connections.into_iter().zip(parts).map(|(c, part)| tokio::spawn(insert(c, part))).collect();
    for done in work {
        done.await??;
    }
    Ok(began.elapsed())
}
