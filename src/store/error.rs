//! The errors of the database, classified by what the caller should do.

mod mysql;

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

use super::session::refusal;

/// A statement or transaction that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database cannot be reached, or cannot execute the statement at the moment. Retry later.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// The server is read-only. Retry later with a new session: after a failover, this one may
    /// still be connected to a replica.
    #[error("database unavailable: it only reads: {0}")]
    ReadOnly(String),
    /// The session does not have the settings or prepared statements that it was created with.
    /// Retry with a new session.
    #[error("database unavailable: a setting of its session is in the way: {0}")]
    Setting(String),
    /// The database refuses a row because of its content. Retrying does not help; the row's
    /// request becomes a dead letter.
    #[error("database refuses the row: {0}")]
    Refused(String),
    /// The error does not show whether a row is at fault or the database. An admission is retried
    /// row by row; for every other statement this counts as [`Unavailable`](Self::Unavailable).
    #[error("database unavailable: {0}")]
    Unclear(String),
    /// Another transaction inserted the same key at the same time, or a deadlock or serialization
    /// failure undid this one. Read again, then write.
    #[error("another writer was first: {0}")]
    Raced(String),
    /// The database cannot be used until its configuration, its permissions or its schema are
    /// changed. It ends a starting instance; a running one retries later.
    #[error("{0}")]
    Unusable(String),
}

/// The result of the functions of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the session may be the cause, so that a new one should be opened.
    pub fn is_of_session(&self) -> bool {
        matches!(self, Self::ReadOnly(_) | Self::Setting(_))
    }

    /// Replaces the pool's own error, which does not say why there is no connection.
    fn no_connection() -> Self {
        Self::Unavailable(
            "no connection became free in time: the server accepts no more, or all of \
             database.max_connections are in use"
                .into(),
        )
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        of_sqlx(&error)
    }
}

impl From<sea_orm::DbErr> for Error {
    fn from(error: sea_orm::DbErr) -> Self {
        use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr};
        match error {
            DbErr::Exec(RuntimeErr::SqlxError(inner))
            | DbErr::Query(RuntimeErr::SqlxError(inner))
            | DbErr::Conn(RuntimeErr::SqlxError(inner)) => of_sqlx(&inner),
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => Self::no_connection(),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

fn of_sqlx(error: &sqlx::Error) -> Error {
    match (error.as_database_error(), refusal(error)) {
        (Some(database), _) => of_database(database),
        (None, Some(refusal)) => Error::Unusable(refusal.to_string()),
        (None, None) if is_password_in_the_clear(error) => Error::Unusable(
            "this server accepts the user's password over TLS only: remove ssl-mode=DISABLED from \
             database.url, or write ssl-mode=REQUIRED; a server without a certificate needs one"
                .into(),
        ),
        (None, None) if is_without_tls(error) => Error::Unusable(format!(
            "{error}: database.url asks for TLS (ssl-mode, sslmode); have the server offer it, or \
             remove that from the URL"
        )),
        (None, None) if matches!(error, sqlx::Error::PoolTimedOut) => Error::no_connection(),
        (None, None) => Error::Unavailable(error.to_string()),
    }
}

/// Without TLS, sqlx could encrypt a `caching_sha2_password` password only by RSA, which is not
/// compiled in. MySQL asks for the password if it does not have it in its cache.
fn is_password_in_the_clear(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Configuration(why) if why.to_string().contains("RSA"))
}

fn is_without_tls(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Tls(why) if why.to_string().contains("does not support TLS"))
}

/// SQLSTATE classes 22 (data) and 23 (constraint) mean that the row is at fault, except for a
/// violated unique key, which means that another transaction was first.
fn of_database(error: &dyn DatabaseError) -> Error {
    let text = error.message().to_owned();
    if error.is_unique_violation() {
        return Error::Raced(text);
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        let state = error.code().unwrap_or_default();
        let kind = mysql::by_number(error.number()).unwrap_or_else(|| mysql::by_state(state));
        return kind(text);
    }
    match error.code().as_deref() {
        Some("25006") => Error::ReadOnly(text),
        // A deadlock or a serialization failure: the transaction was rolled back.
        Some("40001" | "40P01") => Error::Raced(text),
        // A prepared statement that does not exist in this session, or exists already.
        Some("26000" | "42P05") => Error::Setting(text),
        // A table was altered, which invalidates the session's prepared statements.
        Some("0A000") if text.contains("cached plan") => Error::Setting(text),
        // A wrong password, or a missing database or schema: waiting does not help.
        Some("3D000" | "3F000") => Error::Unusable(text),
        Some(code) if code.starts_with("28") => Error::Unusable(text),
        // The object exists already: another instance created it at the same time.
        Some("42P06" | "42P07" | "42710") => Error::Unavailable(text),
        // Missing permissions, tables or columns.
        Some(code) if code.starts_with("42") => Error::Unusable(text),
        // SQLite's codes: the file is not a database, and an error in a statement.
        Some("26") => Error::Unusable(text),
        Some("1") if is_missing(&text) => Error::Unusable(text),
        // 44 is the check option of a view.
        Some(code) if ["22", "23", "44"].iter().any(|class| code.starts_with(class)) => {
            Error::Refused(text)
        }
        // An error raised by a trigger or function, an exceeded limit such as the size of an index
        // entry, and an unsupported feature.
        Some(code) if ["P0", "54", "38", "39", "21", "0A"].iter().any(|c| code.starts_with(c)) => {
            Error::Unclear(text)
        }
        _ => Error::Unavailable(text),
    }
}

/// Whether a table or column is missing. SQLite has one code for all errors of a statement.
fn is_missing(text: &str) -> bool {
    text.contains("no such table")
        || text.contains("no such column")
        || text.contains("has no column named")
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
        let text = error.to_string();
        match &error {
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::ConstraintViolation
                    if matches!(
                        failure.extended_code,
                        SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_UNIQUE
                    ) =>
                {
                    Self::Raced(text)
                }
                ErrorCode::NotADatabase => Self::Unusable(text),
                ErrorCode::Unknown if is_missing(&text) => Self::Unusable(text),
                ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => {
                    Self::Refused(text)
                }
                _ => Self::Unavailable(text),
            },
            rusqlite::Error::SqlInputError { .. } if is_missing(&text) => Self::Unusable(text),
            _ => Self::Unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::fmt;

    use rusqlite::ffi;
    use sqlx::error::ErrorKind;

    use super::*;

    /// An error of a server with this SQLSTATE.
    #[derive(Debug)]
    struct Said(&'static str);

    impl fmt::Display for Said {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Said {}

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            "as it said"
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn kind(&self) -> ErrorKind {
            match self.0 {
                "23505" => ErrorKind::UniqueViolation,
                _ => ErrorKind::Other,
            }
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
    }

    pub(super) fn kind(error: &Error) -> &'static str {
        match error {
            Error::Unavailable(_) => "unavailable",
            Error::ReadOnly(_) => "read-only",
            Error::Setting(_) => "setting",
            Error::Refused(_) => "refused",
            Error::Unclear(_) => "unclear",
            Error::Raced(_) => "raced",
            Error::Unusable(_) => "unusable",
        }
    }

    #[test]
    fn only_what_is_the_fault_of_a_row_is_refused() {
        let cases: [(&[&str], &str); 7] = [
            (&["P0001", "54000", "39000", "0A000"], "unclear"),
            (&["44000", "22001", "22P05", "22021", "23502", "23503", "23514"], "refused"),
            (&["23505", "40001", "40P01"], "raced"),
            (&["25006"], "read-only"),
            (&["26000", "42P05"], "setting"),
            (&["28000", "28P01", "3D000", "3F000", "42501", "42P01", "42703", "42601"], "unusable"),
            (
                &[
                    "08006", "08S01", "25P02", "25P03", "42P07", "53100", "53200", "53300",
                    "55P03", "57014", "57P01", "57P02", "57P03", "58030", "70100", "HY000",
                    "XX000",
                ],
                "unavailable",
            ),
        ];
        for (codes, expected) in cases {
            for code in codes {
                let of_sqlx = sqlx::Error::Database(Box::new(Said(code)));
                assert_eq!(kind(&of_sqlx.into()), expected, "{code} by sqlx");
                let error = sqlx::Error::Database(Box::new(Said(code)));
                let error = sea_orm::RuntimeErr::SqlxError(error.into());
                assert_eq!(kind(&sea_orm::DbErr::Exec(error).into()), expected, "{code}");
            }
        }
    }

    #[test]
    fn only_what_is_the_fault_of_a_row_is_refused_by_a_file() {
        let cases: [(&[i32], &str); 3] = [
            (
                &[ffi::SQLITE_CONSTRAINT_CHECK, ffi::SQLITE_CONSTRAINT_NOTNULL, ffi::SQLITE_TOOBIG],
                "refused",
            ),
            (&[ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_CONSTRAINT_PRIMARYKEY], "raced"),
            (
                &[
                    ffi::SQLITE_BUSY,
                    ffi::SQLITE_LOCKED,
                    ffi::SQLITE_FULL,
                    ffi::SQLITE_IOERR,
                    ffi::SQLITE_READONLY,
                    ffi::SQLITE_CANTOPEN,
                    ffi::SQLITE_NOMEM,
                ],
                "unavailable",
            ),
        ];
        for (codes, expected) in cases {
            for code in codes {
                let error = rusqlite::Error::SqliteFailure(ffi::Error::new(*code), None);
                assert_eq!(kind(&error.into()), expected, "{code}");
            }
        }
    }

    #[test]
    fn a_table_or_column_that_is_missing_is_no_outage_on_sqlite() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch("create table a (b)").unwrap();
        for sql in ["select 1 from c", "select c from a", "insert into a (c) values (1)"] {
            let error = Error::from(connection.prepare(sql).unwrap_err());
            assert_eq!(kind(&error), "unusable", "{sql}: {error}");
        }
    }

    #[test]
    fn a_pool_without_a_connection_says_what_that_may_mean() {
        let acquire = sea_orm::error::ConnAcquireErr::Timeout;
        for error in [
            Error::from(sqlx::Error::PoolTimedOut),
            Error::from(sea_orm::DbErr::ConnectionAcquire(acquire)),
        ] {
            assert!(error.to_string().contains("database.max_connections"), "{error}");
        }
    }
}
