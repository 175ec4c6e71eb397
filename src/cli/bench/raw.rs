//! The plain reference: the quickest statements known to us for the same rows in the same
//! kind of table, without anything that makes a scheduler of it.

mod mysql;
mod postgres;
mod sqlite;

use std::time::{Duration, Instant};

use super::jobs;
use super::scratch::Scratch;
use crate::model::clock::{Clock, SystemClock};
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, KeyId};

/// The tables, made for a measurement and dropped after it.
const TABLE: &str = "bench_raw";
const KEY_TABLE: &str = "bench_raw_key";
/// The scheduler's tables, whose shapes they have.
const JOB: &str = "scheduler_job";
const KEY: &str = "scheduler_idempotency_key";
/// Connections that insert at the same time.
const CONNECTIONS: usize = 4;
/// What an inserted row has; the other columns are null.
const COLUMNS: &str = "id, shard, priority, due_ms, request_id, scheduled_ms, created_ms, \
     attempts, data, ledger, source_offset, source_time_ms";
/// How many they are.
const WIDTH: usize = 12;
/// The columns of a key, all of them.
const KEY_COLUMNS: &str = "id, app, name, job, request_id, fingerprint, scheduled_ms, expires_ms";
const KEY_WIDTH: usize = 8;
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
    key: Option<Key>,
}

/// The idempotency key of a row, which is a row of its own.
#[derive(Clone, Debug)]
struct Key {
    id: [u8; 16],
    name: String,
    fingerprint: [u8; 16],
    expires_ms: i64,
}

/// Those of the rows that have a key, with it.
fn keyed(rows: &[Row]) -> impl Iterator<Item = (&Row, &Key)> {
    rows.iter().filter_map(|row| Some((row, row.key.as_ref()?)))
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
        let data = jobs::data(number);
        let key = |name: String| Key {
            id: KeyId::derive("bench", &name).into_bytes(),
            name,
            fingerprint: Fingerprint::of_json(&data).map_or([0; 16], Fingerprint::into_bytes),
            expires_ms: now_ms + 86_400_000,
        };
        Row {
            key: number.is_multiple_of(2).then(|| key(format!("key-{number}"))),
            id: JobId::derive("bench", &request_id).into_bytes(),
            shard: fastrand::i32(1..=SHARDS),
            priority: 1,
            due_ms: now_ms + fastrand::i64(86_400_000..86_400_000_000),
            created_ms: now_ms,
            request_id,
            data,
            offset: number as i64,
        }
    };
    (0..count).map(row).collect()
}

impl<'a> Raw<'a> {
    /// Makes the tables anew.
    pub(super) async fn on(scratch: &'a Scratch) -> anyhow::Result<Self> {
        let raw = Self { scratch };
        raw.drop_tables().await?;
        for (table, ours) in [(TABLE, JOB), (KEY_TABLE, KEY)] {
            raw.copy_shape(table, ours).await?;
        }
        Ok(raw)
    }

    /// Makes an empty table of the same columns, key and indexes as one of the scheduler's.
    async fn copy_shape(&self, table: &str, ours: &str) -> anyhow::Result<()> {
        let sql = &self.scratch.sql;
        match self.scratch.name() {
            "SQLite" => {
                let shapes = format!(
                    "select sql from sqlite_master where tbl_name = '{ours}' and sql is not null \
                     order by type desc"
                );
                for shape in sql.texts(&shapes).await? {
                    sql.execute(&shape.replace(ours, table)).await?;
                }
                Ok(())
            }
            "PostgreSQL" => Ok(sql
                .execute(&format!("create table {table} (like {ours} including all)"))
                .await?),
            _ => Ok(sql.execute(&format!("create table {table} like {ours}")).await?),
        }
    }

    /// Inserts the rows, `batch` in a transaction; how long that took.
    pub(super) async fn insert(self, rows: Vec<Row>, batch: usize) -> anyhow::Result<Duration> {
        let url = self.scratch.url().to_owned();
        let took = match self.scratch.name() {
            "SQLite" => blocking(move || sqlite::insert(&url, &rows, batch)).await,
            "PostgreSQL" => postgres::insert(&url, &rows, batch).await,
            _ => mysql::insert(&url, &rows, batch).await,
        };
        self.drop_tables().await?;
        took
    }

    /// Copies the jobs that are due, then reads them by pages and deletes them; how long the
    /// latter took.
    pub(super) async fn drain(self, page: usize) -> anyhow::Result<Duration> {
        let sql = &self.scratch.sql;
        let now_ms = SystemClock.now_ms();
        let copy = format!("insert into {TABLE} select * from {JOB} where due_ms <= {now_ms}");
        sql.execute(&copy).await?;
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
        self.drop_tables().await?;
        took
    }

    async fn drop_tables(&self) -> anyhow::Result<()> {
        for table in [TABLE, KEY_TABLE] {
            self.scratch.sql.execute(&format!("drop table if exists {table}")).await?;
        }
        Ok(())
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
