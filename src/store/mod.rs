//! The database: every query of the program, one file per subject.
//!
//! Most statements go through SeaORM and are the same for all databases. Those that every job
//! passes (admission, reading of pages, outcomes) are performance-critical; they are written for
//! each database with its own driver. Nothing here depends on actors or on Kafka.

mod connect;
mod error;
mod schema;
mod sessions;
mod session;
mod pooler;
mod settings;
mod sqlite;

mod apps;
mod due;
mod forecast;
mod known_apps;
mod pauses;
mod rates;
mod overrides;
mod instances;
mod members;
mod shards;

mod admit;
mod commands;
mod batch_commands;
mod claims;
mod job_batches;
mod job_changes;
mod tombstones;
mod ledger;
mod partitions;
mod keys;
mod headers;
mod letter_state;
mod letters;
mod outbox;
mod requests;
mod review;
mod outcomes;
mod marks;
mod history;
mod history_row;
mod packets;
mod page;
mod pages;
mod lists;
mod columns;
mod audit;
mod bulk;
mod steps;
mod job_rows;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use sea_orm::DatabaseConnection;
use tokio::sync::Mutex;

pub use admit::{
    Admitted, Advance, Asked, Batch, BatchSource, Decision, Entry, Names, OperationName,
    PlacedCandidate, PlacedOperation, Taken, Told, Wait,
};
pub use apps::{AppRow, AppRules};
pub use audit::{AuditCursor, AuditFilter, AuditPage, AuditRow};
pub use batch_commands::{BatchAnswer, BatchCommand, BatchJob, BatchRequest};
pub use bulk::{BulkCursor, BulkRow, NewBulk, StepEnd};
pub use claims::{Claim, LocatedShard};
pub use commands::{
    ChangeAnswer, ChangeCommand, ChangeRequest, CommandState, Look, Operation, UnknownCommands,
};
pub use connect::{StoreOptions, redact};
pub use due::DueJobs;
pub use error::{Error, Result};
pub use forecast::DueWithin;
pub use history::{EndedJob, HistoryEntry};
pub use history_row::{AttemptState, KeptAttempt};
pub use instances::{COMMANDS, HeldPartition, InstanceRow, Membership, Observation};
pub use job_batches::JobsWrite;
pub use job_changes::{JobWrite, JobWritten, LocatedJob};
pub use job_rows::StoredJob;
pub use keys::{IdempotencyKey, KeyCursor};
pub use known_apps::KnownApp;
pub use ledger::{LastRecord, LedgerKey, LedgerRow};
pub use letter_state::LetterState;
pub use letters::ParkedRecord;
pub use lists::{
    AppShards, EndPlace, EndRange, EndWalk, EndedRow, JobCount, JobPlace, JobVersion, JobWalk,
    VersionWalk, WalkRange,
};
pub use marks::{InstanceEnd, MarkBatch, Marked};
pub use members::{InstanceState, KnownInstance};
pub use outbox::{OrderingKey, Outgoing, OutgoingVerdicts};
pub use outcomes::{Ended, Outcome, OutcomeBatch, Tombstone, Written};
pub use overrides::AppOverrides;
pub use pages::{ListRange, Page, Pages};
pub use partitions::{PartitionRow, Totals};
pub use pauses::{AppInUse, AppState};
pub use requests::RequestStatus;
pub use review::{
    Change, InvalidLetterName, LetterCount, LetterCursor, LetterFilter, LetterName, LetterPage,
    LetterRow, LetterSummary, LetterToReplay, Lookup, ReplayChain,
};
pub use shards::{ShardFence, ShardRow};

use sqlite::Sqlite;

/// The database, cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// For the statements that go through SeaORM.
    pool: DatabaseConnection,
    /// A connection for heartbeats alone, so that a busy pool cannot let the lease expire. On
    /// SQLite it is the pool, because there is only one writer anyway.
    heartbeat: RwLock<DatabaseConnection>,
    /// Creates a replacement for a heartbeat connection that does not answer.
    connect_heartbeat: Box<dyn Fn() -> DatabaseConnection + Send + Sync>,
    /// Decides which sessions of the pool are reused.
    sessions: sessions::Sessions,
    /// Opens a session outside of the pools, whose error explains why the pools have none.
    open_session: connect::OpenSession,
    /// Whose turn it is, on MySQL, to change many jobs at once.
    batch_turns: Mutex<()>,
    /// The database's own driver, for the performance-critical statements.
    driver: Driver,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("driver", &self.driver).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Driver {
    Postgres(sqlx::PgPool),
    MySql(sqlx::MySqlPool),
    Sqlite(Sqlite),
}

/// The permit to write through the pool. SQLite allows one writer at a time; a fair queue within
/// the process is faster than SQLite's own retry loop (`busy_timeout`), which can starve a writer.
#[derive(Debug)]
struct WritePermit {
    _guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Store {
    /// The name of the database system, for messages.
    pub fn kind(&self) -> &'static str {
        match self.inner.driver {
            Driver::Postgres(_) => "PostgreSQL",
            Driver::MySql(_) => "MySQL or MariaDB",
            Driver::Sqlite(_) => "SQLite",
        }
    }

    /// Whether the database is a file, so that all instances run on one machine.
    pub fn is_embedded(&self) -> bool {
        matches!(self.inner.driver, Driver::Sqlite(_))
    }

    /// Locks a database file for this process, and declares all earlier instances dead: while the
    /// lock is held, none of them can be running. Returns false if another process holds the lock.
    /// A database server is shared and is not locked; the result is true.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the file system does not support or permit locks;
    /// [`Error::Unavailable`] if the file cannot be written at the moment.
    pub async fn take_alone(&self) -> Result<bool> {
        let Driver::Sqlite(sqlite) = &self.inner.driver else { return Ok(true) };
        if !sqlite.take_lock()? {
            return Ok(false);
        }
        self.declare_all_ended().await?;
        Ok(true)
    }

    /// Checks that the database answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it does not.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.inner.pool.ping().await?)
    }

    /// Closes every connection. Later calls fail.
    pub async fn close(&self) {
        if let Driver::Sqlite(sqlite) = &self.inner.driver {
            sqlite.close().await;
        }
        for connection in [self.heartbeat(), self.inner.pool.clone()] {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "closing a connection pool failed");
            }
        }
    }

    /// Abandons the heartbeat's connection and opens a new one.
    pub fn reconnect_heartbeat(&self) {
        let fresh = (self.inner.connect_heartbeat)();
        *self.inner.heartbeat.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    fn heartbeat(&self) -> DatabaseConnection {
        self.inner.heartbeat.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn write_permit(&self) -> WritePermit {
        let guard = match &self.inner.driver {
            Driver::Sqlite(sqlite) => Some(sqlite.write_permit().await),
            _ => None,
        };
        WritePermit { _guard: guard }
    }

    /// The database's own clock as an SQL expression, in microseconds since the epoch.
    fn now_us(&self) -> &'static str {
        match self.inner.driver {
            Driver::Postgres(_) => "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
            Driver::MySql(_) => "cast(unix_timestamp(now(6)) * 1000000 as signed)",
            Driver::Sqlite(_) => "cast(unixepoch('subsec') * 1000000 as integer)",
        }
    }
}
