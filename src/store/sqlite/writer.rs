//! The writer's thread: it commits together what was queued during its last commit.
//!
//! A commit costs one sync of the file, whether it contains one job or ten thousand, so tasks share
//! one. They run in one transaction without savepoints, which would cost a third of the thread's
//! time: SQLite copies each page that a savepoint changes. If a task fails, the transaction is
//! rolled back, and the tasks before it run again, this time each in a savepoint.

use std::sync::mpsc::{Receiver, Sender};

use rusqlite::Connection;
use tokio::sync::{Mutex, oneshot};

use crate::store::{Error, Result};

/// The most tasks that share one commit.
const GROUP: usize = 64;

/// A request to the thread.
pub(super) enum Request {
    Write(Box<dyn Task>),
    Close(oneshot::Sender<()>),
}

/// A change of the database whose caller waits for the commit.
pub(super) trait Task: Send {
    /// Makes the change. Returns false if it is to be undone. It may be called again after that.
    fn run(&mut self, connection: &Connection) -> bool;

    /// Sends the caller the result of the last run, if the commit succeeded, or else its error.
    fn finish(self: Box<Self>, commit: Result<()>);
}

/// A [`Task`] made from a closure.
struct Work<T, F> {
    run: F,
    keep: fn(&T) -> bool,
    result: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T, F> Task for Work<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let result = (self.run)(connection);
        let kept = result.as_ref().is_ok_and(self.keep);
        self.result = Some(result);
        kept
    }

    fn finish(self: Box<Self>, commit: Result<()>) {
        let Self { result, answer, .. } = *self;
        // The caller may have been dropped.
        drop(answer.send(commit.and_then(|()| result.unwrap_or_else(|| Err(closed())))));
    }
}

/// Runs `run` on the thread and returns after the commit. If it fails, or `keep` returns false for
/// its value, only its own changes are undone.
pub(super) async fn write<T, F>(queue: &Sender<Request>, keep: fn(&T) -> bool, run: F) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&Connection) -> Result<T> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let task = Box::new(Work { run, keep, result: None, answer });
    queue.send(Request::Write(task)).map_err(|_| closed())?;
    answered.await.map_err(|_| closed())?
}

fn closed() -> Error {
    Error::Unavailable("the database was closed".into())
}

/// Processes the queue until it is closed. `permit` is held during a transaction.
pub(super) fn serve(connection: &Connection, requests: &Receiver<Request>, permit: &Mutex<()>) {
    while let Ok(first) = requests.recv() {
        let close = match first {
            Request::Write(task) => {
                let _permit = permit.blocking_lock();
                write_group(connection, task, requests)
            }
            Request::Close(done) => Some(done),
        };
        if let Some(done) = close {
            done.send(()).ok();
            return;
        }
    }
}

/// Runs `first` and the tasks queued after it in one transaction. Returns the request to close, if
/// there was one.
fn write_group(
    connection: &Connection,
    first: Box<dyn Task>,
    requests: &Receiver<Request>,
) -> Option<oneshot::Sender<()>> {
    let mut group = Group { connection, done: Vec::new(), failed: Vec::new(), savepoints: false };
    let mut open = begin(connection);
    let mut close = None;
    let mut next = Some(first);
    while let Some(task) = next.take() {
        open = match open {
            Ok(()) => group.add(task),
            Err(why) => {
                task.finish(Err(Error::Unavailable(why.clone())));
                Err(why)
            }
        };
        if group.len() < GROUP {
            match requests.try_recv() {
                Ok(Request::Write(task)) => next = Some(task),
                Ok(Request::Close(done)) => close = Some(done),
                Err(_) => {}
            }
        }
    }
    if let Err(why) = &open {
        tracing::warn!("the database file cannot be written: {why}");
    }
    group.commit(open);
    close
}

/// The tasks of one transaction.
struct Group<'c> {
    connection: &'c Connection,
    /// Tasks whose changes are in the transaction.
    done: Vec<Box<dyn Task>>,
    /// Tasks whose changes were undone.
    failed: Vec<Box<dyn Task>>,
    /// Whether each task runs in a savepoint: after the first failure of the group.
    savepoints: bool,
}

impl Group<'_> {
    fn len(&self) -> usize {
        self.done.len() + self.failed.len()
    }

    /// Runs a task.
    ///
    /// # Errors
    /// The reason why the transaction was rolled back.
    fn add(&mut self, mut task: Box<dyn Task>) -> std::result::Result<(), String> {
        if self.savepoints {
            return self.add_in_savepoint(task);
        }
        if task.run(self.connection) {
            self.done.push(task);
            return Ok(());
        }
        self.failed.push(task);
        self.savepoints = true;
        roll_back(self.connection);
        let mut open = begin(self.connection);
        for task in std::mem::take(&mut self.done) {
            open = match open {
                Ok(()) => self.add_in_savepoint(task),
                Err(why) => {
                    self.done.push(task);
                    Err(why)
                }
            };
        }
        open
    }

    fn add_in_savepoint(&mut self, mut task: Box<dyn Task>) -> std::result::Result<(), String> {
        let run = |sql| self.connection.execute_batch(sql).map_err(|error| error.to_string());
        let (kept, ended) = match run("savepoint task") {
            Ok(()) if task.run(self.connection) => (true, run("release task")),
            Ok(()) => (false, run("rollback to task; release task")),
            Err(why) => (true, Err(why)),
        };
        // If the transaction cannot continue, the result of a failed task is not reported either.
        if kept || ended.is_err() {
            self.done.push(task);
        } else {
            self.failed.push(task);
        }
        ended
    }

    /// Commits if the transaction is still `open`, and sends all callers their results.
    fn commit(self, open: std::result::Result<(), String>) {
        let committed = open.and_then(|()| {
            self.connection.execute_batch("commit").map_err(|error| error.to_string())
        });
        if committed.is_err() {
            roll_back(self.connection);
        }
        for task in self.done {
            task.finish(committed.clone().map_err(Error::Unavailable));
        }
        for task in self.failed {
            task.finish(Ok(()));
        }
    }
}

/// Begins a transaction that may write.
///
/// # Errors
/// The reason why it cannot, such as another process that writes for longer than the busy timeout.
pub(super) fn begin(connection: &Connection) -> std::result::Result<(), String> {
    connection.execute_batch("begin immediate").map_err(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy) => {
            format!("another process is writing to the file: {error}")
        }
        _ => error.to_string(),
    })
}

/// Rolls back, unless an error has ended the transaction already.
fn roll_back(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("rollback")
    {
        tracing::debug!(%error, "the rollback failed");
    }
}

#[cfg(test)]
mod tests;
