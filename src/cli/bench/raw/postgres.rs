//! PostgreSQL: arrays into one statement, pages by literal text.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row as _};
use uuid::Uuid;

use super::{
    COLUMNS, CONNECTIONS, KEY_COLUMNS, KEY_TABLE, Place, Row, TABLE, keyed, on_connections,
};

pub(super) async fn insert(url: &str, rows: &[Row], batch: usize) -> anyhow::Result<Duration> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(PgConnection::connect(url).await?);
    }
    on_connections(connections, rows, move |mut connection, rows| async move {
        for some in rows.chunks(batch) {
            insert_batch(&mut connection, some).await?;
        }
        Ok(connection.close().await?)
    })
    .await
}

async fn insert_batch(connection: &mut PgConnection, rows: &[Row]) -> anyhow::Result<()> {
    let sql = format!(
        "with keyed as (insert into {KEY_TABLE} ({KEY_COLUMNS}) select * from unnest(\
         $13::uuid[], $14::integer[], $15::text[], $16::uuid[], $17::text[], $18::uuid[], \
         $19::bigint[], $20::bigint[])) \
         insert into {TABLE} ({COLUMNS}) select * from unnest($1::uuid[], $2::integer[], \
         $3::smallint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[], $8::integer[], \
         $9::text[], $10::integer[], $11::bigint[], $12::bigint[])"
    );
    let keys: Vec<_> = keyed(rows).collect();
    let due: Vec<i64> = rows.iter().map(|row| row.due_ms).collect();
    let created: Vec<i64> = rows.iter().map(|row| row.created_ms).collect();
    sqlx::query(AssertSqlSafe(sql))
        .bind(rows.iter().map(|row| Uuid::from_bytes(row.id)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.shard).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.priority).collect::<Vec<_>>())
        .bind(&due)
        .bind(rows.iter().map(|row| row.request_id.as_str()).collect::<Vec<_>>())
        .bind(&due)
        .bind(&created)
        .bind(vec![0_i32; rows.len()])
        .bind(rows.iter().map(|row| row.data.as_str()).collect::<Vec<_>>())
        .bind(vec![1_i32; rows.len()])
        .bind(rows.iter().map(|row| row.offset).collect::<Vec<_>>())
        .bind(&created)
        .bind(keys.iter().map(|(_, key)| Uuid::from_bytes(key.id)).collect::<Vec<_>>())
        .bind(vec![1_i32; keys.len()])
        .bind(keys.iter().map(|(_, key)| key.name.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|(row, _)| Uuid::from_bytes(row.id)).collect::<Vec<_>>())
        .bind(keys.iter().map(|(row, _)| row.request_id.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|(_, key)| Uuid::from_bytes(key.fingerprint)).collect::<Vec<_>>())
        .bind(keys.iter().map(|(row, _)| row.due_ms).collect::<Vec<_>>())
        .bind(keys.iter().map(|(_, key)| key.expires_ms).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn drain(
    url: &str,
    lists: &[(i32, i16)],
    page: usize,
) -> anyhow::Result<Duration> {
    let mut connection = PgConnection::connect(url).await?;
    let delete = format!("delete from {TABLE} where id = any($1)");
    let began = Instant::now();
    for (shard, priority) in lists {
        let mut after: Place = (i64::MIN, [0; 16]);
        loop {
            let (due, id) = (after.0, Uuid::from_bytes(after.1));
            // As text, since a prepared form would be planned for any list, by sorting all of it.
            let select = format!(
                "select * from {TABLE} where shard = {shard} and priority = {priority} \
                 and (due_ms, uuid_send(id)) > ({due}, uuid_send('{id}')) \
                 order by due_ms, uuid_send(id) limit {page}"
            );
            let rows = sqlx::raw_sql(AssertSqlSafe(select)).fetch_all(&mut connection).await?;
            let mut ids: Vec<Uuid> = Vec::with_capacity(rows.len());
            for row in &rows {
                ids.push(row.try_get("id")?);
                after = (row.try_get("due_ms")?, ids[ids.len() - 1].into_bytes());
            }
            if ids.is_empty() {
                break;
            }
            let delete = sqlx::query(AssertSqlSafe(delete.as_str())).bind(&ids);
            delete.execute(&mut connection).await?;
        }
    }
    let took = began.elapsed();
    connection.close().await?;
    Ok(took)
}
