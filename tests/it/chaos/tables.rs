//! The tables of the run's database, as they are at its end.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait, DatabaseConnection, QueryResult, Statement};

use super::connect;
use super::proof::{Complaints, Place};

/// Jobs that are not cancelled: those are remembered for a day.
pub(super) const LIVE_JOBS: &str = "select count(*) from scheduler_job where priority < 3";
/// Commands that nobody has carried out; the answers of the others are kept for a day.
pub(super) const WAITING_COMMANDS: &str = "select count(*) from scheduler_command where state = 0";

/// A row of the ledger.
#[derive(Debug)]
pub(super) struct LedgerRow {
    pub(super) next_offset: i64,
    pub(super) jobs: i64,
    pub(super) duplicates: i64,
    pub(super) operations: i64,
    pub(super) dead_letters: i64,
    pub(super) records: i64,
    pub(super) parked: i64,
}

/// The tables of the run's database.
#[derive(Debug)]
pub(super) struct Tables {
    connection: DatabaseConnection,
}

impl Tables {
    pub(super) async fn open(url: &str) -> Self {
        Self { connection: connect(url).await }
    }

    /// What a query for one 64-bit integer says.
    pub(super) async fn number(&self, sql: &str) -> i64 {
        let rows = self.rows(sql).await;
        let row = rows.first().unwrap_or_else(|| panic!("{sql}: no row"));
        row.try_get_by_index(0).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(super) async fn ledger(&self) -> Vec<(i32, LedgerRow)> {
        let sql = "select number, next_offset, jobs, duplicates, operations, dead_letters, \
                   records, parked from scheduler_ingest_offset order by number";
        let row = |row: &QueryResult| {
            let at = |place| row.try_get_by_index(place).expect("a number");
            let row_of = LedgerRow {
                next_offset: at(1),
                jobs: at(2),
                duplicates: at(3),
                operations: at(4),
                dead_letters: at(5),
                records: at(6),
                parked: at(7),
            };
            (row.try_get_by_index(0).expect("a partition"), row_of)
        };
        self.rows(sql).await.iter().map(row).collect()
    }

    /// The record and the kind of each dead letter.
    pub(super) async fn letters(&self) -> Vec<(Option<Place>, String)> {
        let row = |row: &QueryResult| {
            let number: Option<i32> = row.try_get_by_index(0).expect("a partition");
            let offset: Option<i64> = row.try_get_by_index(1).expect("an offset");
            (number.zip(offset), row.try_get_by_index(2).expect("a kind"))
        };
        let rows = self.rows("select number, source_offset, kind from scheduler_dead_letter").await;
        rows.iter().map(row).collect()
    }

    /// The jobs that were given up because of interruptions, each of which the letter names.
    pub(super) async fn interrupted(&self, complaints: &mut Complaints) -> BTreeMap<String, Place> {
        let sql = "select request_id, number, source_offset, message from scheduler_dead_letter \
                   where kind = 'interrupted' and number is not null";
        let mut interrupted = BTreeMap::new();
        for row in self.rows(sql).await {
            let message: String = row.try_get_by_index(3).expect("a message");
            let instances = message.matches("chaos-").count();
            complaints.expect(instances == 4, || format!("interrupted by what? {message}"));
            let at = |column| row.try_get_by_index(column).expect("a number");
            let place = (row.try_get_by_index(1).expect("a partition"), at(2));
            interrupted.insert(row.try_get_by_index(0).expect("a request"), place);
        }
        interrupted
    }

    async fn rows(&self, sql: &str) -> Vec<QueryResult> {
        let statement = Statement::from_string(self.connection.get_database_backend(), sql);
        let rows = self.connection.query_all_raw(statement).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}
