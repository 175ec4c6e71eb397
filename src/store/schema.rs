//! Bringing the tables up to this version, once, however many instances start together, and
//! never in the place of tables that belong to somebody else.
//!
//! The row of the lease table says which step has been begun: DDL is not transactional on
//! every database, and the tables that an interrupted step left must not be mistaken for
//! foreign ones. So the lease table is created before all others, and a table that is there
//! without it, or without a step that accounts for it, is not ours.

use std::collections::BTreeSet;
use std::time::Duration;

use infinite_scheduler_migration::{MIGRATION_TABLE, Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, Statement};

use super::{Error, Hot, Result, Store};

/// A migration that takes longer is taken to have died; every step can be run again.
const LEASE: Duration = Duration::from_secs(60);
/// How often those that wait look whether it is done.
const LOOK: Duration = Duration::from_millis(200);

/// The table of the lease, with the step that was begun under it.
const LEASE_TABLE: &str = "scheduler_schema_lease";
const LEASE_COLUMNS: [&str; 4] = ["id", "holder", "until_us", "begun"];
const MIGRATION_COLUMNS: [&str; 2] = ["version", "applied_at"];

impl Store {
    /// Runs the steps that are missing. Of several instances that start at once one does
    /// it, guarded by a lease row, since the migrator itself takes no lock.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the tables are of a newer version of this program, if a table
    /// has one of our names and is not ours, or if the user may not create tables: nothing was
    /// changed then. [`Error::Unavailable`] if the database cannot be reached: call again.
    pub async fn migrate(&self) -> Result<()> {
        self.refuse_foreign_tables().await?;
        self.create_lease_table().await.map_err(|error| self.explain_denied(error))?;
        let me = fastrand::i64(1..i64::MAX);
        loop {
            self.refuse_newer_schema().await?;
            if self.is_current().await? {
                return Ok(());
            }
            if self.acquire_schema_lease(me).await? {
                let result = self.run_steps().await;
                self.release_schema_lease(me).await?;
                return result.map_err(|error| self.explain_denied(error));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Makes sure that the tables are those of this version, and changes nothing.
    ///
    /// # Errors
    /// [`Error::Unusable`] if they are of another version, not there, or not ours;
    /// [`Error::Unavailable`] if the database cannot be reached.
    pub async fn check_schema(&self) -> Result<()> {
        self.refuse_foreign_tables().await?;
        self.refuse_newer_schema().await?;
        match self.is_current().await? {
            true => Ok(()),
            false => Err(Error::Unusable(
                "the tables of this version are not there: start `infinite-scheduler serve` of this \
                 version on that database, or run `infinite-scheduler migrate`"
                    .into(),
            )),
        }
    }

    /// Takes every step back: all tables of ours and what is in them are gone.
    ///
    /// # Errors
    /// [`Error::Unusable`] if one of the tables is not ours: nothing was changed;
    /// [`Error::Unavailable`] if the database cannot be reached.
    pub async fn migrate_down(&self) -> Result<()> {
        self.refuse_foreign_tables().await?;
        let _turn = self.turn().await;
        Migrator::down(&self.inner.pool, None).await?;
        for table in [MIGRATION_TABLE, LEASE_TABLE] {
            let drop = format!("drop table if exists {table}");
            self.inner.pool.execute_unprepared(&drop).await?;
        }
        Ok(())
    }

    /// The steps that were taken in this database; none where there are no tables.
    ///
    /// # Errors
    /// [`Error::Unusable`] if one of the tables is not ours; [`Error::Unavailable`] if the database
    /// cannot be reached.
    pub async fn steps_taken(&self) -> Result<BTreeSet<String>> {
        self.refuse_foreign_tables().await?;
        self.applied_steps().await
    }

    /// The migrator runs a step and then records it. What was begun is recorded before.
    async fn run_steps(&self) -> Result<()> {
        let _turn = self.turn().await;
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

    /// A table under one of our names that no step of ours made.
    async fn refuse_foreign_tables(&self) -> Result<()> {
        // In this order: what is made meanwhile by another instance is then seen as accounted for.
        let there = self.tables_with_our_names().await?;
        if !there.contains(LEASE_TABLE) {
            return match there.first() {
                Some(table) => Err(self.foreign(table)),
                None => Ok(()),
            };
        }
        self.check_columns(LEASE_TABLE, &LEASE_COLUMNS).await?;
        if there.contains(MIGRATION_TABLE) {
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
            .find(|table| there.contains(*table));
        match foreign {
            Some(table) => Err(self.foreign(table)),
            None => Ok(()),
        }
    }

    fn foreign(&self, table: &str) -> Error {
        let elsewhere = match self.inner.hot {
            Hot::Postgres(_) => {
                "or give the scheduler a database or a schema (search_path) of its own"
            }
            Hot::MySql(_) | Hot::Sqlite(_) => "or give the scheduler a database of its own",
        };
        Error::Unusable(format!(
            "there is a table {table} that is not the scheduler's, and nothing was changed: rename \
             that table, {elsewhere}"
        ))
    }

    async fn check_columns(&self, table: &str, expected: &[&str]) -> Result<()> {
        let columns = match self.inner.hot {
            Hot::Postgres(_) => format!(
                "select column_name::text from information_schema.columns \
                 where table_schema = current_schema() and table_name = '{table}'"
            ),
            Hot::MySql(_) => format!(
                "select cast(column_name as char) from information_schema.columns \
                 where table_schema = database() and table_name = '{table}'"
            ),
            Hot::Sqlite(_) => format!("select name from pragma_table_info('{table}')"),
        };
        let there = self.names(&columns).await?;
        // None: it was dropped meanwhile.
        if there.is_empty() || expected.iter().all(|column| there.contains(*column)) {
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

    /// None where there is no record of them yet.
    async fn applied_steps(&self) -> Result<BTreeSet<String>> {
        if !self.tables_with_our_names().await?.contains(MIGRATION_TABLE) {
            return Ok(BTreeSet::new());
        }
        self.names(&format!("select version from {MIGRATION_TABLE}")).await
    }

    async fn create_lease_table(&self) -> Result<()> {
        let is_there = async || -> Result<bool> {
            Ok(self.tables_with_our_names().await?.contains(LEASE_TABLE))
        };
        if is_there().await? {
            return Ok(());
        }
        let _turn = self.turn().await;
        let create = format!(
            "create table {LEASE_TABLE} (id integer not null primary key, \
             holder bigint not null, until_us bigint not null, begun varchar(64) not null)"
        );
        // Two that create it at once: one is refused, and finds it there.
        let created = self.inner.pool.execute_unprepared(&create).await;
        if created.is_err() && !is_there().await? {
            created?;
        }
        let insert =
            format!("insert into {LEASE_TABLE} (id, holder, until_us, begun) values (1, 0, 0, '')");
        match self.inner.pool.execute_unprepared(&insert).await.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn acquire_schema_lease(&self, me: i64) -> Result<bool> {
        // The row may be missing if whoever made the table died before filling it.
        let insert = format!(
            "insert into {LEASE_TABLE} (id, holder, until_us, begun) \
             select 1, 0, 0, '' from (select 1 as one) as o \
             where not exists (select 1 from {LEASE_TABLE} where id = 1)"
        );
        let now = self.now_us();
        let take = format!(
            "update {LEASE_TABLE} set holder = {me}, until_us = {now} + {} \
             where id = 1 and (holder = 0 or until_us < {now})",
            LEASE.as_micros()
        );
        let _turn = self.turn().await;
        match self.inner.pool.execute_unprepared(&insert).await.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(self.inner.pool.execute_unprepared(&take).await?.rows_affected() == 1)
    }

    async fn release_schema_lease(&self, me: i64) -> Result<()> {
        let release = format!("update {LEASE_TABLE} set holder = 0 where id = 1 and holder = {me}");
        let _turn = self.turn().await;
        self.inner.pool.execute_unprepared(&release).await?;
        Ok(())
    }

    /// Tables and views, in one statement, so that it is one moment's picture.
    async fn tables_with_our_names(&self) -> Result<BTreeSet<String>> {
        let ours = Migrator::tables().into_iter().flat_map(|(_, tables)| tables);
        let all = ours.chain([MIGRATION_TABLE, LEASE_TABLE]);
        let list: Vec<String> = all.map(|table| format!("'{table}'")).collect();
        let list = list.join(", ");
        let find = match self.inner.hot {
            Hot::Postgres(_) => format!(
                "select c.relname::text from pg_catalog.pg_class c \
                 where c.relnamespace = current_schema()::regnamespace and c.relname in ({list})"
            ),
            Hot::MySql(_) => format!(
                "select cast(table_name as char) from information_schema.tables \
                 where table_schema = database() and table_name in ({list})"
            ),
            Hot::Sqlite(_) => format!("select name from sqlite_master where name in ({list})"),
        };
        self.names(&find).await
    }

    /// The first column of what `sql` finds.
    async fn names(&self, sql: &str) -> Result<BTreeSet<String>> {
        let rows = self.query(sql).await?;
        rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
    }

    /// A user who may not create tables is told what to ask for.
    fn explain_denied(&self, error: Error) -> Error {
        let denied = |why: &str| {
            ["permission denied", "command denied", "no schema has been selected"]
                .iter()
                .any(|words| why.contains(words))
        };
        let grant = match self.inner.hot {
            Hot::Postgres(_) => {
                "grant usage, create on schema public to <user> (or on the first schema of its \
                 search_path)"
            }
            Hot::MySql(_) => {
                "grant create, alter, drop, index, select, insert, update, delete on <database>.* to <user>"
            }
            Hot::Sqlite(_) => return error,
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
