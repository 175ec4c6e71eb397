//! What can go wrong with the database, by what the caller will do about it.

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

use super::session::refusal;

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
    /// It answers, and its session is not as we made it: the same again, with a new session.
    #[error("database unavailable: a setting of its session is in the way: {0}")]
    Setting(String),
    /// The database refuses a row for its content: bury that row.
    #[error("database refuses the row: {0}")]
    Refused(String),
    /// Another writer put the same name there at the same moment: read again, then write.
    #[error("another writer was first: {0}")]
    Raced(String),
    /// It will not work until somebody changes something: configuration, rights, schema. A start
    /// ends with it; what runs already tries again, later.
    #[error("{0}")]
    Unusable(String),
}

/// What store functions give back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::ReadOnly(_) | Self::Setting(_) | Self::Raced(_))
    }

    /// Whether the session may be what is wrong, so that another one is to be made.
    pub fn is_of_session(&self) -> bool {
        matches!(self, Self::ReadOnly(_) | Self::Setting(_))
    }

    /// What is wrong, without what that means for the caller.
    pub fn into_reason(self) -> String {
        match self {
            Self::Unavailable(why)
            | Self::ReadOnly(why)
            | Self::Setting(why)
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
        (None, None) if matches!(error, sqlx::Error::PoolTimedOut) => Error::no_connection(),
        (None, None) => Error::Unavailable(error.to_string()),
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
    if let Some(kind) = number.and_then(by_mysql_number) {
        return kind(text);
    }
    match error.code().as_deref() {
        Some("25006") => Error::ReadOnly(text),
        // A deadlock or a serialization failure undid everything: the same again.
        Some("40001" | "40P01") => Error::Raced(text),
        // A prepared statement that this session does not know, or knows already.
        Some("26000" | "42P05") => Error::Setting(text),
        // A table was changed under the session's prepared statements.
        Some("0A000") if text.contains("cached plan") => Error::Setting(text),
        // A password, or a database or schema that is not there: waiting mends none of them.
        Some("3D000" | "3F000") => Error::Unusable(text),
        Some(code) if code.starts_with("28") => Error::Unusable(text),
        // Something is there already: another instance was quicker, or asked for it twice.
        Some("42P06" | "42P07" | "42710") => Error::Unavailable(text),
        // Rights, tables, columns. MySQL has this class for limits, too.
        Some(code) if code.starts_with("42") && number.is_none() => Error::Unusable(text),
        // SQLite's own numbers: a file that is no database, and an error in a statement.
        Some("26") => Error::Unusable(text),
        Some("1") if is_missing(&text) => Error::Unusable(text),
        Some(code) if code.starts_with("22") || code.starts_with("23") => Error::Refused(text),
        _ => Error::Unavailable(text),
    }
}

/// What a number of MySQL and MariaDB means where their SQLSTATE does not say it.
fn by_mysql_number(number: u16) -> Option<fn(String) -> Error> {
    match number {
        // No such database, or no right to it.
        1044 | 1045 | 1049 => Some(Error::Unusable),
        // No such column or table, or no right to it; a statement or a variable that this
        // server does not know; a right that only administrators have.
        1054 | 1064 | 1072 | 1142 | 1143 | 1146 | 1193 | 1227 => Some(Error::Unusable),
        // Any option that is in the way: here that is read_only.
        1290 | 1836 => Some(Error::ReadOnly),
        // sql_big_selects, sql_safe_updates, binlog_format, and the limits of a statement's time.
        1104 | 1175 | 1665 | 1969 | 3024 => Some(Error::Setting),
        // A prepared statement that this session does not know, or has to prepare again.
        1243 | 1615 => Some(Error::Setting),
        _ => None,
    }
}

/// Whether SQLite misses a table or column: it has one number for all errors of a statement.
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
                // Waiting does not make a database of it.
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
            Error::Setting(_) => "setting",
            Error::Refused(_) => "refused",
            Error::Raced(_) => "raced",
            Error::Unusable(_) => "unusable",
        }
    }

    #[test]
    fn only_what_is_the_fault_of_a_row_is_refused() {
        let cases: [(&[&str], &str); 6] = [
            (&["22001", "22P05", "22021", "23502", "23503", "23514"], "refused"),
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
    fn what_a_number_of_mysql_means_is_known_where_its_state_says_too_little() {
        for (number, expected) in [
            (1045, "unusable"),
            (1054, "unusable"),
            (1146, "unusable"),
            (1227, "unusable"),
            (1290, "read-only"),
            (1665, "setting"),
            (1969, "setting"),
            (3024, "setting"),
        ] {
            let error = by_mysql_number(number).unwrap()("as it said".into());
            assert_eq!(kind(&error), expected, "{number}");
        }
        // Too many connections of a user have the state of a syntax error, 42000.
        for number in [1203, 1226, 1205, 1213] {
            assert!(by_mysql_number(number).is_none(), "{number}");
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
