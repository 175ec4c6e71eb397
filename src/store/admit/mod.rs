//! Admission: writes a batch of requests, and updates the rows that it came from, in one transaction.
//!
//! A batch is first written as if it had no duplicates. If it does, a unique key is violated and the
//! whole transaction is rolled back. Then the existing rows are read, duplicates and conflicts are
//! decided by them, and the batch is written again. So it is the database that detects duplicates,
//! and a batch without duplicates needs no look-up.

mod batch;
mod side_writes;
mod halves;
mod known;
pub(super) mod mysql;
mod plan;
pub(super) mod postgres;
pub(super) mod sqlite;

use std::sync::Arc;

use super::{Driver, Error, Result, Store};

pub use batch::{
    Admitted, Advance, Asked, Batch, BatchSource, Decision, Entry, PlacedCandidate,
    PlacedOperation, Taken, Told, Wait,
};
pub use plan::Names;

use known::Known;
use plan::Plan;

/// How many times a batch is written when other transactions admit the same requests or keys.
const RACES: usize = 8;

impl Store {
    /// Admits a batch, all of it or nothing. If the database refuses a row because of its content,
    /// that row is found by bisection and becomes a dead letter, and the others are admitted.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is unknown whether the batch was committed, because the answer
    /// may be lost; the ledger row shows it. [`Error::Refused`] only for a batch without records.
    pub async fn admit(&self, batch: &Arc<Batch>) -> Result<Admitted> {
        match self.admit_whole(batch).await {
            Err(Error::Refused(cause)) if batch.source.ledger().is_some() => {
                Box::pin(self.admit_halves(batch, cause)).await
            }
            Err(Error::Unclear(cause)) => Box::pin(self.admit_unclear(batch, cause)).await,
            result => result,
        }
    }

    /// A dry run: what [`admit`](Self::admit) would decide at the moment, if the batches of earlier
    /// dry runs with the same `names` had been admitted. Nothing is written.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn foresee(&self, batch: &Batch, names: &mut Names) -> Result<Vec<Decision>> {
        Ok(Plan::after(names, batch, &self.known(batch).await?).decisions)
    }

    async fn admit_whole(&self, batch: &Arc<Batch>) -> Result<Admitted> {
        let mut known = match batch.read_first || batch.has_operations() {
            true => self.known(batch).await?,
            false => Known::default(),
        };
        for _ in 0..RACES {
            let plan = Plan::of(batch, &known);
            match self.write(batch, plan).await {
                Err(Error::Raced(_)) => known = self.known(batch).await?,
                result => return result,
            }
        }
        Err(Error::Unavailable(
            "other transactions admit the same requests at the same time".into(),
        ))
    }

    /// Inserts the batch's jobs and keys, and rolls back, to see whether the database accepts them.
    ///
    /// # Errors
    /// The error of the database.
    async fn insert_and_roll_back(&self, batch: &Batch) -> Result<()> {
        let plan = Plan::of(batch, &Known::default());
        match &self.inner.driver {
            Driver::Postgres(pool) => postgres::insert_and_roll_back(pool, batch, &plan).await,
            Driver::MySql(pool) => mysql::insert_and_roll_back(pool, batch, &plan).await,
            // SQLite never returns `Error::Unclear`.
            Driver::Sqlite(_) => Ok(()),
        }
    }

    async fn write(&self, batch: &Arc<Batch>, plan: Plan) -> Result<Admitted> {
        if plan.is_a_refusal(batch) {
            return Ok(Admitted::Done(plan.decisions));
        }
        match &self.inner.driver {
            Driver::Postgres(pool) if plan.is_plain() => {
                postgres::write_plain(pool, batch, plan).await
            }
            Driver::Postgres(pool) => postgres::write(pool, batch, plan).await,
            Driver::MySql(pool) => mysql::write(pool, batch, plan).await,
            Driver::Sqlite(sqlite) => {
                let batch = batch.clone();
                let done = |admitted: &Admitted| matches!(admitted, Admitted::Done(_));
                let write = move |connection: &_| sqlite::write(connection, &batch, &plan);
                sqlite.write_if(done, write).await
            }
        }
    }
}
