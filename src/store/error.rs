//! What can go wrong with the database, by what the caller will do about it.

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

/// A statement or transaction that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database cannot be reached or cannot do it just now: the same again, later.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// It answers and does not write: the same again, later, and with a new session, since
    /// after a failover this one may have stayed with a server that only reads.
    #[error("database unavailable: it only reads: {0}")]
    ReadOnly(String),
    /// The database refuses a row for its content: bury that row.
    #[error("database refuses the row: {0}")]
    Refused(String),
    /// Another writer put the same name there at the same moment: read again, then write.
    #[error("another writer was first: {0}")]
    Raced(String),
    /// It will not work however often it is tried: configuration or schema.
    #[error("{0}")]
    Unusable(String),
}

/// What store functions give back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::ReadOnly(_) | Self::Raced(_))
    }

    /// What is wrong, without what that means for the caller.
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Unavailable(why)
            | Self::ReadOnly(why)
            | Self::Refused(why)
            | Self::Raced(why)
            | Self::Unusable(why) => why,
        }
    }

    /// A pool's own error does not say why it has no connection to give.
    fn no_connection() -> Self {
        Self::Unavailable(
            "no connection to be had in time: the server takes no more, or all of \
             database.max_connections are in use"
                .into(),
        )
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(database) => of_database(database),
            None if matches!(error, sqlx::Error::PoolTimedOut) => Self::no_connection(),
            None => Self::Unavailable(error.to_string()),
        }
    }
}

/// SQLSTATE classes 22 (data) and 23 (constraint) are the row's own fault, except that a
/// unique key that is taken means that somebody was quicker.
fn of_database(error: &dyn DatabaseError) -> Error {
    let text = error.message().to_owned();
    if error.is_unique_violation() {
        return Error::Raced(text);
    }
    let number = error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
    // MariaDB reports a duplicate, a foreign key and a check alike as 23000.
    match error.code().as_deref() {
        // No such database, or no right to it: MySQL has no SQLSTATE of its own for these.
        _ if matches!(number, Some(1044 | 1045 | 1049)) => Error::Unusable(text),
        // Whoever writes divides what is too much at once; a single row stays too large.
        _ if number == Some(1153) => Error::Unavailable(format!(
            "{text}: raise max_allowed_packet on the server, or lower ingest.max_record_bytes"
        )),
        // Of MySQL's, the first is any option that is in the way; here that is read_only.
        Some("25006") => Error::ReadOnly(text),
        _ if matches!(number, Some(1290 | 1836)) => Error::ReadOnly(text),
        // A deadlock or a serialization failure undid everything: the same again.
        Some("40001" | "40P01") => Error::Raced(text),
        // A password, or a database that is not there: waiting mends neither.
        Some(code) if code.starts_with("28") || code == "3D000" => Error::Unusable(text),
        // SQLite's own number for a file that is no database.
        Some("26") => Error::Unusable(text),
        Some(code) if code.starts_with("22") || code.starts_with("23") => Error::Refused(text),
        _ => Error::Unavailable(text),
    }
}

impl From<sea_orm::DbErr> for Error {
    fn from(error: sea_orm::DbErr) -> Self {
        use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr};
        match error {
            DbErr::Exec(RuntimeErr::SqlxError(inner))
            | DbErr::Query(RuntimeErr::SqlxError(inner))
            | DbErr::Conn(RuntimeErr::SqlxError(inner)) => match inner.as_database_error() {
                Some(database) => of_database(database),
                None => Self::Unavailable(inner.to_string()),
            },
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => Self::no_connection(),
            other => Self::Unavailable(other.to_string()),
        }
    }
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
                // Waiting does not make a database of it.
                ErrorCode::NotADatabase => Self::Unusable(text),
                ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => {
                    Self::Refused(text)
                }
                _ => Self::Unavailable(text),
            },
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

    /// What a server said, by its SQLSTATE.
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

    fn kind(error: &Error) -> &'static str {
        match error {
            Error::Unavailable(_) => "unavailable",
            Error::ReadOnly(_) => "read-only",
            Error::Refused(_) => "refused",
            Error::Raced(_) => "raced",
            Error::Unusable(_) => "unusable",
        }
    }

    #[test]
    fn only_what_is_the_fault_of_a_row_is_refused() {
        let cases: [(&[&str], &str); 5] = [
            (&["22001", "22P05", "22021", "23502", "23503", "23514"], "refused"),
            (&["23505", "40001", "40P01"], "raced"),
            (&["25006"], "read-only"),
            (&["28000", "28P01", "3D000"], "unusable"),
            (
                &[
                    "08006", "08S01", "25P02", "25P03", "42501", "42P01", "53100", "53200",
                    "53300", "55P03", "57014", "57P01", "57P02", "57P03", "58030", "70100",
                    "HY000", "XX000",
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
