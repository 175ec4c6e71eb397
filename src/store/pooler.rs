//! Detects transaction pooling: a pooler in front of PostgreSQL that assigns each transaction
//! another session.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};

use super::session::{Rules, Session};
use super::{Error, Result};

/// How many times two sessions are compared.
const COMPARED: usize = 5;
/// The longest wait for the second session, and for the comparison. A server that has no session
/// left for it is not refused.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Sets a session up, and verifies that no pooler assigns it to other connections as well.
///
/// Settings belong to a session. With transaction pooling, sessions are shared by all clients: two
/// of our connections are then served by one session, or one of them changes its session while the
/// other has a transaction open.
///
/// # Errors
/// [`Error::Unusable`] if one does, and the errors of connecting and setting up.
pub(super) async fn refuse_transaction_pooling(
    connect: &PgConnectOptions,
    rules: &Rules,
) -> Result<()> {
    let mut one = connect.connect().await?;
    one.set_up(rules).await?;
    let other = tokio::time::timeout(MAX_WAIT, connect.connect()).await;
    let is_pooled = match other {
        Ok(Ok(mut other)) => {
            // The comparison must not depend on the server's own settings.
            other.set_up(rules).await?;
            let compared =
                tokio::time::timeout(MAX_WAIT, share_a_session(&mut one, &mut other)).await;
            // Closes the connection, which ends a transaction that is still open.
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
        "each transaction gets another session of the server (transaction pooling), but prepared \
         statements and the setting that ends the transaction of a frozen instance belong to a \
         session: let the pooler give each connection a session of its own (pool_mode = session \
         in PgBouncer), or connect to the server directly"
            .into(),
    ))
}

async fn share_a_session(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool> {
    for _ in 0..COMPARED {
        let before = backend_of(one).await?;
        match other.execute(sqlx::raw_sql("begin")).await {
            Ok(_) => {}
            Err(error) if is_statement_pooling(&error) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        if backend_of(other).await? == before || backend_of(one).await? != before {
            return Ok(true);
        }
        other.execute(sqlx::raw_sql("rollback")).await?;
    }
    Ok(false)
}

/// Whether a pooler refuses every transaction (`pool_mode = statement`). Any other error of `begin`
/// is an outage, such as a server that shuts down at that moment.
fn is_statement_pooling(error: &sqlx::Error) -> bool {
    let refusal = error.as_database_error();
    refusal.is_some_and(|refusal| refusal.message().contains("transaction blocks not allowed"))
}

/// The id of the server process. No prepared statement is used, because a pooler may not support it.
async fn backend_of(connection: &mut PgConnection) -> Result<String> {
    let row = sqlx::raw_sql("select pg_backend_pid()::text").fetch_one(connection).await?;
    Ok(row.try_get(0)?)
}
