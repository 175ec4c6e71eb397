//! SQLite: one writer, prepared single rows, as durable as the scheduler is.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::{COLUMNS, KEY_COLUMNS, KEY_TABLE, Place, Row, TABLE, keyed};

/// Batches of so many partitions share a commit with the scheduler, so they do here.
const PARTITIONS: usize = 6;

pub(super) fn insert(url: &str, rows: &[Row], batch: usize) -> anyhow::Result<Duration> {
    let mut connection = open(url)?;
    let began = Instant::now();
    for some in rows.chunks(batch * PARTITIONS) {
        let transaction = connection.transaction()?;
        {
            let mut statement = transaction.prepare_cached(&format!(
                "insert into {KEY_TABLE} ({KEY_COLUMNS}) values (?1,1,?2,?3,?4,?5,?6,?7)"
            ))?;
            for (row, key) in keyed(some) {
                statement.execute(params![
                    key.id,
                    key.name,
                    row.id,
                    row.request_id,
                    key.fingerprint,
                    row.due_ms,
                    key.expires_ms
                ])?;
            }
            let mut statement = transaction.prepare_cached(&format!(
                "insert into {TABLE} ({COLUMNS}) values (?1,?2,?3,?4,?5,?4,?6,0,?7,1,?8,?6)"
            ))?;
            for row in some {
                statement.execute(params![
                    row.id,
                    row.shard,
                    row.priority,
                    row.due_ms,
                    row.request_id,
                    row.created_ms,
                    row.data,
                    row.offset
                ])?;
            }
        }
        transaction.commit()?;
    }
    Ok(began.elapsed())
}

pub(super) fn drain(url: &str, lists: &[(i32, i16)], page: usize) -> anyhow::Result<Duration> {
    let mut connection = open(url)?;
    let began = Instant::now();
    for (shard, priority) in lists {
        let mut after: Place = (i64::MIN, [0; 16]);
        loop {
            let places = read(&connection, *shard, *priority, after, page)?;
            let Some(last) = places.last() else { break };
            after = *last;
            let transaction = connection.transaction()?;
            {
                let mut delete = transaction.prepare_cached(&format!(
                    "delete from {TABLE} where shard = ?1 and priority = ?2 and due_ms = ?3 \
                     and id = ?4"
                ))?;
                for (due_ms, id) in &places {
                    delete.execute(params![shard, priority, due_ms, id])?;
                }
            }
            transaction.commit()?;
        }
    }
    Ok(began.elapsed())
}

fn read(
    connection: &Connection,
    shard: i32,
    priority: i16,
    after: Place,
    page: usize,
) -> rusqlite::Result<Vec<Place>> {
    let mut select = connection.prepare_cached(&format!(
        "select due_ms, id, request_id, data from {TABLE} where shard = ?1 and priority = ?2 \
         and (due_ms, id) > (?3, ?4) order by due_ms, id limit ?5"
    ))?;
    let page = i64::try_from(page).unwrap_or(i64::MAX);
    let found = select.query_map(params![shard, priority, after.0, after.1, page], |row| {
        // A scheduler needs these, too, so they are paid for here.
        let (_request_id, _data): (String, String) = (row.get(2)?, row.get(3)?);
        Ok((row.get(0)?, row.get(1)?))
    })?;
    found.collect()
}

fn open(url: &str) -> anyhow::Result<Connection> {
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = path.strip_prefix("//").unwrap_or(path).split('?').next().unwrap_or_default();
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "pragma journal_mode = wal; pragma synchronous = full; pragma cache_size = -65536;
         pragma wal_autocheckpoint = 20000; pragma temp_store = memory;",
    )?;
    Ok(connection)
}
