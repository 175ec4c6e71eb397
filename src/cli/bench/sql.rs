//! Plain questions to the database that is measured: what a store never asks.

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, Statement};

/// A connection for questions that are rare.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    connection: DatabaseConnection,
}

impl Sql {
    pub(super) async fn connect(url: &str) -> Result<Self, DbErr> {
        // sea-orm knows MariaDB by MySQL's name only.
        let mut options = ConnectOptions::new(url.replacen("mariadb:", "mysql:", 1));
        options.max_connections(1).sqlx_logging(false);
        Ok(Self { connection: Database::connect(options).await? })
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<(), DbErr> {
        self.connection.execute_unprepared(sql).await?;
        Ok(())
    }

    /// The first column's texts.
    pub(super) async fn texts(&self, sql: &str) -> Result<Vec<String>, DbErr> {
        let rows = self.connection.query_all_raw(self.statement(sql)).await?;
        rows.iter().map(|row| row.try_get_by_index(0)).collect()
    }

    /// One number.
    pub(super) async fn number(&self, sql: &str) -> Result<i64, DbErr> {
        let row = self.connection.query_one_raw(self.statement(sql)).await?;
        let none = || DbErr::RecordNotFound(sql.to_owned());
        row.ok_or_else(none)?.try_get_by_index(0)
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "closing a connection failed");
        }
    }

    fn statement(&self, sql: &str) -> Statement {
        Statement::from_string(self.connection.get_database_backend(), sql)
    }
}
