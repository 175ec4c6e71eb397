//! Migrates the tables to this version, once, however many instances start at the same time, and
//! without touching tables of another program that have the same names. A *step* is one migration.
//!
//! The row of the lease table records which step was begun: DDL is not transactional on every
//! database, and the tables of an interrupted step must not be mistaken for foreign ones. So the
//! lease table is created before all others. A table with one of our names is foreign if there is
//! no lease table, or if no step that creates it was applied or begun.

use std::collections::BTreeSet;
use std::time::Duration;

use infinite_scheduler_migration::{MIGRATION_TABLE, Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, Statement};

use super::{Driver, Error, Result, Store};

/// A migration that takes longer is assumed to have crashed; every step can be repeated.
const LEASE: Duration = Duration::from_secs(60);
/// How often waiting instances check whether the migration is done.
const LOOK: Duration = Duration::from_millis(200);

/// The table of the lease, with the step that was begun.
const LEASE_TABLE: &str = "scheduler_schema_lease";
const LEASE_COLUMNS: [&str; 4] = ["id", "holder", "until_us", "begun"];
const MIGRATION_COLUMNS: [&str; 2] = ["version", "applied_at"];

impl Store {
    /// Runs the missing steps. If several instances start at the same time, one of them does it,
    /// under a lease, since the migrator itself takes no lock.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the tables are of a newer version, if a foreign table has the name of
    /// one of them, or if the user may not create tables; nothing was changed then.
    /// [`Error::Unavailable`] if the database is unavailable; the call can be repeated.
    pub async fn migrate(&self) -> Result<()> {
        self.refuse_foreign_tables().await?;
        self.create_lease_table().await.map_err(|error| self.explain_denied(error))?;
        // Identifies this call as the holder of the lease.
        let holder = fastrand::i64(1..i64::MAX);
        loop {
            self.refuse_newer_schema().await?;
            if self.is_current().await? {
                return Ok(());
            }
            if self.acquire_schema_lease(holder).await? {
                let result = self.run_steps().await;
                self.release_schema_lease(holder).await?;
                return result.map_err(|error| self.explain_denied(error));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Checks that the tables are those of this version. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Unusable`] if they are of another version, missing, or foreign;
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn check_schema(&self) -> Result<()> {
        self.refuse_foreign_tables().await?;
        self.refuse_newer_schema().await?;
        match self.is_current().await? {
            true => Ok(()),
            false => Err(Error::Unusable(
                "the tables of this version do not exist: start `infinite-scheduler serve` of this \
                 version on that database, or run `infinite-scheduler migrate`"
                    .into(),
            )),
        }
    }

    /// Reverts every step: drops all tables of the scheduler, with their content.
    ///
    /// # Errors
    /// [`Error::Unusable`] if one of the tables is foreign; nothing was changed then.
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn migrate_down(&self) -> Result<()> {
        self.refuse_foreign_tables().await?;
        let _permit = self.write_permit().await;
        Migrator::down(&self.inner.pool, None).await?;
        for table in [MIGRATION_TABLE, LEASE_TABLE] {
            let drop = format!("drop table if exists {table}");
            self.inner.pool.execute_unprepared(&drop).await?;
        }
        Ok(())
    }

    /// The steps that were applied to this database; none if there are no tables.
    ///
    /// # Errors
    /// [`Error::Unusable`] if one of the tables is foreign; [`Error::Unavailable`] if the database is
    /// unavailable.
    pub async fn applied_migrations(&self) -> Result<BTreeSet<String>> {
        self.refuse_foreign_tables().await?;
        self.applied_steps().await
    }

    /// The migrator records a step after running it. The lease row records it before, so that the
    /// tables of an interrupted step are known to be ours.
    async fn run_steps(&self) -> Result<()> {
        let _permit = self.write_permit().await;
        let applied = self.applied_steps().await?;
        for (step, _) in Migrator::tables() {
            if applied.contains(&step) {
                continue;
            }
            let begin = format!("update {LEASE_TABLE} set begun = '{step}' where id = 1");
            self.inner.pool.execute_unprepared(&begin).await?;
            Migrator::up(&self.inner.pool, Some(1)).await?;
        }
        let end = format!("update {LEASE_TABLE} set begun = '' where id = 1");
        self.inner.pool.execute_unprepared(&end).await?;
        Ok(())
    }

    /// Fails if there is a table with one of our names that no step of ours created.
    async fn refuse_foreign_tables(&self) -> Result<()> {
        // The tables are listed before the steps are read: a table that another instance creates in
        // between is not in the list, and not mistaken for a foreign one.
        let existing = self.tables_with_our_names().await?;
        if !existing.contains(LEASE_TABLE) {
            return match existing.first() {
                Some(table) => Err(self.foreign(table)),
                None => Ok(()),
            };
        }
        self.check_columns(LEASE_TABLE, &LEASE_COLUMNS).await?;
        if existing.contains(MIGRATION_TABLE) {
            self.check_columns(MIGRATION_TABLE, &MIGRATION_COLUMNS).await?;
        }
        let begun = self.query(&format!("select begun from {LEASE_TABLE} where id = 1")).await?;
        let begun: Option<String> = begun.first().map(|row| row.try_get_by_index(0)).transpose()?;
        let applied = self.applied_steps().await?;
        let ours = |step: &String| applied.contains(step) || begun.as_ref() == Some(step);
        let foreign = Migrator::tables()
            .into_iter()
            .filter(|(step, _)| !ours(step))
            .flat_map(|(_, tables)| tables)
            .find(|table| existing.contains(*table));
        match foreign {
            Some(table) => Err(self.foreign(table)),
            None => Ok(()),
        }
    }

    fn foreign(&self, table: &str) -> Error {
        let elsewhere = match self.inner.driver {
            Driver::Postgres(_) => {
                "or give the scheduler a database or a schema (search_path) of its own"
            }
            Driver::MySql(_) | Driver::Sqlite(_) => "or give the scheduler a database of its own",
        };
        Error::Unusable(format!(
            "there is a table {table} that is not the scheduler's, and nothing was changed: rename \
             that table, {elsewhere}"
        ))
    }

    async fn check_columns(&self, table: &str, expected: &[&str]) -> Result<()> {
        let columns = match self.inner.driver {
            Driver::Postgres(_) => format!(
                "select column_name::text from information_schema.columns \
                 where table_schema = current_schema() and table_name = '{table}'"
            ),
            Driver::MySql(_) => format!(
                "select cast(column_name as char) from information_schema.columns \
                 where table_schema = database() and table_name = '{table}'"
            ),
            Driver::Sqlite(_) => format!("select name from pragma_table_info('{table}')"),
        };
        let existing = self.names(&columns).await?;
        // Without columns, it was dropped in the meantime.
        if existing.is_empty() || expected.iter().all(|column| existing.contains(*column)) {
            return Ok(());
        }
        Err(self.foreign(table))
    }

    async fn is_current(&self) -> Result<bool> {
        let applied = self.applied_steps().await?;
        Ok(Migrator::migrations().iter().all(|step| applied.contains(step.name())))
    }

    async fn refuse_newer_schema(&self) -> Result<()> {
        let known = Migrator::migrations();
        let applied = self.applied_steps().await?;
        let unknown = applied.iter().find(|step| known.iter().all(|known| known.name() != **step));
        match unknown {
            None => Ok(()),
            Some(step) => Err(Error::Unusable(format!(
                "the database has the schema of a newer version (step {step} is unknown to {}): \
                 start that version, or give this one another database",
                env!("CARGO_PKG_VERSION")
            ))),
        }
    }

    /// The applied steps; none if the table that records them does not exist yet.
    async fn applied_steps(&self) -> Result<BTreeSet<String>> {
        if !self.tables_with_our_names().await?.contains(MIGRATION_TABLE) {
            return Ok(BTreeSet::new());
        }
        self.names(&format!("select version from {MIGRATION_TABLE}")).await
    }

    async fn create_lease_table(&self) -> Result<()> {
        let exists = async || -> Result<bool> {
            Ok(self.tables_with_our_names().await?.contains(LEASE_TABLE))
        };
        if exists().await? {
            return Ok(());
        }
        let _permit = self.write_permit().await;
        let create = format!(
            "create table {LEASE_TABLE} (id integer not null primary key, \
             holder bigint not null, until_us bigint not null, begun varchar(64) not null)"
        );
        // If two instances create it at the same time, one fails and finds it existing.
        let created = self.inner.pool.execute_unprepared(&create).await;
        if created.is_err() && !exists().await? {
            created?;
        }
        let insert =
            format!("insert into {LEASE_TABLE} (id, holder, until_us, begun) values (1, 0, 0, '')");
        match self.inner.pool.execute_unprepared(&insert).await.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn acquire_schema_lease(&self, holder: i64) -> Result<bool> {
        // The row is missing if the instance that created the table crashed before inserting it.
        let insert = format!(
            "insert into {LEASE_TABLE} (id, holder, until_us, begun) \
             select 1, 0, 0, '' from (select 1 as one) as o \
             where not exists (select 1 from {LEASE_TABLE} where id = 1)"
        );
        let now = self.now_us();
        let take = format!(
            "update {LEASE_TABLE} set holder = {holder}, until_us = {now} + {} \
             where id = 1 and (holder = 0 or until_us < {now})",
            LEASE.as_micros()
        );
        let _permit = self.write_permit().await;
        match self.inner.pool.execute_unprepared(&insert).await.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(self.inner.pool.execute_unprepared(&take).await?.rows_affected() == 1)
    }

    async fn release_schema_lease(&self, holder: i64) -> Result<()> {
        let release =
            format!("update {LEASE_TABLE} set holder = 0 where id = 1 and holder = {holder}");
        let _permit = self.write_permit().await;
        self.inner.pool.execute_unprepared(&release).await?;
        Ok(())
    }

    /// Tables and views, in one statement, so that the result is consistent.
    async fn tables_with_our_names(&self) -> Result<BTreeSet<String>> {
        let ours = Migrator::tables().into_iter().flat_map(|(_, tables)| tables);
        let all = ours.chain([MIGRATION_TABLE, LEASE_TABLE]);
        let list: Vec<String> = all.map(|table| format!("'{table}'")).collect();
        let list = list.join(", ");
        let find = match self.inner.driver {
            Driver::Postgres(_) => format!(
                "select c.relname::text from pg_catalog.pg_class c \
                 where c.relnamespace = current_schema()::regnamespace and c.relname in ({list})"
            ),
            Driver::MySql(_) => format!(
                "select cast(table_name as char) from information_schema.tables \
                 where table_schema = database() and table_name in ({list})"
            ),
            Driver::Sqlite(_) => format!("select name from sqlite_master where name in ({list})"),
        };
        self.names(&find).await
    }

    /// The first column of the rows that `sql` returns.
    async fn names(&self, sql: &str) -> Result<BTreeSet<String>> {
        let rows = self.query(sql).await?;
        rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
    }

    /// Adds to the error of a user without permission to create tables which statement grants it.
    fn explain_denied(&self, error: Error) -> Error {
        let denied = |why: &str| {
            ["permission denied", "command denied", "no schema has been selected"]
                .iter()
                .any(|words| why.contains(words))
        };
        let grant = match self.inner.driver {
            Driver::Postgres(_) => {
                "grant usage, create on schema public to <user> (or on the first schema of its \
                 search_path)"
            }
            Driver::MySql(_) => {
                "grant create, alter, drop, index, select, insert, update, delete on <database>.* to <user>"
            }
            Driver::Sqlite(_) => return error,
        };
        match error {
            Error::Unavailable(why) | Error::Unusable(why) if denied(&why) => Error::Unusable(
                format!("the tables cannot be created: {why}; let an administrator run: {grant}"),
            ),
            other => other,
        }
    }

    pub(super) async fn query(&self, sql: &str) -> Result<Vec<sea_orm::QueryResult>> {
        let statement = Statement::from_string(self.inner.pool.get_database_backend(), sql);
        Ok(self.inner.pool.query_all_raw(statement).await?)
    }
}
