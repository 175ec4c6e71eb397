//! Statements that are the same on every database, in the order in which a transaction executes
//! them.
//!
//! The statements that insert and delete jobs are written for each database. The others of the same
//! transaction (dead letters, the outbox, commands) are built once, as an SQL text with `?` for each
//! of its values, and executed by the driver of the transaction.

use rusqlite::{Connection, params_from_iter, types};
use sqlx::mysql::MySqlArguments;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, MySql, MySqlTransaction, PgTransaction, Postgres};
use uuid::Uuid;

use super::{Driver, Result, Store};

/// One statement.
#[derive(Clone, Debug)]
pub(super) struct Step {
    sql: String,
    values: Vec<Value>,
    rule: Rule,
}

/// What happens after a statement, by the number of rows that it changed.
#[derive(Clone, Debug)]
enum Rule {
    /// The next statement, in any case.
    Any,
    /// It must have changed one row. Otherwise another transaction was first, and this one is rolled
    /// back.
    One,
    /// If it inserted its row, this statement follows. A row that exists already is unchanged.
    IfNew(Box<Step>),
    /// If it changed its row, this statement follows. Otherwise there is nothing to do.
    IfChanged(Box<Step>),
}

/// A value of a column.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Id(Option<Uuid>),
}

macro_rules! from {
    ($($type:ty => $variant:ident($value:ident -> $as:expr)),+ $(,)?) => {$(
        impl From<$type> for Value {
            fn from($value: $type) -> Self {
                Self::$variant($as)
            }
        }
    )+};
}

from! {
    i64 => Int(n -> Some(n)),
    i32 => Int(n -> Some(n.into())),
    i16 => Int(n -> Some(n.into())),
    Option<i64> => Int(n -> n),
    Option<i32> => Int(n -> n.map(Into::into)),
    String => Text(text -> Some(text)),
    &str => Text(text -> Some(text.to_owned())),
    Option<String> => Text(text -> text),
    Option<Vec<u8>> => Bytes(bytes -> bytes),
    Uuid => Id(id -> Some(id)),
    Option<Uuid> => Id(id -> id),
}

impl Step {
    /// A statement that may change any number of rows.
    pub(super) fn any(sql: impl Into<String>, values: Vec<Value>) -> Self {
        Self { sql: sql.into(), values, rule: Rule::Any }
    }

    /// An update or delete that must change exactly one row.
    pub(super) fn one(sql: impl Into<String>, values: Vec<Value>) -> Self {
        Self { sql: sql.into(), values, rule: Rule::One }
    }

    /// An `insert into` that is followed by `then`. If the row exists already, it is unchanged and
    /// `then` is not executed.
    pub(super) fn if_new(sql: impl Into<String>, values: Vec<Value>, then: Self) -> Self {
        Self { sql: sql.into(), values, rule: Rule::IfNew(Box::new(then)) }
    }

    /// If it changes one row, `then` follows.
    pub(super) fn then(self, then: Self) -> Self {
        Self { rule: Rule::IfChanged(Box::new(then)), ..self }
    }

    /// An update or delete of one row: where it finds none, `then` is not run.
    pub(super) fn if_changed(sql: impl Into<String>, values: Vec<Value>, then: Self) -> Self {
        Self { sql: sql.into(), values, rule: Rule::IfChanged(Box::new(then)) }
    }
}

/// What follows a step.
enum Next {
    GoOn,
    Run(Step),
    Stop,
}

/// The clause that ignores an existing row, on PostgreSQL and SQLite.
const IF_NEW: &str = " on conflict do nothing";

impl Rule {
    fn is_if_new(&self) -> bool {
        matches!(self, Self::IfNew(_))
    }

    fn after(self, changed: u64) -> Next {
        match self {
            Self::One if changed != 1 => Next::Stop,
            Self::IfNew(then) | Self::IfChanged(then) if changed == 1 => Next::Run(*then),
            _ => Next::GoOn,
        }
    }
}

impl Store {
    /// Runs all in a transaction of their own; false if one did not find its row: nothing was
    /// written then.
    ///
    /// # Errors
    /// [`Error::Unavailable`](super::Error::Unavailable): unknown whether they were committed.
    pub(super) async fn transact(&self, steps: Vec<Step>) -> Result<bool> {
        match &self.inner.driver {
            Driver::Postgres(pool) => {
                let mut transaction = pool.begin().await?;
                let done = run_postgres(&mut transaction, steps).await?;
                match done {
                    true => transaction.commit().await?,
                    false => transaction.rollback().await?,
                }
                Ok(done)
            }
            Driver::MySql(pool) => {
                let mut transaction = pool.begin().await?;
                let done = run_mysql(&mut transaction, steps).await?;
                match done {
                    true => transaction.commit().await?,
                    false => transaction.rollback().await?,
                }
                Ok(done)
            }
            Driver::Sqlite(sqlite) => {
                sqlite
                    .write_if(|done| *done, move |connection| run_sqlite(connection, steps.clone()))
                    .await
            }
        }
    }
}

/// Executes all steps. Returns false if one did not change its row: the caller must roll back.
pub(super) async fn run_postgres(
    transaction: &mut PgTransaction<'_>,
    steps: Vec<Step>,
) -> Result<bool> {
    let mut next = steps.into_iter();
    let mut step = next.next();
    while let Some(Step { sql, values, rule }) = step.take() {
        let if_new = if rule.is_if_new() { IF_NEW } else { "" };
        let query = sqlx::query(AssertSqlSafe(numbered(&sql) + if_new));
        let query = values.into_iter().fold(query, bind_postgres);
        let changed = query.execute(&mut **transaction).await?.rows_affected();
        step = match rule.after(changed) {
            Next::Stop => return Ok(false),
            Next::Run(then) => Some(then),
            Next::GoOn => next.next(),
        };
    }
    Ok(true)
}

/// As [`run_postgres`].
pub(super) async fn run_mysql(
    transaction: &mut MySqlTransaction<'_>,
    steps: Vec<Step>,
) -> Result<bool> {
    let mut next = steps.into_iter();
    let mut step = next.next();
    while let Some(one) = step.take() {
        let Step { sql, values, rule } = one;
        let query = values.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), bind_mysql);
        let changed = match query.execute(&mut **transaction).await {
            // Not `insert ignore`, which also stores truncated values. The error undoes only this
            // statement, not the transaction.
            Err(sqlx::Error::Database(error))
                if rule.is_if_new() && error.is_unique_violation() =>
            {
                0
            }
            done => done?.rows_affected(),
        };
        step = match rule.after(changed) {
            Next::Stop => return Ok(false),
            Next::Run(then) => Some(then),
            Next::GoOn => next.next(),
        };
    }
    Ok(true)
}

/// As [`run_postgres`].
pub(super) fn run_sqlite(connection: &Connection, steps: Vec<Step>) -> Result<bool> {
    let mut next = steps.into_iter();
    let mut step = next.next();
    while let Some(one) = step.take() {
        let sql = one.sql + if one.rule.is_if_new() { IF_NEW } else { "" };
        let mut statement = connection.prepare_cached(&sql)?;
        let changed = statement.execute(params_from_iter(one.values.into_iter().map(of_sqlite)))?;
        step = match one.rule.after(changed as u64) {
            Next::Stop => return Ok(false),
            Next::Run(then) => Some(then),
            Next::GoOn => next.next(),
        };
    }
    Ok(true)
}

/// Numbers the placeholders, for PostgreSQL. No statement contains any other question mark.
fn numbered(sql: &str) -> String {
    let mut parts = sql.split('?');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for (place, part) in parts.enumerate() {
        text.push_str(&format!("${}", place + 1));
        text.push_str(part);
    }
    text
}

fn bind_postgres<'q>(
    query: Query<'q, Postgres, PgArguments>,
    value: Value,
) -> Query<'q, Postgres, PgArguments> {
    match value {
        Value::Int(n) => query.bind(n),
        Value::Text(text) => query.bind(text),
        Value::Bytes(bytes) => query.bind(bytes),
        Value::Id(id) => query.bind(id),
    }
}

fn bind_mysql<'q>(
    query: Query<'q, MySql, MySqlArguments>,
    value: Value,
) -> Query<'q, MySql, MySqlArguments> {
    match value {
        Value::Int(n) => query.bind(n),
        Value::Text(text) => query.bind(text),
        Value::Bytes(bytes) => query.bind(bytes),
        Value::Id(id) => query.bind(id),
    }
}

fn of_sqlite(value: Value) -> types::Value {
    let value = match value {
        Value::Int(n) => n.map(types::Value::Integer),
        Value::Text(text) => text.map(types::Value::Text),
        Value::Bytes(bytes) => bytes.map(types::Value::Blob),
        Value::Id(id) => id.map(|id| types::Value::Blob(id.into_bytes().to_vec())),
    };
    value.unwrap_or(types::Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_counted() {
        assert_eq!(numbered("a = ? and b in (?, ?)"), "a = $1 and b in ($2, $3)");
        assert_eq!(numbered("select 1"), "select 1");
    }
}
