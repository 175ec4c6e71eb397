//! The database of a measurement, which must be empty at first.

use std::time::Duration;

use anyhow::Context;
use secrecy::SecretString;
use tempfile::TempDir;

use super::super::{CannotStart, cannot_start};
use super::sql::Sql;
use crate::service::{Scheduler, SchedulerBuilder};
use crate::store::{Store, StoreOptions, redact};

/// Every app and topic of a measurement begins so.
pub(super) const OURS: &str = "bench";
/// The requests of jobs that are pending before a measurement begin so.
pub(super) const PENDING: &str = "bench-pending-";
/// As the scheduler's own default.
const CONNECTIONS: u32 = 10;

pub(super) struct Scratch {
    pub(super) store: Store,
    pub(super) sql: Sql,
    url: String,
    name: String,
    /// The folder of a file that we made ourselves.
    _folder: Option<TempDir>,
}

impl Scratch {
    /// Opens `url`, or a new SQLite file, and makes the tables.
    pub(super) async fn open(url: Option<&str>) -> anyhow::Result<Self> {
        let (url, folder) = match url {
            Some(url) => (url.to_owned(), None),
            None => {
                let folder = folder().context("no temporary folder")?;
                let file = folder.path().join("bench.db");
                (format!("sqlite://{}?mode=rwc", file.display()), Some(folder))
            }
        };
        let options = StoreOptions {
            url: SecretString::from(url.clone()),
            max_connections: CONNECTIONS,
            lease: Duration::from_secs(10),
        };
        let store = Store::connect(&options).await.map_err(cannot_start)?;
        let sql = Sql::connect(&url).await.with_context(|| redact(&url))?;
        refuse_foreign(&sql, &redact(&url)).await?;
        store.migrate().await.map_err(cannot_start)?;
        let name = name_of(&store, &sql).await;
        Ok(Self { store, sql, url, name, _folder: folder })
    }

    /// Which database it is, for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A scheduler on it.
    pub(super) fn builder(&self) -> SchedulerBuilder {
        Scheduler::builder().database_url(&self.url).max_connections(CONNECTIONS)
    }

    /// An id as a literal of SQL.
    pub(super) fn id_literal(&self, id: u128) -> String {
        match self.url.starts_with("postgres") {
            true => format!("'{id:032x}'::uuid"),
            false => format!("x'{id:032x}'"),
        }
    }

    /// The jobs that there are.
    pub(super) async fn jobs(&self) -> anyhow::Result<i64> {
        Ok(self.sql.number("select count(*) from scheduler_job").await?)
    }

    pub(super) async fn close(self, drop_tables: bool) -> anyhow::Result<()> {
        if drop_tables {
            self.store.migrate_down().await?;
        }
        self.sql.close().await;
        self.store.close().await;
        Ok(())
    }
}

/// On a disk, if there is a choice: the usual place may be memory, and a part of what is
/// measured is what durability costs.
fn folder() -> std::io::Result<TempDir> {
    match std::env::var_os("TMPDIR") {
        Some(_) => tempfile::tempdir(),
        None => tempfile::tempdir_in("/var/tmp").or_else(|_| tempfile::tempdir()),
    }
}

/// Refuses a database with anything in it that is not from an earlier measurement.
async fn refuse_foreign(sql: &Sql, shown: &str) -> Result<(), CannotStart> {
    for (what, count) in [
        (
            "jobs",
            format!("select count(*) from scheduler_job where request_id not like '{PENDING}%'"),
        ),
        ("dead letters", "select count(*) from scheduler_dead_letter".to_owned()),
        ("apps", format!("select count(*) from scheduler_app where name not like '{OURS}%'")),
        (
            "topics",
            format!("select count(*) from scheduler_ingest_offset where topic not like '{OURS}%'"),
        ),
    ] {
        // A table that is not there has nothing in it.
        if let Ok(found @ 1..) = sql.number(&count).await {
            return Err(CannotStart(format!(
                "{shown} has {found} {what} in it, and measuring would disturb or delete them: \
                 give an empty database"
            )));
        }
    }
    Ok(())
}

async fn name_of(store: &Store, sql: &Sql) -> String {
    let version = sql.texts("select version()").await.unwrap_or_default();
    match version.first() {
        Some(version) if version.contains("MariaDB") => "MariaDB".into(),
        Some(version) if !version.starts_with("PostgreSQL") => "MySQL".into(),
        _ => store.kind().into(),
    }
}
