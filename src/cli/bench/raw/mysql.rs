//! MariaDB and MySQL: prepared statements of many rows, pages and deletions by literal text.

use std::fmt::Write;
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection, Row as _};

use super::{
    COLUMNS, CONNECTIONS, KEY_COLUMNS, KEY_TABLE, KEY_WIDTH, Key, Place, Row, TABLE, WIDTH, keyed,
    on_connections,
};

/// Rows in one statement.
const ROWS: usize = 500;

pub(super) async fn insert(url: &str, rows: &[Row], batch: usize) -> anyhow::Result<Duration> {
    let url = plain(url);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(MySqlConnection::connect(&url).await?);
    }
    on_connections(connections, rows, move |mut connection, mut rows| async move {
        for some in rows.chunks_mut(batch) {
            some.sort_unstable_by_key(|row| (row.shard, row.priority, row.due_ms, row.id));
            let mut keys: Vec<_> = keyed(some).collect();
            keys.sort_unstable_by_key(|(_, key)| key.id);
            let mut transaction = connection.begin().await?;
            for keys in keys.chunks(ROWS) {
                insert_keys(&mut transaction, keys).await?;
            }
            for rows in some.chunks(ROWS) {
                insert_rows(&mut transaction, rows).await?;
            }
            transaction.commit().await?;
        }
        Ok(connection.close().await?)
    })
    .await
}

/// sqlx knows MariaDB by MySQL's name only.
fn plain(url: &str) -> String {
    url.replacen("mariadb:", "mysql:", 1)
}

async fn insert_keys(
    connection: &mut MySqlConnection,
    keys: &[(&Row, &Key)],
) -> anyhow::Result<()> {
    let marks = format!("({})", ["?"; KEY_WIDTH].join(","));
    let values = vec![marks; keys.len()].join(",");
    let insert = format!("insert into {KEY_TABLE} ({KEY_COLUMNS}) values {values}");
    let mut query = sqlx::query(AssertSqlSafe(insert));
    for (row, key) in keys {
        query = query
            .bind(&key.id[..])
            .bind(1_i32)
            .bind(&key.name)
            .bind(&row.id[..])
            .bind(&row.request_id)
            .bind(&key.fingerprint[..])
            .bind(row.due_ms)
            .bind(key.expires_ms);
    }
    query.execute(connection).await?;
    Ok(())
}

async fn insert_rows(connection: &mut MySqlConnection, rows: &[Row]) -> anyhow::Result<()> {
    let marks = format!("({})", ["?"; WIDTH].join(","));
    let values = vec![marks; rows.len()].join(",");
    let mut query =
        sqlx::query(AssertSqlSafe(format!("insert into {TABLE} ({COLUMNS}) values {values}")));
    for row in rows {
        query = query
            .bind(&row.id[..])
            .bind(row.shard)
            .bind(row.priority)
            .bind(row.due_ms)
            .bind(&row.request_id)
            .bind(row.due_ms)
            .bind(row.created_ms)
            .bind(0_i32)
            .bind(&row.data)
            .bind(1_i32)
            .bind(row.offset)
            .bind(row.created_ms);
    }
    query.execute(connection).await?;
    Ok(())
}

pub(super) async fn drain(
    url: &str,
    lists: &[(i32, i16)],
    page: usize,
) -> anyhow::Result<Duration> {
    let mut connection = MySqlConnection::connect(&plain(url)).await?;
    let began = Instant::now();
    for (shard, priority) in lists {
        let mut after: Place = (i64::MIN, [0; 16]);
        loop {
            let (due, id) = (after.0, hex(&after.1)?);
            let select = format!(
                "select * from {TABLE} force index (primary) where shard = {shard} \
                 and priority = {priority} and due_ms >= {due} and (due_ms > {due} or id > {id}) \
                 order by due_ms, id limit {page}"
            );
            let rows = sqlx::raw_sql(AssertSqlSafe(select)).fetch_all(&mut connection).await?;
            let mut ids: Vec<[u8; 16]> = Vec::with_capacity(rows.len());
            for row in &rows {
                let id: Vec<u8> = row.try_get("id")?;
                ids.push(id.as_slice().try_into()?);
                after = (row.try_get("due_ms")?, ids[ids.len() - 1]);
            }
            if ids.is_empty() {
                break;
            }
            ids.sort_unstable();
            let ids: Result<Vec<String>, _> = ids.iter().map(hex).collect();
            let delete = format!(
                "delete from {TABLE} where shard = {shard} and priority = {priority} \
                 and due_ms between {due} and {} and id in ({})",
                after.0,
                ids?.join(",")
            );
            sqlx::raw_sql(AssertSqlSafe(delete)).execute(&mut connection).await?;
        }
    }
    let took = began.elapsed();
    connection.close().await?;
    Ok(took)
}

fn hex(id: &[u8; 16]) -> Result<String, std::fmt::Error> {
    let mut text = String::with_capacity(35);
    write!(text, "x'{:032x}'", u128::from_be_bytes(*id))?;
    Ok(text)
}
