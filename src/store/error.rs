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
        matches!(self, Self::Unavailable(_) | Self::Raced(_))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(database) => of_database(database),
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
    // No such database, or no right to it: MySQL has no SQLSTATE of its own for these.
    let number = error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
    if matches!(number, Some(1044 | 1045 | 1049)) {
        return Error::Unusable(text);
    }
    // MariaDB reports a duplicate, a foreign key and a check alike as 23000.
    match error.code().as_deref() {
        // A deadlock or a serialization failure undid everything: the same again.
        Some("40001" | "40P01") => Error::Raced(text),
        // A password, or a database that is not there: waiting mends neither.
        Some(code) if code.starts_with("28") || code == "3D000" => Error::Unusable(text),
        Some(code) if code.starts_with("22") || code.starts_with("23") => Error::Refused(text),
        _ => Error::Unavailable(text),
    }
}

impl From<sea_orm::DbErr> for Error {
    fn from(error: sea_orm::DbErr) -> Self {
        use sea_orm::{DbErr, RuntimeErr};
        match error {
            DbErr::Exec(RuntimeErr::SqlxError(inner))
            | DbErr::Query(RuntimeErr::SqlxError(inner))
            | DbErr::Conn(RuntimeErr::SqlxError(inner)) => match inner.as_database_error() {
                Some(database) => of_database(database),
                None => Self::Unavailable(inner.to_string()),
            },
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
                ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => {
                    Self::Refused(text)
                }
                _ => Self::Unavailable(text),
            },
            _ => Self::Unavailable(text),
        }
    }
}
