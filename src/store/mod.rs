//! What survives a crash: every query there is, one file per verb.
//!
//! Cold statements go through SeaORM and are the same for all databases. The handful on
//! the path that every job takes (admit, pages, outcomes) is written for each database
//! with the driver beneath it. Nothing here knows of actors or of Kafka.

mod connect;
mod error;
mod schema;
mod sessions;
mod session;
mod pooler;
mod settings;
mod sqlite;

mod apps;
mod known_apps;
mod pauses;
mod instances;
mod members;
mod shards;

mod admit;
mod commands;
mod job_changes;
mod ledger;
mod partitions;
mod keys;
mod letter_state;
mod letters;
mod requests;
mod review;
mod outcomes;
mod packets;
mod pages;
mod lists;
mod columns;
mod audit;
mod steps;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use sea_orm::DatabaseConnection;

pub use admit::{
    Admitted, Advance, Batch, BatchSource, Decision, Entry, Names, PlacedCandidate, Taken, Wait,
};
pub use apps::{AppRow, AppRules, DueJobs};
pub use audit::{AuditCursor, AuditFilter, AuditPage, AuditRow};
pub use commands::{
    ChangeAnswer, ChangeCommand, ChangeRequest, CommandState, Look, Operation, UnknownCommands,
};
pub use connect::{StoreOptions, redact};
pub use error::{Error, Result};
pub use instances::{HeldPartition, InstanceRow, Membership, Observation};
pub use job_changes::{Claim, JobWrite, JobWritten, LocatedJob, StoredJob};
pub use keys::{IdempotencyKey, KeyCursor};
pub use known_apps::KnownApp;
pub use ledger::{LastRecord, LedgerKey, LedgerRow};
pub use letter_state::LetterState;
pub use letters::{Lane, Outgoing, OutgoingVerdicts, ParkedRecord};
pub use lists::{AppShards, JobCount, JobPlace, JobWalk, WalkRange};
pub use members::{InstanceState, KnownInstance};
pub use outcomes::{Ended, Outcome, OutcomeBatch, Tombstone, Written};
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
    /// For everything that is not hot.
    pool: DatabaseConnection,
    /// The heartbeat's own connection, so that no queue in the pool can cost us the lease.
    /// On SQLite it is the pool: there is one writer whatever we do.
    heartbeat: RwLock<DatabaseConnection>,
    /// Makes another one: a connection that does not answer is not waited for.
    connect_heartbeat: Box<dyn Fn() -> DatabaseConnection + Send + Sync>,
    /// Which sessions of the pool are used again.
    sessions: sessions::Sessions,
    /// Asks for a session outside of the pools, to hear what is wrong.
    try_anew: connect::TryAnew,
    /// The drivers beneath, for what is hot.
    hot: Hot,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("hot", &self.hot).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Hot {
    Postgres(sqlx::PgPool),
    MySql(sqlx::MySqlPool),
    Sqlite(Sqlite),
}

/// The right to write through the pool: on SQLite there is one writer at a time, and a
/// fair queue in this process is quicker and kinder than the file's busy loop.
#[derive(Debug)]
struct Turn {
    _guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Store {
    /// Which database this is, for people.
    pub fn kind(&self) -> &'static str {
        match self.inner.hot {
            Hot::Postgres(_) => "PostgreSQL",
            Hot::MySql(_) => "MySQL or MariaDB",
            Hot::Sqlite(_) => "SQLite",
        }
    }

    /// Whether all instances are on one machine, since the database is a file.
    pub fn is_embedded(&self) -> bool {
        matches!(self.inner.hot, Hot::Sqlite(_))
    }

    /// Takes a database that is a file for this process alone, and declares dead whoever had it
    /// before: with the lock in hand nobody of them can be alive. False if another process has
    /// it. A database on a server is shared.
    ///
    /// # Errors
    /// [`Error::Unusable`] where the file system has no locks or refuses them;
    /// [`Error::Unavailable`] if the file cannot be written just now.
    pub async fn take_alone(&self) -> Result<bool> {
        let Hot::Sqlite(sqlite) = &self.inner.hot else { return Ok(true) };
        if !sqlite.take_lock()? {
            return Ok(false);
        }
        self.declare_all_ended().await?;
        Ok(true)
    }

    /// Asks the database to answer at all.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it does not.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.inner.pool.ping().await?)
    }

    /// Closes every connection; nothing works afterwards.
    pub async fn close(&self) {
        if let Hot::Sqlite(sqlite) = &self.inner.hot {
            sqlite.close().await;
        }
        for connection in [self.heartbeat(), self.inner.pool.clone()] {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "closing a connection pool failed");
            }
        }
    }

    /// Abandons the heartbeat's connection and takes a new one.
    pub fn reconnect_heartbeat(&self) {
        let fresh = (self.inner.connect_heartbeat)();
        *self.inner.heartbeat.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    fn heartbeat(&self) -> DatabaseConnection {
        self.inner.heartbeat.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn turn(&self) -> Turn {
        let guard = match &self.inner.hot {
            Hot::Sqlite(sqlite) => Some(sqlite.turn().await),
            _ => None,
        };
        Turn { _guard: guard }
    }

    /// The database's own clock as an SQL expression, in microseconds since the epoch.
    fn now_us(&self) -> &'static str {
        match self.inner.hot {
            Hot::Postgres(_) => "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
            Hot::MySql(_) => "cast(unix_timestamp(now(6)) * 1000000 as signed)",
            Hot::Sqlite(_) => "cast(unixepoch('subsec') * 1000000 as integer)",
        }
    }
}
