//! A SQLite file: one thread writes ([`writer`]), and reads use another connection. A lock on a
//! separate file prevents a second process from using the database.

mod writer;

use std::fs::TryLockError;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use self::writer::Request;
use super::settings::OF_SQLITE;
use super::{Error, Result};

/// The longest wait for another process that writes to the file.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// The size of a connection's cache of prepared statements.
const STATEMENTS: usize = 64;

/// The file behind a `sqlite:` URL.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    create: bool,
}

impl File {
    /// Parses `sqlite://path?mode=rwc`.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("sqlite:").unwrap_or(url);
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() || path == ":memory:" || query.contains("mode=memory") {
            return Err(Error::Unusable(format!(
                "database.url {url} names no file: jobs must survive a restart, so give a path, \
                 as in sqlite://jobs.db?mode=rwc"
            )));
        }
        Ok(Self { path: PathBuf::from(path), create: query.contains("mode=rwc") })
    }

    fn open(&self) -> Result<Connection> {
        let connection = self.connect()?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // The -wal file grows to 20,000 pages before a checkpoint in any case. The size limit is
        // a bit more than that: if a long read made the file larger, it is truncated afterwards.
        connection.execute_batch(
            "pragma page_size = 8192; pragma journal_mode = wal; pragma synchronous = full;
             pragma cache_size = -65536; pragma wal_autocheckpoint = 20000;
             pragma journal_size_limit = 164800000; pragma temp_store = memory;",
        )?;
        for (name, right, why) in OF_SQLITE {
            let is: Value = connection.pragma_query_value(None, name, |row| row.get(0))?;
            self.check(name, &is, right, why)?;
        }
        Ok(connection)
    }

    /// Checks a pragma, because SQLite reports no error if it cannot be set.
    fn check(&self, name: &str, is: &Value, right: &[&str], why: &str) -> Result<()> {
        let is = match is {
            Value::Text(text) => text.to_lowercase(),
            Value::Integer(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        if right.contains(&is.as_str()) {
            return Ok(());
        }
        Err(Error::Unusable(format!(
            "pragma {name} of the database file {} is {is} and must be {}, since {why}: put the \
             file on a local disk",
            self.path.display(),
            right.join(" or ")
        )))
    }

    /// Locks a separate file next to the database: SQLite's locks are POSIX locks, which a process
    /// loses as soon as it closes any descriptor of the database file.
    fn try_lock(&self) -> Result<Option<std::fs::File>> {
        // The canonical path, so that symbolic links to one file have one lock.
        let mut path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        path.as_mut_os_string().push(".lock");
        let unusable = |error: &dyn std::fmt::Display| {
            Error::Unusable(format!(
                "{} cannot be locked, which prevents a second instance from using the database \
                 file: {error}: put the database into a folder that this user may write, on a file \
                 system with locks",
                path.display()
            ))
        };
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| unusable(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(unusable(&error)),
        }
    }

    fn connect(&self) -> Result<Connection> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if self.create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        Connection::open_with_flags(&self.path, flags).map_err(|error| {
            Error::Unusable(format!(
                "database file {} cannot be opened: {error}",
                self.path.display()
            ))
        })
    }
}

/// The writer's queue, the connection for reads, and the lock of the file.
#[derive(Debug)]
pub(super) struct Sqlite {
    file: Arc<File>,
    /// Held while this process uses the file; the kernel releases it when the process ends.
    lock: std::sync::Mutex<Option<std::fs::File>>,
    queue: Sender<Request>,
    /// Held by whichever connection of this process writes.
    permit: Arc<Mutex<()>>,
    reader: Arc<std::sync::Mutex<Connection>>,
}

impl Sqlite {
    pub(super) fn open(file: &Arc<File>) -> Result<Self> {
        let connection = file.open()?;
        let reader = file.open()?;
        let (queue, requests) = mpsc::channel();
        let permit = Arc::new(Mutex::new(()));
        let permit_of_thread = permit.clone();
        std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || writer::serve(&connection, &requests, &permit_of_thread))
            .map_err(|error| {
                Error::Unusable(format!("no thread for the SQLite writer: {error}"))
            })?;
        let (file, lock) = (file.clone(), std::sync::Mutex::default());
        Ok(Self { file, lock, queue, permit, reader: Arc::new(std::sync::Mutex::new(reader)) })
    }

    /// Waits for the permit to write through another connection of this process.
    pub(super) async fn write_permit(&self) -> OwnedMutexGuard<()> {
        self.permit.clone().lock_owned().await
    }

    /// Runs `run` in a transaction that other tasks may share, and returns after its commit. If `run`
    /// fails, only its own changes are undone. It may be called several times, and then its earlier
    /// changes were rolled back.
    pub(super) async fn write<T, F>(&self, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        writer::write(&self.queue, |_| true, run).await
    }

    /// As [`write`](Self::write), but the changes are also undone if `keep` returns false for the
    /// result.
    pub(super) async fn write_if<T, F>(&self, keep: fn(&T) -> bool, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        writer::write(&self.queue, keep, run).await
    }

    /// Runs `query` on the connection for reads.
    pub(super) async fn read<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let reader = self.reader.clone();
        let run = move || {
            let connection = reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            query(&connection)
        };
        tokio::task::spawn_blocking(run)
            .await
            .map_err(|error| Error::Unavailable(error.to_string()))?
    }

    /// Locks the file. Returns false if another process, or another scheduler of this process,
    /// holds the lock.
    pub(super) fn take_lock(&self) -> Result<bool> {
        let mut lock = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if lock.is_none() {
            *lock = self.file.try_lock()?;
        }
        Ok(lock.is_some())
    }

    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Request::Close(done)).is_ok() {
            drop(closed.await);
        }
        let mut lock = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(lock.take());
    }
}

/// Begins a write transaction on a new connection, without waiting, to see whether that works.
pub(super) async fn open_session(file: Arc<File>) -> Result<()> {
    let asked = tokio::task::spawn_blocking(move || {
        let connection = file.connect()?;
        connection.busy_timeout(Duration::ZERO)?;
        writer::begin(&connection).map_err(Error::Unavailable)
    });
    asked.await.map_err(|error| Error::Unavailable(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wal_file_is_cut_to_what_checkpoints_leave_and_no_shorter() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("jobs.db").display());
        let connection = File::parse(&url).unwrap().open().unwrap();
        let pragma = |name: &str| -> i64 {
            connection.query_row(&format!("pragma {name}"), [], |row| row.get(0)).unwrap()
        };
        // Each page in the -wal file has a header of 24 bytes; the file has one of 32.
        let left = pragma("wal_autocheckpoint") * (pragma("page_size") + 24) + 32;
        let limit = pragma("journal_size_limit");
        assert!((left..left + 1_000_000).contains(&limit), "{limit} for {left}");
    }
}
