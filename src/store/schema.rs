//! Bringing the tables up to this version, once, however many instances start together.

use std::time::Duration;

use infinite_scheduler_migration::{Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, Statement};

use super::{Error, Hot, Result, Store};

/// A migration that takes longer is taken to have died; every step can be run again.
const LEASE: Duration = Duration::from_secs(60);
/// How often those that wait look whether it is done.
const LOOK: Duration = Duration::from_millis(200);

impl Store {
    /// Runs the steps that are missing. Of several instances that start at once one does
    /// it, guarded by a lease row, since the migrator itself takes no lock.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the tables are of a newer version of this program;
    /// [`Error::Unavailable`] if the database is away: nothing is half done, call again.
    pub async fn migrate(&self) -> Result<()> {
        self.create_lease_table().await?;
        let me = fastrand::i64(1..i64::MAX);
        loop {
            self.refuse_newer_schema().await?;
            if self.is_current().await? {
                return Ok(());
            }
            if self.acquire_schema_lease(me).await? {
                let result = {
                    let _turn = self.turn().await;
                    Migrator::up(&self.inner.pool, None).await
                };
                self.release_schema_lease(me).await?;
                return Ok(result?);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Makes sure that the tables are those of this version, and touches nothing.
    ///
    /// # Errors
    /// [`Error::Unusable`] if they are of another version, or not there;
    /// [`Error::Unavailable`] if the database is away.
    pub async fn check_schema(&self) -> Result<()> {
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

    /// Takes every step back: all tables and what is in them are gone.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn migrate_down(&self) -> Result<()> {
        let _turn = self.turn().await;
        Ok(Migrator::down(&self.inner.pool, None).await?)
    }

    async fn is_current(&self) -> Result<bool> {
        if !self.has_table("seaql_migrations").await? {
            return Ok(false);
        }
        let applied = self.applied_steps().await?;
        Ok(Migrator::migrations().iter().all(|step| applied.contains(&step.name().to_owned())))
    }

    async fn refuse_newer_schema(&self) -> Result<()> {
        if !self.has_table("seaql_migrations").await? {
            return Ok(());
        }
        let known = Migrator::migrations();
        let unknown = self
            .applied_steps()
            .await?
            .into_iter()
            .find(|applied| known.iter().all(|step| step.name() != applied));
        match unknown {
            None => Ok(()),
            Some(step) => Err(Error::Unusable(format!(
                "the database has the schema of a newer version (step {step} is unknown to {}): \
                 start that version, or give this one another database",
                env!("CARGO_PKG_VERSION")
            ))),
        }
    }

    async fn applied_steps(&self) -> Result<Vec<String>> {
        let rows = self.query("select version from seaql_migrations").await?;
        rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
    }

    async fn create_lease_table(&self) -> Result<()> {
        if self.has_table("schema_lease").await? {
            return Ok(());
        }
        let _turn = self.turn().await;
        let create = "create table schema_lease (id integer not null primary key, \
                      holder bigint not null, until_us bigint not null)";
        // Two that create it at once: one is refused, and finds it there.
        let created = self.inner.pool.execute_unprepared(create).await;
        if created.is_err() && !self.has_table("schema_lease").await? {
            created?;
        }
        let insert = "insert into schema_lease (id, holder, until_us) values (1, 0, 0)";
        match self.inner.pool.execute_unprepared(insert).await.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn acquire_schema_lease(&self, me: i64) -> Result<bool> {
        // The row may be missing if whoever made the table died before filling it.
        let insert = "insert into schema_lease (id, holder, until_us) \
                      select 1, 0, 0 from (select 1 as one) as o \
                      where not exists (select 1 from schema_lease where id = 1)";
        let now = self.now_us();
        let take = format!(
            "update schema_lease set holder = {me}, until_us = {now} + {} \
             where id = 1 and (holder = 0 or until_us < {now})",
            LEASE.as_micros()
        );
        let _turn = self.turn().await;
        match self.inner.pool.execute_unprepared(insert).await.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(self.inner.pool.execute_unprepared(&take).await?.rows_affected() == 1)
    }

    async fn release_schema_lease(&self, me: i64) -> Result<()> {
        let release = format!("update schema_lease set holder = 0 where id = 1 and holder = {me}");
        let _turn = self.turn().await;
        self.inner.pool.execute_unprepared(&release).await?;
        Ok(())
    }

    async fn has_table(&self, table: &str) -> Result<bool> {
        let find = match self.inner.hot {
            Hot::Postgres(_) => format!(
                "select 1 from information_schema.tables \
                 where table_schema = current_schema() and table_name = '{table}'"
            ),
            Hot::MySql(_) => format!(
                "select 1 from information_schema.tables \
                 where table_schema = database() and table_name = '{table}'"
            ),
            Hot::Sqlite(_) => {
                format!("select 1 from sqlite_master where type = 'table' and name = '{table}'")
            }
        };
        Ok(!self.query(&find).await?.is_empty())
    }

    pub(super) async fn query(&self, sql: &str) -> Result<Vec<sea_orm::QueryResult>> {
        let statement = Statement::from_string(self.inner.pool.get_database_backend(), sql);
        Ok(self.inner.pool.query_all_raw(statement).await?)
    }
}
