//! Notices a pooler between us and PostgreSQL that gives each transaction another session.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};

use super::session::{Rules, Session};
use super::{Error, Result};

/// How often two sessions are compared.
const COMPARED: usize = 5;
/// How long a second session is waited for: a server may have only one left, which is nothing
/// to be refused.
const SECOND: Duration = Duration::from_secs(2);

/// Sets a session up, and shows that it belongs to its connection.
///
/// What we set belongs to a session. Such a pooler would hand it to others and give us theirs:
/// then two connections of ours meet in one session, or one of them moves to another session
/// while the other one has a transaction open.
///
/// # Errors
/// [`Error::Unusable`] if it does not, and what connecting and setting up may give.
pub(super) async fn check_session(connect: &PgConnectOptions, rules: &Rules) -> Result<()> {
    let mut one = connect.connect().await?;
    one.set_up(rules).await?;
    let other = tokio::time::timeout(SECOND, connect.connect()).await;
    let is_pooled = match other {
        Ok(Ok(mut other)) => {
            // The server's own settings must not decide what follows.
            other.set_up(rules).await?;
            let compared = tokio::time::timeout(SECOND, share(&mut one, &mut other)).await;
            // Its transaction ends with it.
            drop(other);
            compared.unwrap_or(Ok(false))?
        }
        _ => false,
    };
    one.close().await?;
    if !is_pooled {
        return Ok(());
    }
    Err(Error::Unusable(
        "each transaction gets another session of the server (transaction pooling), and what ends \
         a frozen instance's transaction, and prepared statements, belong to a session: let the \
         pooler give each connection a session of its own (pool_mode = session in PgBouncer), or \
         connect to the server itself"
            .into(),
    ))
}

async fn share(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool> {
    for _ in 0..COMPARED {
        let before = backend_of(one).await?;
        match other.execute(sqlx::raw_sql("begin")).await {
            Ok(_) => {}
            Err(error) if gives_each_statement_a_session(&error) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        if backend_of(other).await? == before || backend_of(one).await? != before {
            return Ok(true);
        }
        other.execute(sqlx::raw_sql("rollback")).await?;
    }
    Ok(false)
}

/// Whether a pooler refuses every transaction (`pool_mode = statement`). Any other error of a
/// `begin` is an outage: a server that ends just then must not be taken for a pooler.
fn gives_each_statement_a_session(error: &sqlx::Error) -> bool {
    let refusal = error.as_database_error();
    refusal.is_some_and(|refusal| refusal.message().contains("transaction blocks not allowed"))
}

/// The server's process, without a prepared statement, which a pooler may not know.
async fn backend_of(connection: &mut PgConnection) -> Result<String> {
    let row = sqlx::raw_sql("select pg_backend_pid()::text").fetch_one(connection).await?;
    Ok(row.try_get(0)?)
}
